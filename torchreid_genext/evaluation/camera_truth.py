"""How near CamStyle comes to the truth that SynthReID's renderer knows: unseen people, other cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from torchreid_genext import visualization
from torchreid_genext.data.filenames import parse
from torchreid_genext.data.synthetic.render import Rendering
from torchreid_genext.data.synthetic.standard_poses import references
from torchreid_genext.data.synthetic.world import Shot
from torchreid_genext.data.synthetic.writing import draw_shot, read_manifest
from torchreid_genext.evaluation.camera_colors import color_distance, color_statistics
from torchreid_genext.evaluation.synthetic_truth import Encode, joints, one_of_each, similarity, stacked
from torchreid_genext.generators.deformable import person_mask
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CameraScores", "CameraTrial", "restyle", "score", "sheet"]

# Images (B, 3, H, W) in [0, 1], their cameras (B,) and others (B,), to images likewise.
Restyle = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class CameraTrial:
    """Whom other cameras shall see, and what they would.

    Attributes:
        images: (N, 3, H, W) in [0, 1]; those of a person stand together, one for each other camera.
        truths: the same people, in the same poses, before the other cameras.
        masks: where the people are, (N, 1, H, W) bool; in both the same.
        pids: (N,).
        source, target: cameras from 0, (N,).
    """

    images: Tensor
    truths: Tensor
    masks: Tensor
    pids: Tensor
    source: Tensor
    target: Tensor

    @classmethod
    def of(cls, dataset: str | Path, people: int, cameras: Sequence[int]) -> CameraTrial:
        """A query of each of some test people.

        Args:
            dataset: folder of a SynthReID.
            people: at most so many, by chance but always the same.
            cameras: whose styles are wanted.

        Raises:
            ValueError: if the data set is not complete.
        """
        chosen = one_of_each(references(read_manifest(dataset)), people)
        both = [(shot, camera) for shot in chosen for camera in cameras if camera != shot.camera]
        drawn = [_before(*each) for each in tqdm(both, desc="truth", unit="image", disable=None)]
        own, other = (stacked([each.image for each in row]) for row in zip(*drawn))
        points = torch.stack([joints(first) for first, _ in drawn])
        return cls(
            own, other, person_mask(points, own.shape[-2:])[:, None],
            torch.tensor([parse(shot.name, "synthreid").pid for shot, _ in both]),
            torch.tensor([shot.camera for shot, _ in both]), torch.tensor([camera for _, camera in both]),
        )  # fmt: skip


def _before(shot: Shot, camera: int) -> tuple[Rendering, Rendering]:
    return draw_shot(shot), draw_shot(replace(shot, camera=camera))


@dataclass(frozen=True)
class CameraScores:
    """Means over cameras, or people.

    Attributes:
        colors: `color_distance` to the real images of the camera.
        person_colors: the same, to the true images and of people's pixels alone.
        l1: absolute difference to the truth of people's pixels, of images in [0, 1].
        similarity: cosine of features with those of the person's gallery images, before other cameras than
            the real image's.
        rank1: share of the images whose first match in the gallery, before another camera than their own, is
            the person.
    """

    colors: float
    person_colors: float
    l1: float
    similarity: float
    rank1: float


def score(
    images: Tensor, trial: CameraTrial, real: tuple[Tensor, Tensor], gallery: RetrievalSet, encode: Encode
) -> CameraScores:
    """How near images come to the truth.

    Args:
        images: (N, 3, H, W) in [0, 1].
        trial: what they should show.
        real: images (M, 3, H, W) in [0, 1] and their cameras (M,), for the colours of each.
        gallery: real images that are searched.
        encode: a judge of identity, by which also the gallery's features were made.
    """
    styles = trial.target.unique().tolist()
    query = RetrievalSet(encode(images), trial.pids, trial.source)
    return CameraScores(
        _mean(_distance(images[trial.target == c], real[0][real[1] == c]) for c in styles),
        _mean(_of_people(images, trial, trial.target == c) for c in styles),
        float((images - trial.truths).abs().mean(1, keepdim=True)[trial.masks].mean()),
        similarity(query, gallery), evaluate(query, gallery).rank(1),
    )  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    return float(torch.tensor([*values]).mean())


def _distance(images: Tensor, others: Tensor) -> float:
    return color_distance(*(color_statistics(each * 2 - 1) for each in (images, others)))


def _of_people(images: Tensor, trial: CameraTrial, rows: Tensor) -> float:
    """The distance of people's pixels from the true ones'."""
    pixels = (each[rows].movedim(1, 0)[:, trial.masks[rows, 0]] for each in (images, trial.truths))
    return _distance(*(each[None, :, None] for each in pixels))


def restyle(trial: CameraTrial, draw: Restyle, *, batch: int = 64) -> Tensor:
    """All images as their other cameras see them, (N, 3, H, W) in [0, 1]."""
    parts = zip(*(each.split(batch) for each in (trial.images, trial.source, trial.target)))
    return torch.cat([draw(*part) for part in parts])


def sheet(trial: CameraTrial, images: Tensor, people: int = 4) -> Figure:
    """Two rows a person, a column for each camera: as CamStyle and as the camera itself would show them.

    The image that CamStyle began with stands under its own camera, in both rows.
    """
    cameras = torch.cat([trial.source, trial.target]).unique()
    rows, chosen = [], trial.pids.unique_consecutive()[:people]
    for person in chosen:
        own = trial.pids == person
        for made in (images, trial.truths):
            by_camera = dict(zip(trial.target[own].tolist(), made[own]))
            by_camera[int(trial.source[own][0])] = trial.images[own][0]
            rows.append(torch.stack([by_camera[camera] for camera in cameras.tolist()]))
    names, columns = (
        ["CamStyle", "truth"] * len(chosen),
        [f"camera {camera + 1}" for camera in cameras.tolist()],
    )
    return visualization.labelled_grid(torch.stack(rows).numpy(), rows=names, columns=columns, scale=1)
