"""PG2, the Deformable GAN and CamStyle at work: references and poses by name in, images out, as with IPG.

To CamStyle the style of a camera is what a pose is to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat
from torchreid_genext.data.images.reading import open_image
from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.data.poses.names import pose_of
from torchreid_genext.data.poses.skeletons import scaled
from torchreid_genext.data.store.camstyle_folder import style_camera
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.camstyle import CameraPairs
from torchreid_genext.precision import autocast, resolve
from torchreid_genext.training.state import fingerprint

__all__ = [
    "ADVERSARIAL", "CameraSampler", "PoseSampler", "cameras_of", "load_generator", "pose_sampler",
]  # fmt: skip

ADVERSARIAL = ("pg2", "deformable", "camstyle")
_PAIR = "camstyle_pair"  # the kind of a file, where genext.camstyle.pair was trained
_NEEDS_JOINTS = ("deformable",)  # of the reference, too

# A file to the joints (18, 2) of its person, (y, x) in its pixels, -1 where missing.
Joints = Callable[[str], np.ndarray]


class _Sampler:
    """What all of them have in common.

    Args:
        generator: as `build_generator` gives it; moved by the caller.
        precision: fp32, or bf16 or fp16 under autocast, or auto.

    Raises:
        ValueError: if the precision is unknown.
    """

    def __init__(self, generator: Any, *, precision: str = "fp32") -> None:
        self.generator, self.device = generator, next(generator.parameters()).device
        self.precision = resolve(precision, self.device)

    def _made(self, *inputs: Tensor, seeds: Iterable[int]) -> list[Image.Image]:
        noise = [Generator().manual_seed(seed) for seed in seeds]
        with autocast(self.precision, self.device):
            made = self.generator.generate(*(each.to(self.device) for each in inputs), generators=noise)
        pixels = ((made.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return [Image.fromarray(each) for each in pixels.cpu().numpy()]

    def _read(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        """An image of the generator's size, in [-1, 1], and the size that it has."""
        height, width = self.generator.image_size
        with open_image(path) as image:
            size, small = image.size[::-1], image.resize((width, height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1, size

    def provenance(self) -> dict[str, Any]:
        """What beside reference, pose and seed decides on an image."""
        weights = fingerprint(self.generator.state_dict())
        return {
            "generator": self.generator.kind, "weights": weights, "sampling": {"precision": self.precision}
        }  # fmt: skip


class PoseSampler(_Sampler):
    """Draws people in poses with a generator that is trained for one image size.

    Args:
        generator: as `build_generator` gives it; moved by the caller.
        poses: joints (18, 2) by name, of images of the generator's size.
        joints: of a reference, given as its path.
        options: ``precision``: fp32, or bf16 or fp16 under autocast, or auto.

    Raises:
        ValueError: if the precision is unknown.
    """

    def __init__(
        self, generator: Any, poses: Mapping[str, np.ndarray], joints: Joints, **options: Any
    ) -> None:
        super().__init__(generator, **options)
        self._joints = joints
        self._poses = {name: torch.as_tensor(pose).float() for name, pose in poses.items()}

    def __call__(
        self, references: Sequence[str], poses: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """An image for each reference, pose and seed; it depends on these three alone.

        Raises:
            ValueError: if a reference has no joints and the generator needs them.
        """
        read = {path: self._posed(path) for path in dict.fromkeys(references)}
        images, keypoints = (torch.stack(each) for each in zip(*(read[path] for path in references)))
        targets = torch.stack([self._poses[name] for name in poses])
        return self._made(images, keypoints, targets, seeds=seeds)

    def _posed(self, path: str) -> tuple[Tensor, Tensor]:
        """The reference, and its joints in pixels of the generator."""
        (pixels, size), joints = self._read(path), self._joints(path)
        shown = (joints >= 0).all(axis=1, keepdims=True)
        points = np.where(shown, scaled(joints, size, self.generator.image_size).clip(min=0), -1)
        if self.generator.kind in _NEEDS_JOINTS and not shown.any():
            raise ValueError(f"expected joints of the person in {path}, got none")
        return pixels, torch.from_numpy(points).float()


class CameraSampler(_Sampler):
    """Draws images as other cameras see them.

    Args:
        generator: of `generators.camstyle`; moved by the caller.
        cameras: file of a reference to its camera, from 0.
        options: ``precision``: fp32, or bf16 or fp16 under autocast, or auto.

    Raises:
        ValueError: if the precision is unknown.
    """

    def __init__(self, generator: Any, cameras: Mapping[str, int], **options: Any) -> None:
        super().__init__(generator, **options)
        self.cameras = cameras

    def __call__(
        self, references: Sequence[str], styles: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """An image for each reference, style (``camera1``, ...) and seed, which only dropout looks at."""
        read = {path: self._read(path)[0] for path in dict.fromkeys(references)}
        source = torch.tensor([self.cameras[path] for path in references])
        target = torch.tensor([style_camera(style) for style in styles])
        return self._made(torch.stack([read[path] for path in references]), source, target, seeds=seeds)

    def changes(self, reference: str, style: str) -> bool:
        """Whether there is such an image: not in the style of its own camera, nor where no model leads."""
        cameras = (self.cameras[reference], style_camera(style))
        known = getattr(self.generator, "names", [self.generator.cameras])
        return cameras[0] != cameras[1] and any({*cameras} <= {*some} for some in known)


def load_generator(cfg: CfgNode) -> nn.Module:
    """The generator that ``genext.generator`` names, with the weights of its node.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the generator is unknown, or no file is named.
    """
    name = cfg.genext.generator
    if name not in ADVERSARIAL:
        raise ValueError(f"unknown genext.generator {name!r}; choose from ipg, {', '.join(ADVERSARIAL)}")
    if not (weights := cfg.genext[name].weights):
        raise ValueError(f"expected genext.{name}.weights, a file of train-gan (--weights), got none")
    if name == "camstyle" and Path(weights).is_dir():
        return CameraPairs.load(weights)
    return build_generator(_kind(name, weights), weights)


def _kind(name: str, weights: str) -> str:
    """A model of two cameras is another network than that of all."""
    of_pair = name == "camstyle" and checkpoints.read_metadata(weights).get("kind") == _PAIR
    return _PAIR if of_pair else name


def pose_sampler(cfg: CfgNode, dataset: str, generator: Any, poses: Mapping[str, np.ndarray]) -> PoseSampler:
    """A sampler of people of a data set, whose joints are in the files of ``genext.joints``.

    Raises:
        FileNotFoundError: if there is no such file and the generator needs it.
    """
    joints = _joints_of(cfg, dataset) if generator.kind in _NEEDS_JOINTS else _no_joints
    return PoseSampler(generator, poses, joints, precision=cfg.genext.sampling.precision)


def _joints_of(cfg: CfgNode, dataset: str) -> Joints:
    found = read_dataset_poses(dataset, cfg.data.root, cfg.genext.joints)

    def joints(path: str) -> np.ndarray:
        pose = pose_of(found, path)
        return _no_joints(path) if pose is None else pose

    return joints


def _no_joints(path: str) -> np.ndarray:
    return np.full((len(JOINTS), 2), -1.0)


def cameras_of(dataset: str, root: str) -> dict[str, int]:
    """File of each image of a data set to its camera, from 0."""
    found = compat.init_image_dataset(dataset, root=root, verbose=False)
    return {item[0]: item[2] for split in (found.train, found.query, found.gallery) for item in split}
