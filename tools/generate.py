"""Draw what a generator has learnt, as pictures to look at.

python tools/generate.py --generator identity
python tools/generate.py --generator identity --weights log/synthreid_genid --output log/pictures --seed 3

identity: people under the same noises, people from the prior, reconstructions of unseen images with their L1
and SSIM, ways between two people, and arithmetic with codes. The shipped weights are the default.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

import torchreid_genext as genext
from torchreid_genext import checkpoints
from torchreid_genext.data.memory import ImageTensor, load_images
from torchreid_genext.generators import build_generator, list_generators
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, refine
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes import pictures

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained/synthreid"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    genext.register()
    for name, draw in identity_pictures(arguments):
        begun = time.perf_counter()
        with torch.inference_mode():
            figure = draw()
        path = Path(arguments.output, f"{name}.png")
        with checkpoints.atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")
        print(f"{path} in {time.perf_counter() - begun:.1f} s")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generator", default="identity", choices=list_generators())
    parser.add_argument("--weights", default=str(SHIPPED), help="folder of a training, or of its results")
    parser.add_argument("-s", "--source", default="synthreid", help="data set whose people are drawn")
    parser.add_argument(
        "--split", default="query", help="images that are reconstructed: train, query, gallery"
    )
    parser.add_argument("--root", default="reid-data", help="folder that holds the data sets")
    parser.add_argument("--output", default="log/pictures", help="folder of the pictures")
    parser.add_argument("--people", type=int, default=8, help="rows of a picture")
    parser.add_argument("--noises", type=int, default=8, help="columns of a picture")
    parser.add_argument(
        "--steps", type=int, default=10, help="of the sampler, where images are reconstructed"
    )
    parser.add_argument(
        "--refine", type=int, default=0, help="steps that sharpen the codes of reconstructions"
    )
    parser.add_argument("--seed", type=int, default=0, help="of people and noises")
    return parser.parse_args(argv)


def identity_pictures(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable]]:
    """Names of pictures, and what draws them; those whose network is missing are left out, and said so."""
    folder, people, noises = Path(arguments.weights), arguments.people, arguments.noises
    generator = build_generator(arguments.generator, needed(folder, "generator", "gen"))
    inverter = optional(Inverter, folder, "inverter")
    prior = optional(CodePrior, folder, "prior")
    everyone = people_of(generator, inverter, load(arguments, generator, "train"))
    shown = choose(everyone, people, seeded(arguments.seed))
    yield "identities", lambda: pictures.identities(generator, shown, noises, seeded(arguments.seed))
    yield "interpolations", lambda: pictures.interpolations(generator, shown, noises, seeded(arguments.seed))
    yield "arithmetic", lambda: pictures.arithmetic(generator, everyone, shown, seeded(arguments.seed))
    if prior:
        yield "imagined", lambda: pictures.imagined(generator, prior, people, noises, seeded(arguments.seed))
    if inverter:
        unseen = load(arguments, generator, arguments.split)
        images = one_of_each(unseen, people, seeded(arguments.seed))
        find = partial(codes_of, generator, inverter, arguments.refine)
        yield (
            "reconstructions",
            lambda: pictures.reconstructions(generator, images, find, steps=arguments.steps),
        )


def people_of(generator: IdentityGenerator, inverter: Inverter | None, seen: ImageTensor) -> pictures.People:
    if generator.trained.any():
        return pictures.people_of_table(generator, seen)
    if inverter is None:
        raise ValueError("expected a generator with a table of people, or an inverter beside it, got neither")
    with torch.inference_mode():
        return pictures.people_of_images(inverter, seen)


def codes_of(
    generator: IdentityGenerator, inverter: Inverter, steps: int, images: torch.Tensor
) -> torch.Tensor:
    return refine(generator, images, inverter(images), steps=steps, unit=inverter.unit)


def choose(everyone: pictures.People, count: int, random: torch.Generator) -> pictures.People:
    rows = torch.randperm(len(everyone), generator=random)[:count].tolist()
    names = tuple(everyone.names[row] for row in rows)
    return pictures.People(everyone.codes[rows], everyone.examples[rows], everyone.averages[rows], names)


def one_of_each(images: ImageTensor, count: int, random: torch.Generator) -> torch.Tensor:
    """An image of each of a few people, (count, 3, H, W) in [0, 1]."""
    people = images.pids.unique()
    chosen = people[torch.randperm(len(people), generator=random)[:count]]
    return torch.stack([images.images[images.pids == person][0] for person in chosen]).float() / 255


def load(arguments: argparse.Namespace, generator: IdentityGenerator, split: str) -> ImageTensor:
    height, width = generator.image_size
    return load_images(arguments.source, arguments.root, height=height, width=width, split=split)


def needed(folder: Path, name: str, stage: str = "") -> Path:
    """The file of a network, in the folder or in that of its stage."""
    files = [folder / f"{name}.safetensors", folder / (stage or name) / f"{name}.safetensors"]
    found = [file for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(f"expected {name}.safetensors in {folder} or {files[1].parent}, got none")
    return found[0]


def optional(kind: type[Saved], folder: Path, name: str) -> Saved | None:
    try:
        return kind.load(needed(folder, name))
    except FileNotFoundError as error:
        logging.warning("pictures that need the %s are left out: %s", name, error)
        return None


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
