"""How near generators come to photographs: pairs of images of a person, in the papers' own definitions.

PG2 (Ma et al., NIPS 2017) and the Deformable GAN (Siarohin et al., CVPR 2018) are judged on 12,000 pairs of
Market-1501, each by a structural similarity and a mask of its own. SSIM rewards blur: the truth reduced to
8 x 8 pixels is better than any generator. So it needs rows that say what it is worth, see ``baselines``, and
a judge of identity beside it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from tqdm import tqdm

from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.evaluation.quality import l1, masked_ssim, own_range, ssim
from torchreid_genext.generators.deformable import person_mask
from torchreid_genext.generators.pg2 import pose_mask

__all__ = ["Draw", "Judge", "PairScores", "PairTrial", "baselines", "identity", "read_pairs", "score"]

_HEADER = ["from", "to"]
_BATCH = 256  # pairs at a time

# Images (B, 3, H, W) in [0, 1], their joints and the wanted ones, (B, 18, 2) in pixels, and a generator of
# noise for each, to images (B, 3, H, W) in [0, 1].
Draw = Callable[[Tensor, Tensor, Tensor, list[Generator]], Tensor]
# Images (B, 3, H, W) in [0, 1] to features (B, D).
Encode = Callable[[Tensor], Tensor]


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of a CSV file with the columns ``from`` and ``to``: names of the given and the wanted image.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has other columns, or no pair; names the file and the line.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [[word.strip() for word in row] for row in csv.reader(file) if row]
    if not rows or rows[0] != _HEADER:
        found = ",".join(rows[0]) if rows else "nothing"
        raise ValueError(f"expected the columns {','.join(_HEADER)} in {path}, got {found}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2:
            raise ValueError(f"expected two names in {path}, line {number}, got {len(row)}")
    if len(rows) < 2:
        raise ValueError(f"expected a pair at least in {path}, got none")
    return [(source, target) for source, target in rows[1:]]


@dataclass(frozen=True, eq=False)
class PairTrial:
    """Pairs of photographs: one is given, the other is wanted.

    Attributes:
        images: all that pairs are made of, (M, 3, H, W) uint8.
        joints: of them, (M, 18, 2) as (y, x) pixels, -1 where nothing is seen.
        pids: who they show, (M,).
        source: places of the given ones in `images`, (N,).
        target: places of the wanted ones, (N,).
    """

    images: Tensor
    joints: Tensor
    pids: Tensor
    source: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, images: ImageTensor, joints: Mapping[str, np.ndarray], pairs: list[tuple[str, str]]
    ) -> PairTrial:
        """Pairs by name.

        Args:
            images: of a data set.
            joints: name of an image to (18, 2), in its pixels of the size that `images` have.
            pairs: names, as `read_pairs` reads them.

        Raises:
            ValueError: if an image of a pair is not there, has no joints, or shows another person.
        """
        place = {Path(path).name: row for row, path in enumerate(images.paths)}
        for name in (name for pair in pairs for name in pair):
            if name not in place or name not in joints:
                lacking = "in the data set" if name not in place else "with joints"
                raise ValueError(f"expected the image {name} of a pair {lacking}, got none")
        source, target = (torch.tensor([place[name] for name in names]) for names in zip(*pairs))
        strangers = (images.pids[source] != images.pids[target]).nonzero()[:, 0].tolist()
        if strangers:
            both = " and ".join(pairs[strangers[0]])
            raise ValueError(f"expected one person in a pair, got two in {both}")
        points = torch.full((len(images), 18, 2), -1.0)
        for name, row in place.items():
            if name in joints:
                points[row] = torch.as_tensor(joints[name], dtype=torch.float32)
        return cls(images.images, points, images.pids, source, target)

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def bodies(self) -> Tensor:
        """Where the persons of all images of pairs are by the Deformable GAN's mask, booleans (M, H, W)."""
        return self._masked(person_mask)

    @cached_property
    def limbs(self) -> Tensor:
        """The same by PG2's mask."""
        return self._masked(lambda joints, size: pose_mask(joints, size)[:, 0] > 0)

    def _masked(self, mask: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
        """Drawn once for all rows of a table: masks cost more than similarities."""
        masks = torch.zeros(len(self.images), *self.images.shape[2:], dtype=torch.bool)
        for rows in torch.cat([self.source, self.target]).unique().split(_BATCH):
            masks[rows] = mask(self.joints[rows], self.images.shape[2:])
        return masks

    def batches(self) -> Iterator[slice]:
        """Some pairs at a time."""
        return (slice(start, start + _BATCH) for start in range(0, len(self), _BATCH))

    def pictures(self, rows: Tensor) -> Tensor:
        """Some of the images, (B, 3, H, W) in [0, 1]."""
        return self.images[rows].float() / 255

    def drawn(self, draw: Draw, *, batch: int = 32, seed: int = 0) -> Tensor:
        """What a generator makes of all pairs, (N, 3, H, W) uint8; the noise of each is by its number."""
        made = torch.empty(len(self), *self.images.shape[1:], dtype=torch.uint8)
        for rows in tqdm(torch.arange(len(self)).split(batch), desc="generated", unit="batch", disable=None):
            noise = [Generator().manual_seed(seed + row) for row in rows.tolist()]
            source, target = self.source[rows], self.target[rows]
            images = draw(self.pictures(source), self.joints[source], self.joints[target], noise)
            made[rows] = images.mul(255).round_().clamp_(0, 255).byte()
        return made


@dataclass(frozen=True)
class PairScores:
    """Means over pairs.

    Attributes:
        pg2_ssim: PG2's definition: a square of 7 pixels. pg2_masked: of the body in the wanted image alone.
        deformable_ssim: the Deformable GAN's: a Gaussian, and the range of each made image.
        deformable_masked: of its own mask.
        l1: absolute difference, of images in [-1, 1].
    """

    pg2_ssim: float
    pg2_masked: float
    deformable_ssim: float
    deformable_masked: float
    l1: float


def score(made: Tensor, trial: PairTrial, *, official_mask: bool = False) -> PairScores:
    """How near images come to what is wanted.

    Args:
        made: (N, 3, H, W) uint8.
        trial: the pairs.
        official_mask: PG2's masked score with the mask of the given image, as its program reads it; else with
            that of the wanted one.

    Raises:
        ValueError: if there is not an image of the right size for each pair.
    """
    if made.shape != (len(trial), *trial.images.shape[1:]) or made.dtype != torch.uint8:
        wanted = (len(trial), *trial.images.shape[1:])
        raise ValueError(f"expected images {wanted} uint8, got {tuple(made.shape)} {made.dtype}")
    sums = torch.zeros(5, dtype=torch.float64)
    for rows in trial.batches():
        columns = _scores(made[rows], trial, rows, official_mask)
        sums += torch.stack([column.double().sum() for column in columns])
    return PairScores(*(sums / len(trial)).tolist())


def _scores(made: Tensor, trial: PairTrial, rows: slice, official_mask: bool) -> tuple[Tensor, ...]:
    """The five numbers of each pair, (B,) each."""
    found, true = made.float() / 255, trial.pictures(trial.target[rows])
    square, gauss = {"window": "uniform"}, {"data_range": own_range(found)}
    whose = trial.source if official_mask else trial.target
    pg2, body = trial.limbs[whose[rows], None].float(), trial.bodies[trial.target[rows], None].float()
    return (
        ssim(found, true, **square), masked_ssim(found, true, pg2, **square),
        ssim(found, true, **gauss), masked_ssim(found, true, body, **gauss), 2 * l1(found, true),
    )  # fmt: skip


def baselines(trial: PairTrial, average: Tensor) -> dict[str, Tensor]:
    """Rows that need no generator: the given image, an average image, the wanted one through 8 x 8 pixels.

    Args:
        trial: the pairs.
        average: of training images, (3, H, W) in [0, 1].
    """
    mean = average.mul(255).round().byte()
    coarse = [_coarse(trial.pictures(some)) for some in trial.target.split(_BATCH)]
    return {
        "the given image": trial.images[trial.source],
        "mean training image": mean.expand(len(trial), *mean.shape),
        "the truth in 8 x 8": torch.cat(coarse),
        "the truth": trial.images[trial.target],
    }


def _coarse(images: Tensor) -> Tensor:
    small = F.interpolate(images, (8, 8), mode="area")
    return F.interpolate(small, images.shape[2:], mode="bicubic").mul(255).round().clamp(0, 255).byte()


@dataclass(frozen=True, eq=False)
class Judge:
    """Who says whether it is the same person: a network that no generator has seen.

    Attributes:
        encode: its features.
        known: of all images of a trial, of length one (M, D).
    """

    encode: Encode
    known: Tensor

    @classmethod
    def of(cls, encode: Encode, trial: PairTrial) -> Judge:
        """Looks at all images of a trial first."""
        rows = torch.arange(len(trial.images)).split(_BATCH)
        return cls(encode, F.normalize(torch.cat([encode(trial.pictures(some)) for some in rows])))


def identity(made: Tensor, trial: PairTrial, judge: Judge) -> tuple[float, float]:
    """Whether images show the person, to a judge who has never seen the given image and the wanted one.

    Args:
        made: (N, 3, H, W) uint8.
        trial: the pairs.
        judge: knows all other images of the trial, distractors included.

    Returns:
        Mean cosine to the person's other images, and the share of images whose nearest one shows the person;
        of pairs whose person has other images.
    """
    cosines, hits, people = 0.0, 0, 0
    for rows in trial.batches():
        features = F.normalize(judge.encode(made[rows].float() / 255))
        similar, whose = features @ judge.known.t(), trial.pids[trial.target[rows]]
        for seen in (trial.source[rows], trial.target[rows]):
            similar[torch.arange(len(similar)), seen] = -torch.inf
        same = (trial.pids == whose[:, None]) & similar.isfinite()
        counted = same.any(1)
        means = similar.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)
        cosines += float(means[counted].sum())
        hits += int((trial.pids[similar.argmax(1)] == whose)[counted].sum())
        people += int(counted.sum())
    if not people:
        raise ValueError("expected a person with more images than those of one pair, got none")
    return cosines / people, hits / people
