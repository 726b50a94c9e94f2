"""All pictures of generative identity that a folder of weights allows for, drawn one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from torchreid_genext.data.images.in_memory import ImageTensor, load_images
from torchreid_genext.generators import build_generator
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, refine
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.drawing import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Wishes", "identity_pictures"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """What is to be drawn.

    Attributes:
        weights: folder of a training, or of its results.
        source: data set whose people are drawn. root: folder that holds it.
        split: images that are reconstructed: train, query, gallery.
        people: rows of a picture. noises: its columns.
        steps: of the sampler, where images are reconstructed.
        refine: steps that sharpen the codes of reconstructions.
        seed: of people and noises.
    """

    weights: str
    source: str = "synthreid"
    root: str = "reid-data"
    split: str = "query"
    people: int = 8
    noises: int = 8
    steps: int = 10
    refine: int = 0
    seed: int = 0


def identity_pictures(wishes: Wishes) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Names of pictures, and what draws them; those whose network is missing are left out, and said so.

    Raises:
        FileNotFoundError: if there is no generator.
        ValueError: if nobody is known of whom to draw a picture.
    """
    folder, people, noises = Path(wishes.weights), wishes.people, wishes.noises
    generator = build_generator("identity", _needed(folder, "generator", "gen"))
    inverter = _optional(Inverter, folder, "inverter")
    prior = _optional(CodePrior, folder, "prior")
    everyone = _people_of(generator, inverter, _load(wishes, generator, "train"))
    shown = _choose(everyone, people, _seeded(wishes.seed))
    yield "identities", lambda: pictures.identities(generator, shown, noises, _seeded(wishes.seed))
    yield "interpolations", lambda: pictures.interpolations(generator, shown, noises, _seeded(wishes.seed))
    yield "arithmetic", lambda: pictures.arithmetic(generator, everyone, shown, _seeded(wishes.seed))
    if prior:
        yield "imagined", lambda: pictures.imagined(generator, prior, people, noises, _seeded(wishes.seed))
    if inverter:
        unseen = _load(wishes, generator, wishes.split)
        images = _one_of_each(unseen, people, _seeded(wishes.seed))
        find = partial(_codes_of, generator, inverter, wishes.refine)
        yield (
            "reconstructions",
            lambda: pictures.reconstructions(generator, images, find, steps=wishes.steps),
        )


def _people_of(generator: IdentityGenerator, inverter: Inverter | None, seen: ImageTensor) -> pictures.People:
    if generator.trained.any():
        return pictures.people_of_table(generator, seen)
    if inverter is None:
        raise ValueError("expected a generator with a table of people, or an inverter beside it, got neither")
    with torch.inference_mode():
        return pictures.people_of_images(inverter, seen)


def _codes_of(generator: IdentityGenerator, inverter: Inverter, steps: int, images: Tensor) -> Tensor:
    return refine(generator, images, inverter(images), steps=steps, unit=inverter.unit)


def _choose(everyone: pictures.People, count: int, random: Generator) -> pictures.People:
    rows = torch.randperm(len(everyone), generator=random)[:count].tolist()
    names = tuple(everyone.names[row] for row in rows)
    return pictures.People(everyone.codes[rows], everyone.examples[rows], everyone.averages[rows], names)


def _one_of_each(images: ImageTensor, count: int, random: Generator) -> Tensor:
    """An image of each of a few people, (count, 3, H, W) in [0, 1]."""
    people = images.pids.unique()
    chosen = people[torch.randperm(len(people), generator=random)[:count]]
    return torch.stack([images.images[images.pids == person][0] for person in chosen]).float() / 255


def _load(wishes: Wishes, generator: IdentityGenerator, split: str) -> ImageTensor:
    height, width = generator.image_size
    return load_images(wishes.source, wishes.root, height=height, width=width, split=split)


def _needed(folder: Path, name: str, stage: str = "") -> Path:
    """The file of a network, in the folder or in that of its stage."""
    files = [folder / f"{name}.safetensors", folder / (stage or name) / f"{name}.safetensors"]
    found = [file for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(f"expected {name}.safetensors in {folder} or {files[1].parent}, got none")
    return found[0]


def _optional(kind: type[Saved], folder: Path, name: str) -> Saved | None:
    try:
        return kind.load(_needed(folder, name))
    except FileNotFoundError as error:
        _log.warning("pictures that need the %s are left out: %s", name, error)
        return None


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)
