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
from torchreid_genext.training import Options, fit
from torchreid_genext.training.camstyle import CameraStyleTask, EnlargedCrop
from torchreid_genext.training.deformable import DeformableTask
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
_OF_OPTIMIZERS = ("batch_size", "lr", "weight_decay")  # keys of a schedule


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

    def __init__(self, cfg: CfgNode, name: str) -> None:
        self.cfg, self.name, self.node = cfg, name, cfg.genext[name]
        self.size = (self.node.height, self.node.width)
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
        self,
        task: Any,
        source: Any,
        schedule: CfgNode,
        folder: Path,
        *,
        other: Sequence[str] = (),
        result: Saved | None = None,
    ) -> None:
        """Train, and write the result, if it is whole by then; `other` keys do not touch it."""
        options = {name: value for name, value in schedule.items() if name not in _OF_OPTIMIZERS}
        options = Options(folder=folder, **dict(self.cfg.genext.training), **options)
        finish = partial(self.save, result) if result else lambda: None
        fit(task, source, options, description=self.description(schedule, other), finish=finish)

    def description(self, schedule: CfgNode, other: Sequence[str]) -> dict[str, Any]:
        """What decides on the weights, beside the loop's own options."""
        keys = {name: value for name, value in self.node.items() if not isinstance(value, CfgNode)}
        keys = {name: value for name, value in keys.items() if name not in ("weights", *other)}
        data = {"data": self.cfg.data.sources[0], "images": len(self.images)}
        return data | {"batch_size": schedule.get("batch_size", 0), "keys": keys}

    def save(self, generator: Saved) -> Path:
        return generator.eval().save(self.file)


def _adam(module: nn.Module, schedule: CfgNode) -> Optimizer:
    return AdamW(module.parameters(), schedule.lr, _BETAS, weight_decay=schedule.weight_decay, fused=True)


class _OfPoses(_Training):
    """Trainings on pairs of images of a person, with joints.

    Attributes:
        keypoints: of the images, (N, 18, 2).
        examples: pairs of people who are not learnt from, or else of those; None if there are no others.
    """

    required: Sequence[str] = ()

    def __init__(self, cfg: CfgNode, name: str) -> None:
        super().__init__(cfg, name)
        self.joints = read_dataset_poses(cfg.data.sources[0], cfg.data.root, self.node.poses)
        posed = with_poses(self.load("train"), self.joints, required=self.required)
        posed = with_partners(posed, self._alike(posed.images))
        self.images, self.keypoints = posed.images, posed.keypoints
        self.examples = first_shown(("gallery", "query", "train"), self._shown)

    def _alike(self, images: ImageTensor) -> Tensor:
        return alike(images.pids, images.camids, self.node.partners)

    def _shown(self, split: str) -> PosePairs:
        images = asked_for(self.cfg, split, self.load(split))
        posed = with_poses(images, self.joints, required=self.required)
        images, points, (one, other) = posed.images, posed.keypoints, two_of_each(self._alike(posed.images))
        return PosePairs(
            images.images[one], points[one], images.images[other], points[other],
            images.pids[one], images.camids[one], one,
        )  # fmt: skip

    def pairs(self, batch_size: int) -> Any:
        seed = self.cfg.genext.training.seed
        order = Shuffled(len(self.images), batch_size, seed)
        partners = Partners(self._alike(self.images))
        return pose_pairs(self.images, self.keypoints, order, partners, seed=seed, flip=self.node.flip)


class _PG2(_OfPoses):
    def train(self) -> Path:
        node = self.node
        generator = pg2.PG2(self.size, width=node.channels, code=node.code, radius=node.radius)
        coarse = StageOneTask(generator, _adam(generator.stage1, node.stage1.train), examples=self.examples)
        self._stage("stage1", coarse, other=("discriminator", "discriminator_channels", "reconstruction"))
        judge = pg2.Discriminator(
            self.size, arrangement=node.discriminator, width=node.discriminator_channels
        )
        optimizers = [_adam(each, node.stage2.train) for each in (generator.stage2, judge)]
        refined = StageTwoTask(
            generator, judge, *optimizers, reconstruction=node.reconstruction, examples=self.examples
        )
        self._stage("stage2", refined, result=generator)
        return self.file

    def _stage(self, name: str, task: Any, **options: Any) -> None:
        schedule = self.node[name].train
        self.fit(task, self.pairs(schedule.batch_size), schedule, self.folder / name, **options)


class _Deformable(_OfPoses):
    required = _TORSO

    def train(self) -> Path:
        node, schedule = self.node, self.node.train
        generator = deformable.DeformableGAN(
            self.size, encoder=node.encoder, decoder=node.decoder, skips=node.skips,
            aggregation=node.aggregation, estimator=node.estimator, dropout=node.dropout,
        )  # fmt: skip
        judge = deformable.Discriminator(self.size, widths=node.discriminator_channels)
        task = DeformableTask(
            generator, judge, _adam(generator, schedule), _adam(judge, schedule),
            reconstruction=node.reconstruction, features=self._features(), window=node.window,
            weight=node.weight or None, examples=self.examples,
        )  # fmt: skip
        self.fit(task, self.pairs(schedule.batch_size), schedule, self.folder, result=generator)
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
        node, pair = self.node, tuple(self.node.pair)
        style, judge = self._pair(pair) if pair else self._joint()
        order = CameraBalanced(
            self.images.camids, node.images, self.cfg.genext.training.seed, cameras=pair or None
        )
        task = CameraStyleTask(
            style, judge, _adam(style, node.train), _adam(judge, node.train),
            augment=EnlargedCrop() if pair else Augmentation(flip=node.flip),
            pool=node.pool, cycle=node.cycle, identity=node.identity,
            examples=first_shown(("query", "train"), self._shown),
        )  # fmt: skip
        self.fit(task, batches(self.images, order), node.train, self.folder, result=style)
        return self.file

    def _joint(self) -> tuple[CameraStyle, PatchDiscriminator]:
        node, cameras = self.node, int(self.images.camids.max()) + 1
        style = CameraStyle(cameras, image_size=self.size, width=node.channels, blocks=node.blocks)
        return style, PatchDiscriminator(cameras, **self._judge())

    def _pair(self, pair: tuple[int, int]) -> tuple[CameraPair, PairDiscriminator]:
        options = {"image_size": self.size, "width": self.node.channels, "blocks": self.node.blocks}
        return CameraPair(*pair, **options, official=True), PairDiscriminator(pair, **self._judge())

    def _judge(self) -> dict[str, Any]:
        return {
            "width": self.node.discriminator_channels, "layers": self.node.layers, "norm": self.node.norm
        }  # fmt: skip

    def _shown(self, split: str) -> tuple[Tensor, Tensor]:
        """An image of each camera."""
        images = self.load(split)
        cameras = list(self.node.pair) or self.images.camids.unique().tolist()
        if missing := sorted({*cameras} - {*images.camids.tolist()}):
            raise ValueError(f"expected images of camera {missing[0] + 1}, got none")
        rows = torch.tensor([int((images.camids == camera).nonzero()[0, 0]) for camera in cameras])
        return images.images[rows], images.camids[rows]
