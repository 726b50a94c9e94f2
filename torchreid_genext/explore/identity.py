"""A person's code: the same person under other noises, ways between two people, and traits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.data.images.reading import readable_images
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.identity import IdentityGenerator, interpolate
from torchreid_genext.generators.inverter import Inverter, refine
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.drawing.pictures import TRAITS, People, people_of_images, trait_direction

__all__ = ["TRAITS", "Coder"]

_MOST = 12  # pictures of an answer
_STEPS = 10  # of the sampler, as officially


class Coder:
    """Identity codes of pictures, and pictures of identity codes.

    Args:
        weights: folder of ``generator``, ``inverter`` and, for people who do not exist, ``prior``.
        paths: pictures of people whom traits are learnt from. pids: who is in each.
    """

    def __init__(self, weights: str | Path, paths: Sequence[str], pids: Sequence[int]) -> None:
        self._weights, self._paths, self._pids = Path(weights), paths, pids
        self._lock = threading.Lock()

    def codes(self, images: Sequence[Image.Image], *, sharpen: int = 0) -> Tensor:
        """Codes (B, D) of pictures of any size.

        Args:
            images: in RGB.
            sharpen: steps that ask the generator which code explains each picture best.

        Raises:
            FileNotFoundError: if there are no weights.
        """
        with self._lock, torch.no_grad():
            pixels = torch.stack([self._pixels(image) for image in images])
            found = self._inverter(pixels)
            return refine(self._generator, pixels, found, steps=sharpen, unit=self._inverter.unit)

    def noises(self, code: Tensor, count: int, *, seed: int = 0) -> list[Image.Image]:
        """A person (D,) under several noises, which decide on everything but the person."""
        self._check(count)
        return self._drawn(code.expand(count, -1), self._generator.noise(count, _seeded(seed)))

    def way(
        self, first: Tensor, second: Tensor, count: int, *, arc: bool = False, seed: int = 0
    ) -> list[Image.Image]:
        """From one person (D,) to another, both included, under one noise.

        Args:
            first, second: codes.
            count: of pictures, in 2 .. 12.
            arc: between directions, and not along the straight line.
            seed: of the noise.

        Raises:
            ValueError: if the count is out of range.
        """
        self._check(count, least=2)
        codes = interpolate(first, second, torch.linspace(0, 1, count), spherical=arc)
        return self._drawn(codes, self._one_noise(count, seed))

    def trait(
        self, code: Tensor, trait: str, amounts: Sequence[float], *, seed: int = 0
    ) -> list[Image.Image]:
        """A person (D,) with less and with more of a trait, under one noise.

        Raises:
            ValueError: if the trait is unknown, or there are too many amounts.
        """
        self._check(len(amounts))
        if trait not in TRAITS:
            raise ValueError(f"unknown trait {trait!r}; choose from {', '.join(TRAITS)}")
        with self._lock:
            direction = trait_direction(self._people, trait)
        codes = code + torch.tensor(amounts)[:, None] * direction
        return self._drawn(codes, self._one_noise(len(amounts), seed))

    def imagined(self, *, seed: int = 0) -> Tensor:
        """The code (D,) of somebody who does not exist.

        Raises:
            FileNotFoundError: if there is no prior.
        """
        prior = self._prior
        with self._lock, torch.no_grad():
            return prior(torch.randn(1, prior.code_width, generator=_seeded(seed)))[0]

    def _one_noise(self, count: int, seed: int) -> Tensor:
        return self._generator.noise(1, _seeded(seed)).expand(count, -1, -1, -1)

    def _drawn(self, codes: Tensor, noise: Tensor) -> list[Image.Image]:
        with self._lock, torch.no_grad():
            made = self._generator(codes, noise, steps=_STEPS)
        return [Image.fromarray(each) for each in (made * 255).round().byte().permute(0, 2, 3, 1).numpy()]

    def _check(self, count: int, least: int = 1) -> None:
        if not least <= count <= _MOST:
            raise ValueError(f"expected {least}..{_MOST} pictures, got {count}")

    def _pixels(self, image: Image.Image) -> Tensor:
        """(3, H, W) in [0, 1], resized as the inverter's training has it."""
        height, width = self._generator.image_size
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255

    @functools.cached_property
    def _generator(self) -> IdentityGenerator:
        return build_generator("identity", self._file("generator"))

    @functools.cached_property
    def _inverter(self) -> Inverter:
        return Inverter.load(self._file("inverter"))

    @functools.cached_property
    def _prior(self) -> CodePrior:
        return CodePrior.load(self._file("prior"))

    @functools.cached_property
    def _people(self) -> People:
        """Everyone in the pictures, with codes."""
        read = {row: self._pixels(image) for row, image in readable_images(self._paths, {})}
        pids = torch.as_tensor([int(self._pids[row]) for row in read])
        pixels = (torch.stack([*read.values()]) * 255).byte()
        with torch.no_grad():
            return people_of_images(self._inverter, ImageTensor(pixels, pids, pids, (*map(str, read),)))

    def _file(self, name: str) -> Path:
        path = self._weights / f"{name}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"expected {name}.safetensors of train-gen in {self._weights}, got none")
        return path


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)
