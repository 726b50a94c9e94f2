"""Poses of images that have none, by torchvision's Keypoint R-CNN, or any detector that answers alike.

A detector takes a list of images (3, H, W) in [0, 1] and gives for each a dict with ``boxes`` (N, 4) as x0,
y0, x1, y1, ``scores`` (N,) in [0, 1], ``keypoints`` (N, 17, 3) as x, y, 1 and ``keypoints_scores`` (N, 17),
the height of the hill that each keypoint is the top of. The person meant in a crop is the one whose box,
times the score, is the largest: passers-by are small, or cut off.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.data.images.reading import readable_images
from torchreid_genext.data.poses.joints import JOINTS, from_coco
from torchreid_genext.data.poses.market_csv import read_market_annotations, write_market_annotations
from torchreid_genext.data.poses.names import check_names

__all__ = [
    "Cost", "Extracted", "cost_of", "detected_pose", "extract_poses", "keypoint_rcnn", "left_to_do",
    "pose_finder",
]  # fmt: skip

_SAVED_EVERY = 500  # images; later less often, since the whole file is written
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extracted:
    """What `extract_poses` did.

    Attributes:
        found: images of this run in which somebody is.
        kept: images that had been done before.
        without: images of this run in which nobody is; their poses, without any joint, are written, too.
        unreadable: path -> reason, of the images that are left out; another run tries them again.
    """

    found: int
    kept: int
    without: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Of one image: floating-point operations, and seconds on this machine."""

    operations: float
    seconds: float


def keypoint_rcnn(weights: str | PathLike[str], *, min_size: int = 800) -> nn.Module:
    """torchvision's Keypoint R-CNN (ResNet-50 with FPN), ready to detect.

    Args:
        weights: file of its state dict, as torchvision's ``keypointrcnn_resnet50_fpn_coco-fc266e95.pth``.
        min_size: to which images are enlarged at their shorter side; 800 is what it was trained with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the weights are another network's; lists what is missing, or unexpected.
    """
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    state = _renamed(checkpoints.safe_load(Path(weights)))
    network = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=min_size)
    checkpoints.fill(network, state, Path(weights))
    return _as_trained(network, state).eval()


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's files are older than the names that some convolutions have in its networks today."""
    newer = {name: re.sub(r"(fpn\.\w+_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name) for name in state}
    newer = {
        old: re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", new) for old, new in newer.items()
    }
    return {newer[name]: tensor for name, tensor in state.items()}


def _as_trained(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """torchvision's weights come from frozen batch normalisation, which adds nothing to the variance."""
    if not any(name.endswith("num_batches_tracked") for name in state):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return network


def detected_pose(
    answer: Mapping[str, Tensor], *, score: float = 0.5, joint_score: float = 2.0
) -> np.ndarray:
    """The pose of the person who is meant.

    Args:
        answer: of the detector to one image.
        score: people below it do not count, 0..1.
        joint_score: keypoints with no higher hill are missing.

    Returns:
        (18, 2) float of (y, x) pixels, without any joint if there is nobody.
    """
    people = torch.nonzero(answer["scores"] >= score).flatten()
    if not len(people):
        return np.full((len(JOINTS), 2), -1.0)
    sides = (answer["boxes"][people, 2:] - answer["boxes"][people, :2]).clamp(min=0)
    meant = people[(sides.prod(dim=1) * answer["scores"][people]).argmax()]
    places, hills = answer["keypoints"][meant, :, :2], answer["keypoints_scores"][meant, :, None]
    return from_coco(torch.cat([places, hills], dim=1).cpu().numpy(), confidence=joint_score)


def pose_finder(
    network: nn.Module, *, device: torch.device | str = "cpu", **options: Any
) -> Callable[[Image.Image], np.ndarray]:
    """What finds the pose of the person in one image, as `generation.quality.judge` asks for it.

    Args:
        network: a detector, as the module describes it.
        device: where it runs.
        options: of `detected_pose`.
    """
    network = network.to(device).eval()

    @torch.inference_mode()
    def find(image: Image.Image) -> np.ndarray:
        return detected_pose(network([_tensor(image).to(device)])[0], **options)

    return find


def left_to_do(paths: Sequence[str], target: str | PathLike[str]) -> list[str]:
    """Those of the images whose poses are not in the annotation file yet; all if there is none.

    Raises:
        ValueError: if images share a file name, by which poses are known, the file cannot hold one, or is no
            annotation file.
    """
    names = {Path(path).name: path for path in dict.fromkeys(paths)}
    check_names(names)
    if len(names) < len(set(paths)):
        twice = next(path for path in paths if names[Path(path).name] != path)
        raise ValueError(
            f"expected images of different file names, got {twice} and {names[Path(twice).name]}"
        )
    return [path for name, path in names.items() if name not in _there(target)]


def cost_of(network: nn.Module, paths: Sequence[str], *, device: torch.device | str = "cpu") -> Cost | None:
    """What the detector takes for the first image that can be read; None if there is no such image."""
    from torch.utils.flop_counter import FlopCounterMode

    image = next((_tensor(image) for _, image in readable_images(paths, {})), None)
    if image is None:
        return None
    network = network.to(device).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network([image.to(device)])
    with torch.inference_mode():
        start = time.perf_counter()
        network([image.to(device)])[0]["scores"].tolist()  # waits for the device
    return Cost(counter.get_total_flops(), time.perf_counter() - start)


def extract_poses(
    network: nn.Module,
    paths: Sequence[str],
    target: str | PathLike[str],
    *,
    batch_size: int = 8,
    score: float = 0.5,
    joint_score: float = 2.0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Extracted:
    """Detect the poses of images and write them as Market annotations, in pixels of each image.

    What the file holds already is kept, and it is written again and again while the work goes on, whole each
    time, so an interrupted run goes on from where it was.

    Args:
        network: a detector, as the module describes it.
        paths: image files of any sizes; their names, without folders, are different.
        target: the annotation file.
        batch_size: images the detector is given at once.
        score, joint_score: as in `detected_pose`.
        device: where the detector runs.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: as `left_to_do`, before anything is read; if the batch size is below 1.
        OSError: if the file cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    missing, poses = left_to_do(paths, target), _there(target)
    kept, saved, faults = len(set(paths)) - len(missing), len(poses), {}
    write_market_annotations(target, poses)  # a file that cannot be written is told before the work is done
    answers = _answers(network.to(device).eval(), missing, batch_size, device, progress)
    try:
        for path, answer in answers:
            if isinstance(answer, str):
                faults[path] = answer
            else:
                poses[Path(path).name] = detected_pose(answer, score=score, joint_score=joint_score)
            if len(poses) - saved >= max(_SAVED_EVERY, saved // 20):
                write_market_annotations(target, poses)
                saved = len(poses)
    finally:
        write_market_annotations(target, poses)
    return _reported(missing, poses, kept, faults)


def _there(target: str | PathLike[str]) -> dict[str, np.ndarray]:
    return dict(read_market_annotations(target)) if Path(target).expanduser().exists() else {}


def _answers(
    network: nn.Module, paths: Sequence[str], batch_size: int, device: torch.device | str, progress: bool
) -> Iterator[tuple[str, dict[str, Tensor] | str]]:
    """Of each image what the detector says, or why it cannot be read."""
    hidden = None if progress else True  # None shows the bar on a terminal alone
    with tqdm(total=len(paths), unit="img", desc="poses", disable=hidden) as bar, torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            batch, faults = paths[start : start + batch_size], {}
            images = {row: _tensor(image).to(device) for row, image in readable_images(batch, faults)}
            said = faults | (dict(zip(images, network(list(images.values())))) if images else {})
            yield from ((path, said[row]) for row, path in enumerate(batch))
            bar.update(len(batch))


def _tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _reported(
    paths: Sequence[str], poses: Mapping[str, np.ndarray], kept: int, faults: dict[str, str]
) -> Extracted:
    seen = [path for path in paths if path not in faults]
    without = tuple(path for path in seen if (poses[Path(path).name] == -1).all())
    for what, some in (("show nobody", without), ("cannot be read and are left out", tuple(faults))):
        if some:
            _log.warning("%d of %d images %s, such as %s", len(some), len(paths), what, some[0])
    return Extracted(len(seen) - len(without), kept, without, faults)
