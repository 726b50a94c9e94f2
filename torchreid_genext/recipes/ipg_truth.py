"""How near IPG comes to the truth, which SynthReID's renderer knows: unseen people in the standard poses.

Two things to be better than: the reference itself (the right person in the wrong pose) and the average image
of a pose (nobody in the right one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from tqdm import tqdm

from torchreid_genext import visualization
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.synthetic import read_manifest
from torchreid_genext.data.synthetic.render import Rendering
from torchreid_genext.data.synthetic.standard_poses import (
    STANDARD_POSES,
    references,
    render_standard_pose,
)
from torchreid_genext.data.synthetic.world import QUERY, TRAIN, Shot, shots
from torchreid_genext.data.synthetic.writing import draw_shot
from torchreid_genext.generators import quality
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

__all__ = ["Scores", "Trial", "average_images", "generate", "score", "sheet"]

# Images (B, 3, H, W) in [0, 1] to features (B, D).
Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trial:
    """What is to be generated, and the truth.

    Attributes:
        references: images (R, 3, H, W) in [0, 1], each of another person and before its own camera.
        truths: the same people before the same cameras in P poses, (R, P, 3, H, W).
        skeletons: of the truths, drawn, likewise.
        pids, camids: of the references, (R,).
    """

    references: Tensor
    truths: Tensor
    skeletons: Tensor
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
        chosen = _one_of_each(references(read_manifest(dataset)), people)
        names = [parse(shot.name, "synthreid") for shot in chosen]
        drawn = [
            [render_standard_pose(shot, n) for n in range(len(STANDARD_POSES))] for shot in _shown(chosen)
        ]
        truths = torch.stack([_stacked([each.image for each in row]) for row in drawn])
        skeletons = torch.stack([_stacked([_skeleton(each) for each in row]) for row in drawn])
        return cls(
            _stacked([draw_shot(shot).image for shot in chosen]), truths, skeletons,
            torch.tensor([name.pid for name in names]), torch.tensor([name.camid for name in names]),
        )  # fmt: skip


def _one_of_each(shots: Sequence[Shot], people: int) -> list[Shot]:
    order = np.random.default_rng(0).permutation(len(shots))
    queries = [shots[row] for row in order if shots[row].folder == QUERY and shots[row].occluder is None]
    return [*{shot.person: shot for shot in queries}.values()][:people]


def _shown(chosen: Sequence[Shot]) -> tqdm:
    return tqdm(chosen, desc="truth", unit="person", disable=None)


def _skeleton(drawn: Rendering) -> Image.Image:
    pose = np.where(drawn.visible[:, None], np.rint(drawn.joints), -1)
    return draw_skeleton(pose, drawn.image.size[::-1])


def _stacked(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255


def average_images(dataset: str | Path, people: int = 100) -> Tensor:
    """The mean image of training people in each standard pose, (P, 3, H, W) in [0, 1]."""
    manifest = read_manifest(dataset)
    plan = [shot for shot in shots(manifest.size, manifest.seed, manifest.mode) if shot.folder == TRAIN]
    chosen = [plan[row] for row in np.random.default_rng(1).permutation(len(plan))[:people]]
    poses = range(len(STANDARD_POSES))
    return torch.stack([_stacked([render_standard_pose(s, n).image for s in chosen]).mean(0) for n in poses])


@dataclass(frozen=True)
class Scores:
    """Means over people and poses.

    Attributes:
        l1: absolute difference to the truth, of images in [0, 1].
        psnr: of each image, in dB. ssim: likewise.
        similarity: cosine of features with those of the person's gallery images, before other cameras.
        rank1: share of the images whose first match in the gallery is the person, before another camera.
    """

    l1: float
    psnr: float
    ssim: float
    similarity: float
    rank1: float


def score(images: Tensor, trial: Trial, gallery: RetrievalSet, encode: Encode) -> Scores:
    """How near images come to the truth.

    Args:
        images: (R, P, 3, H, W) in [0, 1].
        trial: what they should show.
        gallery: real images that are searched.
        encode: a judge of identity, by which also the gallery's features were made.
    """
    found, true = images.flatten(0, 1), trial.truths.flatten(0, 1)
    poses = images.shape[1]
    query = RetrievalSet(
        encode(found), trial.pids.repeat_interleave(poses), trial.camids.repeat_interleave(poses)
    )
    error = (found - true).square().mean(dim=(1, 2, 3))
    return Scores(
        float(quality.l1(found, true).mean()),
        float(-10 / math.log(10) * error.clamp(min=1e-10).log().mean()),
        float(quality.ssim(found, true).mean()),
        _similarity(query, gallery),
        evaluate(query, gallery).rank(1),
    )


def _similarity(query: RetrievalSet, gallery: RetrievalSet) -> float:
    cosines = (
        torch.nn.functional.normalize(query.features) @ torch.nn.functional.normalize(gallery.features).T
    )
    same = (query.pids[:, None] == gallery.pids) & (query.camids[:, None] != gallery.camids)
    return float((cosines * same).sum() / same.sum())


def generate(trial: Trial, draw: Callable[..., Tensor], *, batch: int = 32, seed: int = 0) -> Tensor:
    """Images of all people in all poses, (R, P, 3, H, W) in [0, 1].

    Args:
        trial: says whom, and in which poses.
        draw: references (B, 3, H, W), skeletons (B, 3, H, W) and a generator of noise for each, to images.
        batch: images at a time.
        seed: of the first image's noise; those of the others follow.
    """
    poses = trial.skeletons.shape[1]
    people = trial.references.repeat_interleave(poses, dim=0).split(batch)
    skeletons = trial.skeletons.flatten(0, 1).split(batch)
    made, number = [], seed
    for some, wanted in tqdm([*zip(people, skeletons)], desc="generated", unit="batch", disable=None):
        noise = [Generator().manual_seed(number + row) for row in range(len(some))]
        made.append(draw(some, wanted, noise))
        number += len(some)
    return torch.cat(made).unflatten(0, (-1, poses))


def sheet(trial: Trial, images: Tensor, people: int = 4) -> Image.Image:
    """Two rows a person: the reference and the truth, then the reference and what was generated."""
    rows = []
    for row in range(min(people, len(images))):
        for pictures in (trial.truths[row], images[row]):
            rows.append(torch.cat([trial.references[row : row + 1], pictures]))
    return visualization.image_grid(torch.stack(rows).numpy())
