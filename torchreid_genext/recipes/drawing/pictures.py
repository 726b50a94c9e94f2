"""What generative identity looks like. A person must be recognised along a row, whatever the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from torchreid_genext import visualization
from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.evaluation import quality
from torchreid_genext.generators.identity import IdentityGenerator, interpolate
from torchreid_genext.generators.inverter import Inverter
from torchreid_genext.generators.prior import CodePrior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "TRAITS", "People", "arithmetic", "identities", "imagined", "interpolations", "people_of_images",
    "people_of_table", "reconstructions", "trait_direction",
]  # fmt: skip

_BATCH = 64  # images that are drawn together
_SHOULDERS, _HIPS, _FEET = 0.2, 0.5, 0.9  # where they are in an upright person's box, from its top
TRAITS = {  # name -> (part of the image, the value that tells it, from the mean colour of the part)
    "brighter top": ((_SHOULDERS, _HIPS), lambda colour: colour.mean(-1)),
    "redder top": ((_SHOULDERS, _HIPS), lambda colour: colour[..., 0] - colour.mean(-1)),
    "brighter legs": ((_HIPS, _FEET), lambda colour: colour.mean(-1)),
    "bluer legs": ((_HIPS, _FEET), lambda colour: colour[..., 2] - colour.mean(-1)),
}


@dataclass(frozen=True)
class People:
    """Some people and how they look.

    Attributes:
        codes: (P, D). examples: an image of each, (P, 3, H, W) in [0, 1].
        averages: the mean of each one's images, (P, 3, H, W).
        names: of each.
    """

    codes: Tensor
    examples: Tensor
    averages: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)


def people_of_table(generator: IdentityGenerator, images: ImageTensor) -> People:
    """Everyone whom the generator was trained on and who is in these images, with the codes of the table.

    Raises:
        ValueError: if there is no such person.
    """
    people = images.pids.unique()
    rows = (people < len(generator.trained)).nonzero().flatten()
    rows = rows[generator.trained[people[rows]]]
    if not len(rows):
        raise ValueError("expected images of people in the generator's table, got none")
    return _people(generator.table.weight.detach()[people[rows]], images, rows)


def people_of_images(inverter: Inverter, images: ImageTensor) -> People:
    """Everyone in these images, with the mean of the codes that the inverter finds."""
    people = images.pids.unique()
    codes = torch.cat([inverter(part.float() / 255) for part in images.images.split(_BATCH)])
    means = torch.stack([codes[images.pids == person].mean(0) for person in people])
    if inverter.unit:
        means = F.normalize(means, dim=1) * inverter.code_width**0.5
    return _people(means, images, torch.arange(len(people)))


def _people(codes: Tensor, images: ImageTensor, rows: Tensor) -> People:
    """Those of the people of these images whose rows are given, with their codes."""
    people, averages = images.averages()
    first = [int((images.pids == person).nonzero()[0]) for person in people[rows]]
    examples = images.images[first].float() / 255
    return People(codes, examples, averages[rows], tuple(map(str, people[rows].tolist())))


def identities(generator: IdentityGenerator, people: People, noises: int, random: Generator) -> Figure:
    """A real image of each person, then the person under several noises, each the same along a column."""
    drawn = _grid(generator, people.codes, generator.noise(noises, random))
    return visualization.labelled_grid(
        torch.cat([people.examples[:, None], drawn], dim=1).numpy(),
        rows=[f"person {name}" for name in people.names],
        columns=["real", *_numbered("noise", noises)],
        title="Identities, each under the same noises",
    )


def imagined(
    generator: IdentityGenerator, prior: CodePrior, count: int, noises: int, random: Generator
) -> Figure:
    """People whom the prior has made up, under several noises."""
    codes = prior(torch.randn(count, prior.code_width, generator=random))
    return visualization.labelled_grid(
        _grid(generator, codes, generator.noise(noises, random)).numpy(),
        rows=_numbered("sample", count),
        columns=_numbered("noise", noises),
        title="People who do not exist, from the prior over codes",
    )


def reconstructions(
    generator: IdentityGenerator,
    images: Tensor,
    find: Callable[[Tensor], Tensor],
    *,
    steps: int = 10,
    swap: bool = True,
) -> Figure:
    """Images, the noise behind them, and what comes back of code and noise.

    Args:
        images: (B, 3, H, W) in [0, 1]. find: images to codes (B, D).
        steps: of the inversion to noise, and of the sampler.
        swap: also draw each image's noise under the code of the next, a second look at what codes hold.
    """
    codes = find(images)
    noise = generator.invert(images, codes, steps=steps)
    again = generator(codes, noise, steps=steps)
    rows = {"original": images, "its noise": (noise / 6 + 0.5).clamp(0, 1), "regenerated": again}
    if swap:
        rows["as the next"] = generator(codes.roll(-1, 0), noise, steps=steps)
    measured = zip(quality.l1(again, images).tolist(), quality.ssim(again, images).tolist(), strict=True)
    return visualization.labelled_grid(
        torch.stack(list(rows.values())).numpy(),
        rows=list(rows),
        captions=[f"L1 {l1:.3f}\nSSIM {ssim:.2f}" for l1, ssim in measured],
        title="Reconstruction from code and noise",
    )


def interpolations(generator: IdentityGenerator, people: People, columns: int, random: Generator) -> Figure:
    """Ways between the 1st and 2nd person, the 3rd and 4th, ...: straight lines and arcs, under one noise."""
    share = torch.linspace(0, 1, columns)
    pairs = list(zip(people.codes[::2], people.codes[1::2], strict=False))
    noise, kinds = generator.noise(1, random), {"line": False, "arc": True}
    codes = torch.cat([interpolate(*pair, share, spherical=s) for pair in pairs for s in kinds.values()])
    names = zip(people.names[::2], people.names[1::2], strict=False)
    return visualization.labelled_grid(
        _grid(generator, codes, noise).reshape(-1, columns, *noise.shape[1:]).numpy(),
        rows=[f"{a} to {b}, {kind}" for a, b in names for kind in kinds],
        columns=[f"{part:.2f}" for part in share.tolist()],
        title="From one person to another",
    )


def arithmetic(
    generator: IdentityGenerator, everyone: People, shown: People, random: Generator, *, columns: int = 7
) -> Figure:
    """People plus multiples of directions in which codes change with a trait.

    A trait is read from the colour of a part of the image; its direction leads from the mean code of the
    quarter of people who have least of it to that of the quarter who have most.
    """
    amounts, noise = torch.linspace(-1.5, 1.5, columns), generator.noise(1, random)
    rows, codes = [], []
    for place, name in enumerate(TRAITS):
        person = place % len(shown)
        codes.append(shown.codes[person] + amounts[:, None] * trait_direction(everyone, name))
        rows.append(f"{shown.names[person]}, {name}")
    return visualization.labelled_grid(
        _grid(generator, torch.cat(codes), noise).reshape(-1, columns, *noise.shape[1:]).numpy(),
        rows=rows,
        columns=[f"{amount:+.1f}" for amount in amounts.tolist()],
        title="Code arithmetic: a person plus a trait",
    )


def trait_direction(people: People, name: str) -> Tensor:
    """(D,), from those with least of a trait to those with most."""
    (top, bottom), value = TRAITS[name]
    height = people.averages.shape[2]
    part = people.averages[:, :, int(top * height) : int(bottom * height)]
    order = value(part.mean(dim=(2, 3))).argsort()
    quarter = max(1, len(people) // 4)
    return people.codes[order[-quarter:]].mean(0) - people.codes[order[:quarter]].mean(0)


def _grid(generator: IdentityGenerator, codes: Tensor, noise: Tensor) -> Tensor:
    """Codes (R, D) along rows, noises (C, 3, H, W) along columns: (R, C, 3, H, W)."""
    each = codes.repeat_interleave(len(noise), 0).split(_BATCH)
    below = noise.repeat(len(codes), 1, 1, 1).split(_BATCH)
    drawn = torch.cat([generator(code, start) for code, start in zip(each, below, strict=True)])
    return drawn.unflatten(0, (len(codes), len(noise)))


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i + 1}" for i in range(count)]
