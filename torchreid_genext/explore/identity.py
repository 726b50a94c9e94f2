"""A person's code: the same person under other noises, ways between two people, and traits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import normalize

from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.data.images.reading import readable_images
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.identity import IdentityGenerator, interpolate
from torchreid_genext.generators.inverter import Inverter
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.drawing.pictures import TRAITS, People, people_of_images, trait_direction

__all__ = ["TRAITS", "Coder", "Person"]

_MOST = 12  # pictures of an answer
_STEPS = 10  # of the sampler, as officially


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody: who it is, and one picture of them.

    Attributes:
        code: identity code (D,).
        noise: what, with the code, is the picture, (3, H, W).
    """

    code: Tensor
    noise: Tensor


class Coder:
    """Identity codes of pictures, and pictures of identity codes.

    Args:
        weights: folder of ``generator``, ``inverter`` and, for people who do not exist, ``prior``.
        paths: pictures of people whom traits are learnt from. pids: who is in each.
    """

    def __init__(self, weights: str | Path, paths: Sequence[str], pids: Sequence[int]) -> None:
        self._weights, self._paths, self._pids = Path(weights), paths, pids
        self._lock = threading.RLock()

    def person(self, image: Image.Image, *, stretched: bool = True) -> Person:
        """Code and noise of a picture.

        Args:
            image: in RGB, of any size.
            stretched: give the code the length of those of the training. An inverter that is not sure of a
                stranger gives short ones, which look like everybody.

        Raises:
            FileNotFoundError: if there are no weights.
        """
        with self._lock, torch.no_grad():
            pixels = self._pixels(image)[None]
            code = self._inverter(pixels)
            code = self._stretched(code) if stretched else code
            return Person(code[0], self._generator.invert(pixels, code, steps=_STEPS)[0])

    def imagined(self, *, seed: int = 0) -> Person:
        """Somebody who does not exist.

        Raises:
            FileNotFoundError: if there is no prior.
        """
        with self._lock, torch.no_grad():
            prior, random = self._prior, _seeded(seed)
            code = prior(torch.randn(1, prior.code_width, generator=random))[0]
            return Person(code, self._generator.noise(1, random)[0])

    def noises(self, person: Person, count: int, *, seed: int = 0) -> list[Image.Image]:
        """The picture again, and the person under other noises, which decide on all but the person."""
        _check(count)
        with self._lock:
            noise = torch.cat([person.noise[None], self._generator.noise(count, _seeded(seed))])
        return self._drawn(person.code.expand(len(noise), -1), noise)

    def way(self, first: Person, second: Person, count: int, *, arc: bool = False) -> list[Image.Image]:
        """From one person to another, both included, under the noise of the first.

        Args:
            first, second: people.
            count: of pictures, in 2 .. 12.
            arc: between directions of codes, and not along the straight line.

        Raises:
            ValueError: if the count is out of range.
        """
        _check(count, least=2)
        codes = interpolate(first.code, second.code, torch.linspace(0, 1, count), spherical=arc)
        return self._drawn(codes, first.noise.expand(count, -1, -1, -1))

    def trait(self, person: Person, trait: str, amounts: Sequence[float]) -> list[Image.Image]:
        """A person with less and with more of a trait, under the person's noise.

        Raises:
            ValueError: if the trait is unknown, or there are too many amounts.
        """
        _check(len(amounts))
        if trait not in TRAITS:
            raise ValueError(f"unknown trait {trait!r}; choose from {', '.join(TRAITS)}")
        with self._lock:
            direction = trait_direction(self._people, trait)
        codes = person.code + torch.tensor(amounts)[:, None] * direction
        return self._drawn(codes, person.noise.expand(len(amounts), -1, -1, -1))

    def _stretched(self, codes: Tensor) -> Tensor:
        trained = self._generator.trained_codes()
        return normalize(codes) * trained.norm(dim=1).mean() if len(trained) else codes

    def _drawn(self, codes: Tensor, noise: Tensor) -> list[Image.Image]:
        with self._lock, torch.no_grad():
            made = self._generator(codes, noise, steps=_STEPS)
        return [Image.fromarray(each) for each in (made * 255).round().byte().permute(0, 2, 3, 1).numpy()]

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
            people = people_of_images(self._inverter, ImageTensor(pixels, pids, pids, (*map(str, read),)))
        return replace(people, codes=self._stretched(people.codes))

    def _file(self, name: str) -> Path:
        path = self._weights / f"{name}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"expected {name}.safetensors of train-gen in {self._weights}, got none")
        return path


def _check(count: int, least: int = 1) -> None:
    if not least <= count <= _MOST:
        raise ValueError(f"expected {least}..{_MOST} pictures, got {count}")


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)
