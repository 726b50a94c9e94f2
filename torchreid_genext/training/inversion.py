"""How an image is turned back into what made it: identity code and noise (GenerativePersonReID).

The authors train on synthetic pairs only, which leaves a gap to real images; here real ones may join.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from tqdm import trange

from torchreid_genext import visualization
from torchreid_genext.generators.identity import IdentityGenerator, denoising_loss
from torchreid_genext.generators.inverter import Inverter, NoiseInverter
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.processes import own_rows
from torchreid_genext.training.identity import Augment, IdentityLosses, check_share, times_and_noise, to_float
from torchreid_genext.training.task import Phase

__all__ = ["InverterTask", "NoiseInverterTask", "SyntheticPairs"]

_SHOWN = 6  # people in a picture
_POOL_SEED, _POOL_BATCH = 0, 128


class SyntheticPairs:
    """People who do not exist: what a frozen generator makes of the codes that a prior draws.

    Args:
        generator, prior: frozen; used as they are at the time of a call.
        steps: of the generator's sampler. prior_steps: of the prior's.
        pool: how many pairs are made once, at the first call, and drawn from; 0 makes new ones each time.
    """

    def __init__(
        self,
        generator: IdentityGenerator,
        prior: CodePrior,
        *,
        steps: int = 10,
        prior_steps: int = 50,
        pool: int = 0,
    ) -> None:
        self.generator, self.prior = generator, prior
        self.steps, self.prior_steps = steps, prior_steps
        self.pool_size, self._pool = pool, None

    def __call__(self, count: int, random: Generator) -> tuple[Tensor, Tensor]:
        """Images (count, 3, H, W) in [0, 1] and their codes (count, D)."""
        if not self.pool_size or not count:
            return self._new(count, random)
        if self._pool is None:
            self._pool = self._fill_pool(random.device)
        rows = own_rows(
            lambda rows: torch.randint(self.pool_size, (rows,), generator=random, device=random.device),
            count, random,
        )  # fmt: skip
        images, codes = self._pool
        return to_float(images[rows]), codes[rows]

    def _fill_pool(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """uint8 images and codes; the same ones after an interruption."""
        random = Generator(device).manual_seed(_POOL_SEED)
        starts = trange(0, self.pool_size, _POOL_BATCH, desc="synthetic pairs", unit="batch", disable=None)
        pairs = [self._new(min(_POOL_BATCH, self.pool_size - start), random) for start in starts]
        images, codes = map(torch.cat, zip(*pairs, strict=True))
        return (images * 255).round().to(torch.uint8), codes

    @torch.no_grad()
    def _new(self, count: int, random: Generator) -> tuple[Tensor, Tensor]:
        def draw(*shape: int) -> Tensor:
            normal = functools.partial(torch.randn, generator=random, device=random.device)
            return own_rows(lambda rows: normal(rows, *shape), count, random)

        code = self.prior(draw(self.prior.code_width), steps=self.prior_steps)
        noise = draw(3, *self.generator.image_size)
        return (self.generator(code, noise, steps=self.steps) if count else noise), code


class InverterTask:
    """Images to codes, with a frozen generator.

    Synthetic pairs are the authors': a code of the prior, noise, and the image that the generator makes of
    both. Real ones are ours: an image and the code of its person in the table; then the frozen generator also
    has to denoise the image under the code that was found, and losses of re-identification may join.

    Args:
        inverter: trained in place. classifier: codes to logits, trained along.
        optimizer: of the parameters of both.
        synthetic: makes synthetic pairs; its generator and prior are frozen.
        augment: of what the inverter sees.
        data: ``synthetic`` (official), ``real``, or ``mixed``, half of the batch each.
        denoised: share of the real images that are denoised, in 0 .. 1. denoising: weight of that.
        losses: of re-identification on real images; None for none.

    Raises:
        ValueError: if the kind of data is unknown.
    """

    KINDS = ("synthetic", "real", "mixed")

    def __init__(
        self,
        inverter: Inverter,
        classifier: nn.Module,
        optimizer: Optimizer,
        synthetic: SyntheticPairs,
        *,
        augment: Augment,
        data: str = "mixed",
        denoised: float = 1.0,
        denoising: float = 1.0,
        losses: IdentityLosses | None = None,
    ) -> None:
        if data not in self.KINDS:
            raise ValueError(f"unknown kind of data {data!r}; choose from {', '.join(self.KINDS)}")
        self.modules: dict[str, nn.Module] = {
            "inverter": inverter, "classifier": classifier,
            "generator": synthetic.generator, "prior": synthetic.prior,
        }  # fmt: skip
        self.phases = {"invert": Phase(optimizer, ("inverter", "classifier"))}
        self.synthetic, self.augment, self.data = synthetic, augment, data
        self.denoised, self.denoising, self.losses = check_share(denoised), denoising, losses

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`; `batch` has uint8 `images`, `labels`, and maybe `others` of the same people."""
        real = {"synthetic": 0, "real": len(batch.images), "mixed": len(batch.images) // 2}[self.data]
        made, wanted = self.synthetic(len(batch.images) - real, random)
        images, labels = _in_pairs(batch, real)
        clean = to_float(images)
        shown = self.augment(torch.cat([clean, made]), random)
        code = self.modules["inverter"](shown).float()
        table = self.modules["generator"].table(labels)
        error = self._distance(code, torch.cat([table, wanted]))
        total, parts = self._real(clean, code[:real], labels, random)
        return error + total, {"code": error, **parts}

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared error in units of the spread of codes, whatever the scale of the table."""
        return F.mse_loss(found, wanted) / self.modules["prior"].normalizer.variance.mean()

    def _real(
        self, images: Tensor, code: Tensor, labels: Tensor, random: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = code.new_zeros(()), {}
        if len(images) and self.denoising:
            count = max(1, round(self.denoised * len(images)))
            times = times_and_noise(images[:count], random)
            error = denoising_loss(self.modules["generator"], images[:count], code[:count], *times)
            parts["denoising"] = error.mean()
            total = total + self.denoising * parts["denoising"]
        if len(images) and self.losses:
            loss, of_identity = self.losses(code, labels, self.modules["classifier"])
            return total + loss, parts | of_identity
        return total, parts

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """Above synthetic people, below those made of the codes that are found, by the same noise."""
        prior, generator = self.modules["prior"], self.modules["generator"]
        code = prior(torch.randn(_SHOWN, prior.code_width, generator=random, device=random.device))
        noise = torch.randn(_SHOWN, 3, *generator.image_size, generator=random, device=random.device)
        images = generator(code, noise)
        again = generator(self.modules["inverter"](images), noise)
        return {"inverted": visualization.image_grid(torch.stack([images, again]).cpu().numpy())}


def _in_pairs(batch: Any, count: int) -> tuple[Tensor, Tensor]:
    """So many images and labels; two of each person if there are others, for ranking needs both."""
    second = count // 2 if hasattr(batch, "others") else 0
    rows = torch.cat([torch.arange(count - second), torch.arange(second)]).to(batch.labels.device)
    images = (
        torch.cat([batch.images[: count - second], batch.others[:second]]) if second else batch.images[:count]
    )
    return images, batch.labels[rows]


class NoiseInverterTask:
    """Images to noise: what the frozen generator makes of it under the same code must be the image again.

    Args:
        inverter: trained in place. optimizer: of its parameters.
        synthetic: makes synthetic pairs; its generator and prior are frozen, and all steps of the generator's
            sampler are differentiated.
    """

    def __init__(self, inverter: NoiseInverter, optimizer: Optimizer, synthetic: SyntheticPairs) -> None:
        self.modules: dict[str, nn.Module] = {
            "inverter": inverter, "generator": synthetic.generator, "prior": synthetic.prior
        }  # fmt: skip
        self.phases = {"invert": Phase(optimizer, ("inverter",))}
        self.synthetic = synthetic

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Of `batch` only the length counts."""
        images, code = self.synthetic(len(batch.images), random)
        return F.l1_loss(self._again(images, code), images), {}

    def _again(self, images: Tensor, code: Tensor) -> Tensor:
        noise = self.modules["inverter"](images).float()
        return self.modules["generator"](code, noise, steps=self.synthetic.steps)

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """Above synthetic people, below what comes back."""
        images, code = self.synthetic(_SHOWN, random)
        both = torch.stack([images, self._again(images, code)])
        return {"noise": visualization.image_grid(both.cpu().numpy())}
