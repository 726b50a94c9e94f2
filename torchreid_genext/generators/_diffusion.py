"""Diffusion with continuous times, as GenerativePersonReID uses it for images and for identity codes.

A noisy sample is ``signal x + noise e`` with ``signal^2 + noise^2 = 1``. The rates are cosine and sine of an
angle that grows evenly with the time t from 0 to 1; even at t = 0 some noise is left, which is why the
sampler returns its last estimate of x and not the sample itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "PREDICTIONS", "AngleSchedule", "Estimate", "Normalizer", "Rates",
    "estimate", "invert", "sample", "sinusoidal", "target",
]  # fmt: skip

PREDICTIONS = ("eps", "v", "signal")
_HALF = 2.0**12  # float32 has 24 binary digits, so a product of two numbers of 12 is exact


class Rates(NamedTuple):
    """Shares of signal and noise in a sample, of any shape; their squares add up to 1."""

    signal: Tensor
    noise: Tensor

    def mix(self, x: Tensor, noise: Tensor) -> Tensor:
        """``signal x + noise e``, with rates per sample (B,)."""
        return _per_sample(self.signal, x) * x + _per_sample(self.noise, x) * noise


@dataclass(frozen=True)
class AngleSchedule:
    """Rates over time (``max_signal_rate`` at t = 0, ``min_signal_rate`` at t = 1).

    Raises:
        ValueError: unless 0 < min_signal_rate < max_signal_rate <= 1.
    """

    max_signal_rate: float = 0.95
    min_signal_rate: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.min_signal_rate < self.max_signal_rate <= 1:
            rule = "expected 0 < min_signal_rate < max_signal_rate <= 1"
            raise ValueError(f"{rule}, got {self.min_signal_rate} and {self.max_signal_rate}")

    def __call__(self, t: Tensor) -> Rates:
        """Rates at times `t` in 0 .. 1, of the shape of `t`."""
        first, last = math.acos(self.max_signal_rate), math.acos(self.min_signal_rate)
        angle = first + t * (last - first)
        return Rates(angle.cos(), angle.sin())


def sinusoidal(variance: Tensor, width: int, *, max_frequency: float = 1000.0) -> Tensor:
    """What a network is told about the noise: sines, then cosines, of its variance.

    Args:
        variance: squared noise rates, (B,), in 0 .. 1.
        width: even; half as many frequencies lie in geometric order between 1 and `max_frequency`.

    Returns:
        (B, width) of the dtype of `variance`. Phases reach 6,283 rad, so they are computed in float64 on the
        CPU, and elsewhere, where it may be missing, in parts that float32 holds without loss.

    Raises:
        ValueError: if the width is odd, or none.
    """
    if width < 2 or width % 2:
        raise ValueError(f"expected an even embedding width, got {width}")
    frequencies = torch.linspace(0, math.log(max_frequency), width // 2, dtype=torch.float64).exp()
    if variance.device.type == "cpu":
        phases = 2 * math.pi * variance.double()[:, None] * frequencies
    else:
        phases = 2 * math.pi * _turns(variance.float()[:, None], frequencies)
    return torch.cat([phases.sin(), phases.cos()], dim=1).to(variance.dtype)


def _turns(variance: Tensor, frequencies: Tensor) -> Tensor:
    """Their product but for whole turns, in float32, from halves of both.

    Args:
        variance: (B, 1) float32 in 0..1.
        frequencies: (F,) float64 on the CPU.
    """
    mantissa, exponent = frequencies.frexp()
    coarse = torch.ldexp((mantissa * _HALF).round() / _HALF, exponent)
    first, second = (each.float().to(variance.device) for each in (coarse, frequencies - coarse))
    large = (variance * _HALF).floor() / _HALF
    return (large * first).frac() + large * second + (variance - large) * (first + second)


class Estimate(NamedTuple):
    """What a network takes a noisy sample to be made of; both of its shape."""

    signal: Tensor
    noise: Tensor


def estimate(prediction: str, output: Tensor, noisy: Tensor, rates: Rates) -> Estimate:
    """Signal and noise from the output of a network.

    Args:
        prediction: what the output means: ``eps`` the noise, ``signal`` the sample, ``v`` their difference
            ``signal e - noise x`` (Salimans and Ho, ICLR 2022), which is well-conditioned at both ends.
        output: of the network, (B, ...). noisy: its input, (B, ...). rates: per sample, (B,).

    Raises:
        ValueError: if the prediction is unknown.
    """
    check_prediction(prediction)
    signal, noise = (_per_sample(rate, noisy) for rate in rates)
    if prediction == "eps":
        return Estimate((noisy - noise * output) / signal, output)
    if prediction == "signal":
        return Estimate(output, (noisy - signal * output) / noise)
    return Estimate(signal * noisy - noise * output, noise * noisy + signal * output)


def target(prediction: str, x: Tensor, noise: Tensor, rates: Rates) -> Tensor:
    """What the network should answer for `x` under `noise`; arguments as in `estimate`.

    Raises:
        ValueError: if the prediction is unknown.
    """
    check_prediction(prediction)
    if prediction == "v":
        return _per_sample(rates.signal, x) * noise - _per_sample(rates.noise, x) * x
    return noise if prediction == "eps" else x


def check_prediction(prediction: str) -> None:
    """Refuse a name that is none of `PREDICTIONS`."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; choose from {', '.join(PREDICTIONS)}")


Denoise = Callable[[Tensor, Rates], Estimate]


def sample(denoise: Denoise, noise: Tensor, steps: int, schedule: AngleSchedule) -> Tensor:
    """Turn noise into samples, deterministically (DDIM), in equal steps of time.

    Args:
        denoise: (noisy (B, ...), rates (B,)) -> `Estimate`.
        noise: the samples at t = 1, (B, ...), drawn from a standard normal distribution.
        steps: at least 1.

    Returns:
        The estimate of the signal at the last time, t = 1 / steps, of the shape of `noise`; not clipped.

    Raises:
        ValueError: if there is no step.
    """
    x = noise
    for now, then in _times(steps):
        found = denoise(x, _rates_at(schedule, now, x))
        x = _rates_at(schedule, then, x).mix(*found)
    return found.signal


def invert(denoise: Denoise, x: Tensor, steps: int, schedule: AngleSchedule, *, settle: int = 2) -> Tensor:
    """The noise from which `sample` comes back to `x`, approximately: its steps in reverse.

    Args:
        denoise, steps, schedule: as of `sample`.
        x: samples, (B, ...).
        settle: how often the noise at the first time is estimated anew, which starts from none.

    Raises:
        ValueError: if there is no step.
    """
    times = [now for now, _ in reversed(_times(steps))]
    rates, noise = _rates_at(schedule, times[0], x), torch.zeros_like(x)
    for _ in range(settle):
        noise = denoise(rates.mix(x, noise), rates).noise
    x = rates.mix(x, noise)
    for then in times[1:]:
        found = denoise(x, rates)
        rates = _rates_at(schedule, then, x)
        x = rates.mix(*found)
    return x


def _times(steps: int) -> list[tuple[float, float]]:
    """Pairs of this time and the next, from 1 to 0."""
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    return [(1 - k / steps, 1 - (k + 1) / steps) for k in range(steps)]


def _rates_at(schedule: AngleSchedule, t: float, x: Tensor) -> Rates:
    return schedule(torch.full((len(x),), t, device=x.device, dtype=torch.float32))


def _per_sample(rate: Tensor, x: Tensor) -> Tensor:
    return rate.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


class Normalizer(nn.Module):
    """Centre and scale each channel; the statistics live in the checkpoint.

    Args:
        mean: (C,). variance: (C,), not negative.
    """

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("variance", variance.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        return (x - self._shaped(self.mean, x)) / self._shaped(self.variance.sqrt().clamp_min(1e-7), x)

    def inverse(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape; images are to be clipped to [0, 1] afterwards."""
        return self._shaped(self.mean, x) + x * self._shaped(self.variance.sqrt(), x)

    @staticmethod
    def _shaped(statistic: Tensor, x: Tensor) -> Tensor:
        return statistic.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
