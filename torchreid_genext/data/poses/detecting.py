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
from torchreid_genext.data.store.references import reference_names

__all__ = [
    "Cost", "Extracted", "WithMargin", "cost_of", "detected_pose", "extract_poses", "keypoint_rcnn", "left_to_do",
    "pose_finder",
]  # fmt: skip

_MEAN_COLOUR = (0.485, 0.456, 0.406)  # ImageNet's, which is zero once the network has normalised it
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


def keypoint_rcnn(
    weights: str | PathLike[str] | None = None, *, min_size: int = 800, margin: float = 1 / 8
) -> nn.Module:
    """torchvision's Keypoint R-CNN (ResNet-50 with FPN), ready to detect.

    Args:
        weights: file of its state dict, as torchvision's ``keypointrcnn_resnet50_fpn_coco-fc266e95.pth``; None
            for this one, which is fetched once (237 MB) into torch's folder of checkpoints.
        min_size: to which images are enlarged at their shorter side; 800 is what it was trained with.
        margin: see `WithMargin`.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the published weights cannot be fetched; says where they belong.
        ValueError: if the weights are another network's; lists what is missing, or unexpected. Also as
            `WithMargin`.
    """
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    _check_margin(margin)
    file = _published() if weights is None else Path(weights)
    state = _renamed(checkpoints.safe_load(file))
    network = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=min_size)
    checkpoints.fill(network, state, file)
    return WithMargin(_as_trained(network, state), margin).eval()


def _published() -> Path:
    """The file of torchvision's own weights, which is fetched if it is not there yet."""
    from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights

    url = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT.url
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:  # no connection; another file than it should be
            cure = f"fetch {url} elsewhere, and lay it there or name the file"
            raise OSError(f"expected the weights of Keypoint R-CNN in {file}, got {error}; {cure}") from error
    return file


class WithMargin(nn.Module):
    """A detector that sees each image with a margin around it, which crops of people lack.

    Args:
        network: as the module describes it. It sees the margin in the mean colour of ImageNet, as it sees what
            it fills up smaller images of a batch with.
        share: width of the margin, of the longer side of the image; 0 .. 10.

    Raises:
        ValueError: if the margin is none of these.
    """

    def __init__(self, network: nn.Module, share: float = 1 / 8) -> None:
        super().__init__()
        _check_margin(share)
        self.network, self.share = network, share

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """What the network answers, in pixels of the images; keypoints in the margin have the lowest score."""
        widths = [round(max(image.shape[1:]) * self.share) for image in images]
        answers = self.network([_padded(image, width) for image, width in zip(images, widths)])
        return [_moved(*each) for each in zip(answers, images, widths)]


def _check_margin(share: float) -> None:
    if not 0 <= share <= 10:
        raise ValueError(f"expected a margin in 0..10 of the longer side, got {share}")


def _padded(image: Tensor, width: int) -> Tensor:
    colour = image.new_tensor(_MEAN_COLOUR)[:, None, None]
    return nn.functional.pad(image - colour, [width] * 4) + colour


def _moved(answer: Mapping[str, Tensor], image: Tensor, width: int) -> dict[str, Tensor]:
    """From pixels of the padded image to those of the image."""
    size = answer["keypoints"].new_tensor(image.shape[:0:-1])
    places = answer["keypoints"] - answer["keypoints"].new_tensor([width, width, 0])
    outside = ((places[..., :2] < 0) | (places[..., :2] > size)).any(-1)
    boxes = torch.minimum((answer["boxes"] - width).clamp(min=0), size.repeat(2))
    scores = answer["keypoints_scores"].masked_fill(outside, -torch.inf)
    return {**answer, "boxes": boxes, "keypoints": places, "keypoints_scores": scores}


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
        ValueError: if the file cannot hold the name of an image, or is no annotation file.
    """
    there = _there(target)
    return [path for path, name in _named(paths).items() if name not in there]


def _named(paths: Sequence[str]) -> dict[str, str]:
    """The name of each image in a file of poses."""
    different = list(dict.fromkeys(paths))
    names = reference_names(different)
    check_names(names, folders=True)
    return dict(zip(different, names))


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
        paths: image files of any sizes, known by their names, with folders where these repeat.
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
    names, poses = _named(paths), _there(target)
    missing = [path for path, name in names.items() if name not in poses]
    kept, saved, faults = len(set(paths)) - len(missing), len(poses), {}
    write_market_annotations(target, poses)  # a file that cannot be written is told before the work is done
    answers = _answers(network.to(device).eval(), missing, batch_size, device, progress)
    try:
        for path, answer in answers:
            if isinstance(answer, str):
                faults[path] = answer
            else:
                poses[names[path]] = detected_pose(answer, score=score, joint_score=joint_score)
            if len(poses) - saved >= max(_SAVED_EVERY, saved // 20):
                write_market_annotations(target, poses)
                saved = len(poses)
    finally:
        write_market_annotations(target, poses)
    return _reported({path: poses.get(names[path]) for path in missing}, kept, faults)


def _there(target: str | PathLike[str]) -> dict[str, np.ndarray]:
    return read_market_annotations(target, folders=True) if Path(target).expanduser().exists() else {}


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
    poses: Mapping[str, np.ndarray | None], kept: int, faults: dict[str, str]
) -> Extracted:
    """Of each image of this run the pose; none of those that cannot be read."""
    seen = {path: pose for path, pose in poses.items() if path not in faults}
    without = tuple(path for path, pose in seen.items() if (pose == -1).all())
    for what, some in (("show nobody", without), ("cannot be read and are left out", tuple(faults))):
        if some:
            _log.warning("%d of %d images %s, such as %s", len(some), len(poses), what, some[0])
    return Extracted(len(seen) - len(without), kept, without, faults)
