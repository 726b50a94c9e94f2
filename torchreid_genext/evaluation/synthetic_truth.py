"""How near generators come to the truth that SynthReID's renderer knows: unseen people in standard poses.

Two things to be better than: the reference itself (the right person in the wrong pose) and the average image
of a pose (nobody in the right one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from tqdm import tqdm

from torchreid_genext import visualization
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.skeletons import scaled
from torchreid_genext.data.synthetic import read_manifest
from torchreid_genext.data.synthetic.render import Rendering
from torchreid_genext.data.synthetic.standard_poses import (
    STANDARD_POSES,
    references,
    render_standard_pose,
)
from torchreid_genext.data.synthetic.world import QUERY, TRAIN, Shot, shots
from torchreid_genext.data.synthetic.writing import draw_shot
from torchreid_genext.evaluation import quality
from torchreid_genext.generators.deformable import person_mask
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Draw", "Encode", "Scores", "Trial", "at_size", "average_images", "generate", "joints", "one_of_each",
    "resized", "score", "sheet", "similarity", "stacked",
]  # fmt: skip

_MASK_RADIUS = 4.0  # pixels, of images of 128 x 64

# Images (B, 3, H, W) in [0, 1] to features (B, D).
Encode = Callable[[Tensor], Tensor]
# Numbers of people (B,), of poses (B,), and a generator of noise for each, to images (B, 3, H, W) in [0, 1].
Draw = Callable[[Tensor, Tensor, list[Generator]], Tensor]


@dataclass(frozen=True, eq=False)
class Trial:
    """What is to be generated, and the truth.

    Attributes:
        references: images (R, 3, H, W) in [0, 1], each of another person and before its own camera.
        truths: the same people before the same cameras in P poses, (R, P, 3, H, W).
        skeletons: of the truths, drawn, likewise.
        keypoints: of the references, (R, 18, 2) as (y, x) pixels, -1 where nothing is seen.
        targets: of the truths, (R, P, 18, 2).
        pids, camids: of the references, (R,).
    """

    references: Tensor
    truths: Tensor
    skeletons: Tensor
    keypoints: Tensor
    targets: Tensor
    pids: Tensor
    camids: Tensor

    @classmethod
    def of(cls, dataset: str | Path, people: int) -> Trial:
        """A query of each of some test people.

        Args:
            dataset: folder of a SynthReID.
            people: at most so many, by chance but always the same.

        Raises:
            ValueError: if the data set is not complete.
        """
        chosen = one_of_each(references(read_manifest(dataset)), people)
        names = [parse(shot.name, "synthreid") for shot in chosen]
        own = [draw_shot(shot) for shot in chosen]
        drawn = [
            [render_standard_pose(shot, n) for n in range(len(STANDARD_POSES))] for shot in _shown(chosen)
        ]
        truths = torch.stack([stacked([each.image for each in row]) for row in drawn])
        skeletons = torch.stack([stacked([_skeleton(each) for each in row]) for row in drawn])
        return cls(
            stacked([each.image for each in own]), truths, skeletons,
            torch.stack([joints(each) for each in own]),
            torch.stack([torch.stack([joints(each) for each in row]) for row in drawn]),
            torch.tensor([name.pid for name in names]), torch.tensor([name.camid for name in names]),
        )  # fmt: skip


def one_of_each(shots: Sequence[Shot], people: int) -> list[Shot]:
    """A query of each of some people that nothing hides, by chance but always the same."""
    order = np.random.default_rng(0).permutation(len(shots))
    queries = [shots[row] for row in order if shots[row].folder == QUERY and shots[row].occluder is None]
    return [*{shot.person: shot for shot in queries}.values()][:people]


def _shown(chosen: Sequence[Shot]) -> tqdm:
    return tqdm(chosen, desc="truth", unit="person", disable=None)


def _skeleton(drawn: Rendering) -> Image.Image:
    return draw_skeleton(joints(drawn).numpy(), drawn.image.size[::-1])


def joints(drawn: Rendering) -> Tensor:
    """What is seen of them, (18, 2) float32 in whole pixels, -1 for the others."""
    return torch.from_numpy(np.where(drawn.visible[:, None], np.rint(drawn.joints), -1)).float()


def stacked(images: Sequence[Image.Image]) -> Tensor:
    """(N, 3, H, W) in [0, 1]."""
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255


def average_images(dataset: str | Path, people: int = 100) -> Tensor:
    """The mean image of training people in each standard pose, (P, 3, H, W) in [0, 1]."""
    manifest = read_manifest(dataset)
    plan = [shot for shot in shots(manifest.size, manifest.seed, manifest.mode) if shot.folder == TRAIN]
    chosen = [plan[row] for row in np.random.default_rng(1).permutation(len(plan))[:people]]
    poses = range(len(STANDARD_POSES))
    return torch.stack([stacked([render_standard_pose(s, n).image for s in chosen]).mean(0) for n in poses])


@dataclass(frozen=True)
class Scores:
    """Means over people and poses.

    Attributes:
        l1: absolute difference to the truth, of images in [0, 1].
        psnr: of each image, in dB.
        ssim: of each image. masked_ssim: of its person alone, with the Deformable GAN's window and mask.
        similarity: cosine of features with those of the person's gallery images, before other cameras.
        rank1: share of the images whose first match in the gallery is the person, before another camera.
    """

    l1: float
    psnr: float
    ssim: float
    masked_ssim: float
    similarity: float
    rank1: float


def score(
    images: Tensor,
    trial: Trial,
    gallery: RetrievalSet,
    encode: Encode,
    *,
    size: tuple[int, int] | None = None,
) -> Scores:
    """How near images come to the truth.

    Args:
        images: (R, P, 3, H, W) in [0, 1].
        trial: what they should show.
        gallery: real images that are searched.
        encode: a judge of identity, by which also the gallery's features were made.
        size: height and width to which images are reduced before pixels are compared; identity is judged by
            what was generated.
    """
    poses = images.shape[1]
    query = RetrievalSet(
        encode(images.flatten(0, 1)),
        trial.pids.repeat_interleave(poses), trial.camids.repeat_interleave(poses),
    )  # fmt: skip
    return Scores(
        *_pixels(images, trial, size or trial.truths.shape[-2:]),
        similarity(query, gallery), evaluate(query, gallery).rank(1),
    )  # fmt: skip


def _pixels(images: Tensor, trial: Trial, size: Sequence[int]) -> tuple[float, float, float, float]:
    """The first four of the scores."""
    found, true = (resized(each.flatten(0, 1), size) for each in (images, trial.truths))
    ratio = size[0] / trial.truths.shape[-2]
    points = at_size(trial.targets.flatten(0, 1), trial.truths.shape[-2:], size)
    mask = person_mask(points, size, radius=_MASK_RADIUS * ratio)[:, None].float()
    error = (found - true).square().mean(dim=(1, 2, 3))
    return (
        float(quality.l1(found, true).mean()),
        float(-10 / math.log(10) * error.clamp(min=1e-10).log().mean()),
        float(quality.ssim(found, true).mean()),
        float(quality.masked_ssim(found, true, mask).mean()),
    )


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], of another size."""
    if images.shape[-2:] == (*size,):
        return images
    return F.interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)


def at_size(points: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Joints (B, 18, 2) in an image of another size."""
    moved = torch.from_numpy(scaled(points.flatten(0, -2), old, new)).view_as(points).to(points.dtype)
    return torch.where((points >= 0).all(-1, keepdim=True), moved.clamp(min=0), -1.0)


def similarity(query: RetrievalSet, gallery: RetrievalSet) -> float:
    """Mean cosine of images and the gallery's of the same people before other cameras."""
    cosines = (
        torch.nn.functional.normalize(query.features) @ torch.nn.functional.normalize(gallery.features).T
    )
    same = (query.pids[:, None] == gallery.pids) & (query.camids[:, None] != gallery.camids)
    return float((cosines * same).sum() / same.sum())


def generate(trial: Trial, draw: Draw, *, batch: int = 32, seed: int = 0) -> Tensor:
    """Images of all people in all poses, (R, P, 3, H, W) in [0, 1].

    Args:
        trial: says whom, and in which poses.
        draw: makes them.
        batch: images at a time.
        seed: of the first image's noise; those of the others follow.
    """
    poses = trial.skeletons.shape[1]
    both = torch.cartesian_prod(torch.arange(len(trial.references)), torch.arange(poses)).split(batch)
    made, number = [], seed
    for some, wanted in tqdm([each.T for each in both], desc="generated", unit="batch", disable=None):
        noise = [Generator().manual_seed(number + row) for row in range(len(some))]
        made.append(draw(some, wanted, noise))
        number += len(some)
    return torch.cat(made).unflatten(0, (-1, poses))


def sheet(trial: Trial, made: Mapping[str, Tensor], people: int = 4) -> Figure:
    """For each of some people the reference and the poses, then a row for each generator, then the truth.

    Args:
        trial: has people, poses and the truth.
        made: name of a generator -> its images, like the truth's.
        people: from the first one on.
    """
    rows, names = [], []
    for person in range(min(people, len(trial.truths))):
        pictures = {"pose": trial.skeletons, **made, "truth": trial.truths}
        first = trial.references[person : person + 1]
        for name, images in pictures.items():
            rows.append(torch.cat([first if name == "pose" else torch.ones_like(first), images[person]]))
        names += [*pictures]
    columns = ["reference", *(str(pose + 1) for pose in range(trial.truths.shape[1]))]
    return visualization.labelled_grid(torch.stack(rows).numpy(), rows=names, columns=columns, scale=1)
