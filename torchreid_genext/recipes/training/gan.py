"""PG2, Deformable GAN and CamStyle from a configuration, each in a folder of its own below ``data.save_dir``.

pg2          stage I, then stage II and its discriminator   -> pg2.safetensors
deformable   generator and discriminator                    -> deformable.safetensors
camstyle     one model of all cameras, or that of a pair    -> camstyle.safetensors, or pair1_2.safetensors
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from yacs.config import CfgNode

from torchreid_genext.data.generator_batches.balanced_cameras import CameraBalanced
from torchreid_genext.data.generator_batches.orders import Partners, Shuffled, alike, batches
from torchreid_genext.data.generator_batches.posed_pairs import (
    PosePairs,
    pose_pairs,
    with_partners,
    with_poses,
)
from torchreid_genext.data.images.batch_transforms import Augmentation
from torchreid_genext.data.images.in_memory import ImageTensor, load_images
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.generators import deformable, pg2
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.camstyle import (
    CameraPair,
    CameraStyle,
    PairDiscriminator,
    PatchDiscriminator,
)
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL
from torchreid_genext.recipes.training.examples import asked_for, first_shown, two_of_each
from torchreid_genext.recipes.training.schedules import Schedule, configured_size, placed, run, schedule
from torchreid_genext.training.camstyle import CameraStyleTask, EnlargedCrop
from torchreid_genext.training.deformable import DeformableTask, with_geometry
from torchreid_genext.training.pg2 import StageOneTask, StageTwoTask

__all__ = ["STAGES", "train"]

STAGES = ADVERSARIAL
_TORSO = (
    "right_hip",
    "left_hip",
    "right_shoulder",
    "left_shoulder",
)  # tells where parts go
_BETAS = (0.5, 0.999)  # of Adam, in all three papers
_POOL = 50  # generated images that CamStyle's discriminator remembers; at least a batch
_SIZE = (128, 64)
_IMAGES = 2  # of each camera in a batch, where the configuration does not say


def train(cfg: CfgNode, stages: Sequence[str] = ()) -> dict[str, Path]:
    """Train generators on the first of ``data.sources``.

    Args:
        cfg: the whole configuration.
        stages: some of `STAGES`; without any, ``genext.generator``.

    Returns:
        The file of each, as `build_generator` reads it; weights are averages, if ``ema_decay`` keeps any.

    Raises:
        FileNotFoundError: if there is no file of joints.
        ValueError: if a stage is unknown, images lack joints or a camera lacks images, or as `training.fit`.
    """
    stages = stages or (cfg.genext.generator,)
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"unknown adversarial generator {unknown[0]!r}; choose from {', '.join(STAGES)}")
    trainings = {"pg2": _PG2, "deformable": _Deformable, "camstyle": _CamStyle}
    return {stage: trainings[stage](cfg, stage).run() for stage in stages}


class _Training:
    """What all of them have in common.

    Attributes:
        node: the generator's own keys.
        images: what is learnt from.
        train: builds, trains and saves; gives the file.
    """

    node: CfgNode
    images: ImageTensor
    train: Callable[[], Path]

    stages: Sequence[str] = ()  # those of its schedules; none: its name

    def __init__(self, cfg: CfgNode, name: str) -> None:
        self.cfg, self.name, self.node = cfg, name, cfg.genext[name]
        self.size = configured_size(cfg, _SIZE)
        self.schedules = [schedule(cfg, stage) for stage in self.stages or (name,)]
        self.folder = Path(os.path.expanduser(cfg.data.save_dir), name)
        self.file = self.folder / f"{name}.safetensors"

    def run(self) -> Path:
        torch.manual_seed(self.cfg.genext.training.seed)  # not earlier: reading images may draw numbers
        return self.train()

    def load(self, split: str) -> ImageTensor:
        height, width = self.size
        return load_images(
            self.cfg.data.sources[0], self.cfg.data.root, height=height, width=width, split=split,
            cache_dir=Path(self.cfg.data.save_dir, "images"),
        )  # fmt: skip

    def fit(
        self, task: Any, source: Any, how: Schedule, folder: Path, *, other: Sequence[str] = (),
        result: Saved | None = None,
    ) -> None:  # fmt: skip
        """Train, and write the result, if it is whole by then; `other` keys do not touch it."""
        keys = {name: value for name, value in self.node.items() if name not in ("weights", *other)}
        keys |= {"image_size": self.size, "partners": self.cfg.genext.training.partners, "flip": how.flip}
        finish = partial(self.save, result) if result else lambda: None
        run(self.cfg, task, source, how, folder, {"images": len(self.images), "keys": keys}, finish)

    def save(self, generator: Saved) -> Path:
        return generator.eval().save(self.file)


def _adam(module: nn.Module, how: Schedule) -> Optimizer:
    return AdamW(module.parameters(), how.lr, _BETAS, weight_decay=how.weight_decay, fused=True)


class _OfPoses(_Training):
    """Trainings on pairs of images of a person, with joints.

    Attributes:
        keypoints: of the images, (N, 18, 2).
        examples: pairs of people who are not learnt from, or else of those; None if there are no others.
    """

    required: Sequence[str] = ()

    def __init__(self, cfg: CfgNode, name: str) -> None:
        super().__init__(cfg, name)
        self.joints = read_dataset_poses(cfg.data.sources[0], cfg.data.root, cfg.genext.joints)
        posed = with_poses(self.load("train"), self.joints, required=self.required)
        posed = with_partners(posed, self._alike(posed.images))
        self.images, self.keypoints = posed.images, posed.keypoints
        self.examples = first_shown(("gallery", "query", "train"), self._shown)

    def _alike(self, images: ImageTensor) -> Tensor:
        return alike(images.pids, images.camids, self.cfg.genext.training.partners)

    def _shown(self, split: str) -> PosePairs:
        images = asked_for(self.cfg, split, self.load(split))
        posed = with_poses(images, self.joints, required=self.required)
        images, points, (one, other) = posed.images, posed.keypoints, two_of_each(self._alike(posed.images))
        return PosePairs(
            images.images[one], points[one], images.images[other], points[other],
            images.pids[one], images.camids[one], one,
        )  # fmt: skip

    def pairs(self, how: Schedule) -> Any:
        seed = self.cfg.genext.training.seed
        order = Shuffled(len(self.images), how.batch_size, seed)
        partners = Partners(self._alike(self.images))
        return pose_pairs(placed(self.images), self.keypoints, order, partners, seed=seed, flip=how.flip)


class _PG2(_OfPoses):
    stages = ("pg2_stage1", "pg2_stage2")

    def train(self) -> Path:
        node, (first, second) = self.node, self.schedules
        radius = max(1, pg2.RADIUS * self.size[0] // _SIZE[0])
        generator = pg2.PG2(self.size, width=node.channels, radius=radius)
        coarse = StageOneTask(generator, _adam(generator.stage1, first), examples=self.examples)
        self._stage("stage1", coarse, first, other=("official", "discriminator_channels"))
        arrangement = "official" if node.official else "pairwise"
        judge = pg2.Discriminator(self.size, arrangement=arrangement, width=node.discriminator_channels)
        optimizers = [_adam(each, second) for each in (generator.stage2, judge)]
        refined = StageTwoTask(generator, judge, *optimizers, examples=self.examples)
        self._stage("stage2", refined, second, result=generator)
        return self.file

    def _stage(self, name: str, task: Any, how: Schedule, **options: Any) -> None:
        self.fit(task, self.pairs(how), how, self.folder / name, **options)


class _Deformable(_OfPoses):
    required = _TORSO

    def train(self) -> Path:
        node, (how,) = self.node, self.schedules
        generator = deformable.DeformableGAN(
            self.size, encoder=node.widths, decoder=node.widths[:0:-1], skips=node.skips,
            dropout=node.dropout,
        )  # fmt: skip
        judge = deformable.Discriminator(self.size, widths=node.discriminator_channels)
        task = DeformableTask(
            generator, judge, _adam(generator, how), _adam(judge, how),
            features=self._features(), examples=self.examples,
        )  # fmt: skip
        self.fit(task, with_geometry(self.pairs(how), generator), how, self.folder, result=generator)
        return self.file

    def _features(self) -> nn.Module | None:
        return deformable.VGG19Features.load(self.node.vgg19) if self.node.vgg19 else None


class _CamStyle(_Training):
    def __init__(self, cfg: CfgNode, name: str) -> None:
        super().__init__(cfg, name)
        self.images = self.load("train")
        if pair := "_".join(str(camera + 1) for camera in self.node.pair):  # one of many in the folder
            self.folder, self.file = self.folder / f"pair{pair}", self.folder / f"pair{pair}.safetensors"

    def train(self) -> Path:
        pair, (how,) = tuple(self.node.pair), self.schedules
        style, judge = self._pair(pair) if pair else self._joint()
        images = self._images(how, len(style.cameras))
        seed = self.cfg.genext.training.seed
        order = CameraBalanced(self.images.camids, images, seed, cameras=pair or None)
        task = CameraStyleTask(
            style, judge, _adam(style, how), _adam(judge, how),
            augment=EnlargedCrop() if pair else Augmentation(flip=how.flip),
            pool=max(_POOL, images * len(style.cameras)),
            examples=first_shown(("query", "train"), self._shown),
        )  # fmt: skip
        self.fit(task, batches(placed(self.images), order), how, self.folder, result=style)
        return self.file

    def _images(self, how: Schedule, cameras: int) -> int:
        """Of each camera in a batch."""
        if how.batch_size % cameras:
            rule = f"expected genext.training.batch_size in multiples of {cameras}, the cameras"
            raise ValueError(f"{rule}, got {how.batch_size}")
        return how.batch_size // cameras or _IMAGES

    def _joint(self) -> tuple[CameraStyle, PatchDiscriminator]:
        node, cameras = self.node, int(self.images.camids.max()) + 1
        style = CameraStyle(cameras, image_size=self.size, width=node.channels, blocks=node.blocks)
        return style, PatchDiscriminator(cameras, **self._judge("spectral"))

    def _pair(self, pair: tuple[int, int]) -> tuple[CameraPair, PairDiscriminator]:
        options = {"image_size": self.size, "width": self.node.channels, "blocks": self.node.blocks}
        return CameraPair(*pair, **options, official=True), PairDiscriminator(pair, **self._judge("instance"))

    def _judge(self, norm: str) -> dict[str, Any]:
        return {"width": self.node.discriminator_channels, "layers": self.node.layers, "norm": norm}

    def _shown(self, split: str) -> tuple[Tensor, Tensor]:
        """An image of each camera."""
        images = self.load(split)
        cameras = list(self.node.pair) or self.images.camids.unique().tolist()
        if missing := sorted({*cameras} - {*images.camids.tolist()}):
            raise ValueError(f"expected images of camera {missing[0] + 1}, got none")
        rows = torch.tensor([int((images.camids == camera).nonzero()[0, 0]) for camera in cameras])
        return images.images[rows], images.camids[rows]
