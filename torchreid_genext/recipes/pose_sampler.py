"""PG2 and the Deformable GAN at work: references and poses by name in, images out, as with IPG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from yacs.config import CfgNode

from torchreid_genext import compat
from torchreid_genext.data.images import open_image
from torchreid_genext.data.pose_files import read_poses
from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.skeletons import scaled
from torchreid_genext.generators import build_generator
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.ipg.sampler import PRECISIONS
from torchreid_genext.training.state import fingerprint

__all__ = ["POSE_GENERATORS", "PoseSampler", "load_generator", "pose_sampler"]

POSE_GENERATORS = ("pg2", "deformable")
_NEEDS_JOINTS = ("deformable",)  # of the reference, too

# A file to the joints (18, 2) of its person, (y, x) in its pixels, -1 where missing.
Joints = Callable[[str], np.ndarray]


class PoseSampler:
    """Draws people in poses with a generator that is trained for one image size.

    Args:
        generator: as `build_generator` gives it; moved by the caller.
        poses: joints (18, 2) by name, of images of the generator's size.
        joints: of a reference, given as its path.
        precision: fp32, or bf16 or fp16 under autocast.

    Raises:
        ValueError: if the precision is unknown.
    """

    def __init__(
        self, generator: Saved, poses: Mapping[str, np.ndarray], joints: Joints, *, precision: str = "fp32"
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
        self.generator, self.precision, self._joints = generator, precision, joints
        self.device = next(generator.parameters()).device
        self._poses = {name: torch.as_tensor(pose).float() for name, pose in poses.items()}

    def __call__(
        self, references: Sequence[str], poses: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """An image for each reference, pose and seed; it depends on these three alone.

        Raises:
            ValueError: if a reference has no joints and the generator needs them.
        """
        read = {path: self._read(path) for path in dict.fromkeys(references)}
        images, keypoints = (torch.stack(each) for each in zip(*(read[path] for path in references)))
        targets = torch.stack([self._poses[name] for name in poses])
        noise = [Generator().manual_seed(seed) for seed in seeds]
        with torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"):
            made = self.generator.generate(
                *(each.to(self.device) for each in (images, keypoints, targets)), generators=noise
            )
        pixels = ((made.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return [Image.fromarray(each) for each in pixels.cpu().numpy()]

    def _read(self, path: str) -> tuple[Tensor, Tensor]:
        """The reference in [-1, 1], and its joints in pixels of the generator."""
        height, width = self.generator.image_size
        with open_image(path) as image:
            size, small = image.size[::-1], image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1
        joints = self._joints(path)
        shown = (joints >= 0).all(axis=1, keepdims=True)
        points = np.where(shown, scaled(joints, size, (height, width)).clip(min=0), -1)
        if self.generator.kind in _NEEDS_JOINTS and not shown.any():
            raise ValueError(f"expected joints of the person in {path}, got none")
        return pixels, torch.from_numpy(points).float()

    def provenance(self) -> dict[str, Any]:
        """What beside reference, pose and seed decides on an image."""
        weights = fingerprint(self.generator.state_dict())
        return {
            "generator": self.generator.kind, "weights": weights, "sampling": {"precision": self.precision}
        }  # fmt: skip


def load_generator(cfg: CfgNode) -> Saved:
    """The generator that ``genext.generator`` names, with the weights of its node.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the generator is unknown, or no file is named.
    """
    name = cfg.genext.generator
    if name not in POSE_GENERATORS:
        raise ValueError(f"unknown genext.generator {name!r}; choose from ipg, {', '.join(POSE_GENERATORS)}")
    if not (weights := cfg.genext[name].weights):
        raise ValueError(f"expected genext.{name}.weights, a file of tools/train_gan.py, got none")
    return build_generator(name, weights)


def pose_sampler(
    cfg: CfgNode, dataset: str, generator: Saved, poses: Mapping[str, np.ndarray]
) -> PoseSampler:
    """A sampler of people of a data set, whose joints are in the file that the generator's keys name.

    Raises:
        FileNotFoundError: if there is no such file and the generator needs it.
    """
    joints = _joints_of(cfg, dataset) if generator.kind in _NEEDS_JOINTS else _no_joints
    return PoseSampler(generator, poses, joints, precision=cfg.genext.ipg.sampling.precision)


def _joints_of(cfg: CfgNode, dataset: str) -> Joints:
    folder = compat.image_dataset_folder(dataset, cfg.data.root)
    found = read_poses(folder / cfg.genext[cfg.genext.generator].poses)
    return lambda path: found.get(Path(path).name, _no_joints(path))


def _no_joints(path: str) -> np.ndarray:
    return np.full((len(JOINTS), 2), -1.0)
