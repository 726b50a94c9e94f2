"""Diffusion at one time, of one sample."""

from __future__ import annotations

import numpy as np


def diffusion_rates(t: float, max_signal_rate: float = 0.95, min_signal_rate: float = 0.02):
    """Signal and noise rate at one time: an angle that grows evenly."""
    first, last = np.arccos(max_signal_rate), np.arccos(min_signal_rate)
    angle = first + t * (last - first)
    return np.cos(angle), np.sin(angle)


def sinusoidal(variance: float, width: int, max_frequency: float = 1000.0) -> list[float]:
    """One number embedded: sines, then cosines, at frequencies in geometric order."""
    half = width // 2
    frequencies = [max_frequency ** (i / (half - 1) if half > 1 else 0.0) for i in range(half)]
    waves = [2 * np.pi * frequency * variance for frequency in frequencies]
    return [np.sin(wave) for wave in waves] + [np.cos(wave) for wave in waves]


def network_says(prediction: str, signal: float, noise: float) -> tuple[float, float]:
    """What of x and what of the noise the output of a network is."""
    return {"eps": (0.0, 1.0), "signal": (1.0, 0.0), "v": (-noise, signal)}[prediction]


def taken_apart(prediction: str, output: np.ndarray, noisy: np.ndarray, signal: float, noise: float):
    """x and noise of one sample, pixel by pixel: two linear equations, what is seen and what is answered."""
    equations = np.array([[signal, noise], network_says(prediction, signal, noise)], dtype=np.float64)
    pixels = [np.linalg.solve(equations, pair) for pair in zip(noisy.ravel(), output.ravel())]
    return tuple(np.array(part).reshape(noisy.shape) for part in zip(*pixels))


def sampled(denoise, noise: np.ndarray, steps: int, **ends: float) -> np.ndarray:
    """DDIM of one sample; denoise: (noisy, signal rate, noise rate) -> (x, noise)."""
    noisy = noise
    for k in range(steps):
        x, left = denoise(noisy, *diffusion_rates(1 - k / steps, **ends))
        signal_rate, noise_rate = diffusion_rates(1 - (k + 1) / steps, **ends)
        noisy = signal_rate * x + noise_rate * left
    return x


def inverted(denoise, x: np.ndarray, steps: int, settle: int, **ends: float) -> np.ndarray:
    """The steps of DDIM backwards, from the last time at which a sample is looked at up to time 1."""
    rates = [diffusion_rates((k + 1) / steps, **ends) for k in range(steps)]
    noise = np.zeros_like(x)
    for _ in range(settle):
        noise = denoise(rates[0][0] * x + rates[0][1] * noise, *rates[0])[1]
    noisy = rates[0][0] * x + rates[0][1] * noise
    for now, then in zip(rates, rates[1:]):
        found, left = denoise(noisy, *now)
        noisy = then[0] * found + then[1] * left
    return noisy
