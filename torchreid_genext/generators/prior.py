"""Who might be: a small diffusion model over identity codes, GenerativePersonReID's "auxiliary generator".

It draws codes of people who are in no data set. Departure: it is fitted on the codes of trained identities
only; the authors' also learnt the untouched rows of their table, so half of its samples crowd around one
point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext import checkpoints
from torchreid_genext.generators import _diffusion
from torchreid_genext.generators._diffusion import AngleSchedule, Estimate, Normalizer, Rates
from torchreid_genext.generators._layers import initialize
from torchreid_genext.generators._saving import Saved

__all__ = ["CodePrior", "prior_loss"]

_KERAS_LAYERS = ("dense", "dense_1", "dense_2", "dense_3")  # in the authors' file, in the order of ours


class CodePrior(Saved):
    """A dense denoiser of codes that answers with the signal, and its sampler.

    Args:
        code_width: of an identity code.
        width: of a hidden layer.
        embedding_width: of the embedding of the noise variance, which joins after each hidden layer.
        layers: hidden layers.
        max_signal_rate, min_signal_rate: of `AngleSchedule`.
    """

    kind = "prior"

    def __init__(
        self,
        code_width: int = 32,
        *,
        width: int = 512,
        embedding_width: int = 32,
        layers: int = 3,
        max_signal_rate: float = 0.95,
        min_signal_rate: float = 0.02,
    ) -> None:
        super().__init__()
        self.config = {
            "code_width": code_width, "width": width, "embedding_width": embedding_width, "layers": layers,
            "max_signal_rate": max_signal_rate, "min_signal_rate": min_signal_rate,
        }  # fmt: skip
        self.code_width, self.embedding_width = code_width, embedding_width
        self.schedule = AngleSchedule(max_signal_rate, min_signal_rate)
        inputs = [code_width, *[width + embedding_width] * layers]
        self.layers = nn.ModuleList(map(nn.Linear, inputs, [width] * layers + [code_width]))
        self.normalizer = Normalizer(torch.zeros(code_width), torch.ones(code_width))
        initialize(self)

    def fit_normalizer(self, codes: Tensor) -> None:
        """Take mean and variance of each dimension from codes (N, D); they are kept with the weights.

        Raises:
            ValueError: if there is no code, or codes have another width.
        """
        if codes.ndim != 2 or not len(codes) or codes.shape[1] != self.code_width:
            raise ValueError(f"expected one or more codes (N, {self.code_width}), got {tuple(codes.shape)}")
        statistics = Normalizer(codes.mean(0), codes.var(0, correction=0))
        self.normalizer = statistics.to(self.normalizer.mean.device)

    def predict(self, noisy: Tensor, variance: Tensor) -> Tensor:
        """Noisy normalised codes (B, D) under noise variances (B,) to the signal (B, D)."""
        embedding, x = _diffusion.sinusoidal(variance, self.embedding_width), noisy
        for layer in self.layers[:-1]:
            x = torch.cat([F.silu(layer(x)), embedding.to(noisy.dtype)], dim=1)
        return self.layers[-1](x)

    def denoise(self, noisy: Tensor, rates: Rates) -> Estimate:
        """Noisy normalised codes (B, D) under rates (B,), taken apart."""
        output = self.predict(noisy, rates.noise**2).float()
        return _diffusion.estimate("signal", output, noisy, rates)

    def forward(self, noise: Tensor, *, steps: int = 50) -> Tensor:
        """Draw codes.

        Args:
            noise: standard normal, (B, D).
            steps: of the sampler; officially 50.

        Returns:
            Codes (B, D).

        Raises:
            ValueError: if there is no step.
        """
        return self.normalizer.inverse(self.generate_normalized(noise, steps=steps))

    def generate_normalized(self, noise: Tensor, *, steps: int = 50) -> Tensor:
        """As `forward`, in units of the normaliser."""
        return _diffusion.sample(self.denoise, noise, steps, self.schedule)

    @classmethod
    def from_official(cls, path: str | Path) -> CodePrior:
        """Read ``auxiliary_generator.hdf5`` of the authors; it has no statistics, so codes stay normalised.

        Raises:
            FileNotFoundError: if there is no such file.
            ImportError: if h5py is missing.
            ValueError: if it is another file; names what is missing, unexpected, or of another shape.
        """
        prior = cls()
        checkpoints.fill(prior, _from_keras(checkpoints.read_hdf5(path)), path, ignore=["normalizer"])
        return prior.eval()


def _from_keras(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names; Keras keeps kernels as (in, out). What is not known is left for `fill` to complain of."""
    names = {
        f"{layer}/{layer}/{part}:0": f"layers.{i}.{ours}"
        for i, layer in enumerate(_KERAS_LAYERS)
        for part, ours in (("kernel", "weight"), ("bias", "bias"))
    }
    return {names.get(name, name): tensor.T if tensor.ndim == 2 else tensor for name, tensor in state.items()}


def prior_loss(prior: CodePrior, codes: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean absolute error of the signal in normalised units, per code (B,).

    Args:
        codes: (B, D). t: times in 0 .. 1, (B,). noise: standard normal, (B, D).
    """
    x, rates = prior.normalizer(codes), prior.schedule(t)
    predicted = prior.predict(rates.mix(x, noise), rates.noise**2).float()
    return (predicted - x).abs().mean(1)
