"""One person in one pose: any generator that has weights, and skeletons that somebody has drawn."""

from __future__ import annotations

import functools
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from torchreid_genext.data.poses import JOINTS, draw_skeleton
from torchreid_genext.data.poses.standard import standard_poses

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["GENERATORS", "Poser", "read_skeleton", "skeleton_of", "standard_skeletons"]

GENERATORS = {"ipg": "IPG (diffusion)", "pg2": "PG2 (GAN)", "deformable": "Deformable GAN"}
_LEAST_JOINTS = 3  # of fewer no body can be told

Skeleton = list[list[float] | None]  # 18 joints as [x, y], shares of the picture; None where hidden


def read_skeleton(text: str) -> Skeleton:
    """A skeleton as a page sends it, in JSON.

    Raises:
        ValueError: if it is none, or has fewer than three joints.
    """
    try:
        found = json.loads(text)
        joints = [None if joint is None else _share(joint) for joint in found]
    except (TypeError, ValueError, RecursionError):
        joints = []
    if len(joints) != len(JOINTS):
        raise ValueError(f"expected {len(JOINTS)} joints [x, y] in 0..1, or null, got something else")
    if sum(joint is not None for joint in joints) < _LEAST_JOINTS:
        raise ValueError(f"expected a skeleton of at least {_LEAST_JOINTS} joints, got fewer; show some")
    return joints


def _share(joint: Any) -> list[float]:
    x, y = joint
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in (x, y)):
        raise ValueError
    return [float(x), float(y)]


def standard_skeletons() -> dict[str, Skeleton]:
    """The eight standard poses by name."""
    side = 1000
    return {name: skeleton_of(pose, (side, side)) for name, pose in standard_poses(side, side).items()}


def skeleton_of(pose: np.ndarray, size: tuple[int, int]) -> Skeleton:
    """Joints (18, 2) of (y, x) pixels in a picture of a size (height, width), -1 missing, as shares."""
    shares = ((pose + 0.5) / size).clip(0, 1)
    return [
        None if (joint == -1).any() else [round(float(x), 4), round(float(y), 4)]
        for joint, (y, x) in zip(pose, shares)
    ]


def pose_of(skeleton: Skeleton, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `skeleton_of`; (18, 2)."""
    missing = [-1.0, -1.0]
    points = [missing if joint is None else [joint[1], joint[0]] for joint in skeleton]
    there = np.array([joint is not None for joint in skeleton])[:, None]
    return np.where(there, (np.array(points) * size - 0.5).clip(min=0), -1.0)


class Poser:
    """Draws people in poses; networks are loaded when they are first asked for.

    Args:
        cfg: the whole configuration, whose ``genext.sampling`` says how IPG draws, and whose weights count.
        joints_of: file of a picture to its joints (18, 2) in pixels, for the Deformable GAN.
    """

    def __init__(self, cfg: CfgNode, joints_of: Callable[[str], np.ndarray]) -> None:
        self._cfg, self._joints_of, self._lock = cfg, joints_of, threading.Lock()

    @property
    def names(self) -> list[str]:
        """Generators that have weights."""
        weights = {"ipg": self._cfg.genext.sampling.pipeline}
        weights |= {name: self._cfg.genext[name].weights for name in ("pg2", "deformable")}
        return [name for name in GENERATORS if weights[name]]

    def draw(
        self,
        image: Image.Image,
        skeletons: Sequence[Skeleton],
        generator: str,
        *,
        path: str = "",
        seed: int = 0,
    ) -> list[Image.Image]:
        """The person of a picture in each pose.

        Args:
            image: of the person.
            skeletons: of the poses.
            generator: a name in `names`.
            path: file of the picture, by which joints of the person are known; empty for an upload.
            seed: of IPG's noise, the same for each pose; the others draw none.

        Raises:
            ValueError: if the generator is unknown, has no weights, or needs joints of the person that are
                unknown.
            OSError: if its weights cannot be read.
        """
        if generator not in self.names:
            known = ", ".join(self.names) or "none"
            raise ValueError(f"unknown generator {generator!r}; choose from those with weights: {known}")
        with self._lock:
            if generator == "ipg":
                return self._ipg(image, skeletons, seed)
            return self._adversarial(image, skeletons, generator, path)

    def _ipg(self, image: Image.Image, skeletons: Sequence[Skeleton], seed: int) -> list[Image.Image]:
        pipe, options = self._pipeline
        size = options["height"], options["width"]
        style = pipe.config.pose_style
        drawn = [draw_skeleton(pose_of(skeleton, size), size, style=style) for skeleton in skeletons]
        noise = [torch.Generator().manual_seed(seed) for _ in skeletons]
        return pipe(image, drawn, generator=noise, **options).images

    @functools.cached_property
    def _pipeline(self) -> tuple[Any, Mapping[str, Any]]:
        from torchreid_genext.generators.ipg.sampler import prepare  # diffusers takes seconds to import
        from torchreid_genext.recipes.drawing import stores

        pipe = stores.load_pipeline(self._cfg)
        return pipe, prepare(pipe, replace(stores.sampling(self._cfg, pipe), compile=False))

    def _adversarial(
        self, image: Image.Image, skeletons: Sequence[Skeleton], name: str, path: str
    ) -> list[Image.Image]:
        from torchreid_genext.recipes.drawing.samplers import PoseSampler

        if name == "deformable" and not path:
            cure = "choose a person of the data set, or another generator"
            raise ValueError(f"expected joints of the person for the Deformable GAN, got an upload; {cure}")
        network, file = self._network(name), io.BytesIO()
        image.save(file, "PNG")
        poses = {str(n): pose_of(each, network.image_size) for n, each in enumerate(skeletons)}
        joints = self._joints_of(path) if name == "deformable" else np.full((len(JOINTS), 2), -1.0)
        sampler = PoseSampler(network, poses, lambda _: joints)
        return sampler([file] * len(poses), [*poses], [0] * len(poses))

    @functools.cache  # noqa: B019 - one Poser lives as long as the page
    def _network(self, name: str) -> Any:
        from torchreid_genext.recipes.drawing.samplers import load_generator

        cfg = self._cfg.clone()
        cfg.genext.generator = name
        return load_generator(cfg)
