"""GenerativePersonReID from a configuration: its stages, in folders of their own below ``data.save_dir``.

gen        denoiser and table of identities      -> generator.safetensors
prior      the distribution of its codes         -> prior.safetensors
inverter   images to codes                       -> inverter.safetensors
noise      images to noise                       -> noise_inverter.safetensors
cross      encoder and denoiser without a table  -> inverter.safetensors, generator.safetensors
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_genext import compat
from torchreid_genext.data.generator_batches.orders import Partners, Shuffled, batches
from torchreid_genext.data.images.batch_transforms import Augmentation
from torchreid_genext.data.images.in_memory import ImageTensor, channel_statistics, load_images
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.identity import IdentityGenerator, appearance_codes
from torchreid_genext.generators.inverter import Inverter, NoiseInverter
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.training import Options, Task, fit
from torchreid_genext.training.identity import (
    CrossTask,
    GeneratorTask,
    IdentityLosses,
    PriorTask,
    soft_margin_triplet,
)
from torchreid_genext.training.inversion import InverterTask, NoiseInverterTask, SyntheticPairs

__all__ = ["STAGES", "train"]

STAGES = ("gen", "prior", "inverter", "noise", "cross")
_EXAMPLES = 6  # people whose codes are drawn
_log = logging.getLogger(__name__)


def train(cfg: CfgNode, stages: Sequence[str]) -> dict[str, Path]:
    """Train stages one after the other; each reads what earlier ones, or earlier runs, have written.

    Args:
        cfg: the whole configuration; the first of ``data.sources`` is learnt from.
        stages: some of `STAGES`.

    Returns:
        The folder of each stage.

    Raises:
        FileNotFoundError: if a stage needs what has not been trained.
        ValueError: if a stage is unknown, or as `training.fit`.
    """
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}")
    recipe = _Recipe(cfg)
    return {stage: getattr(recipe, stage)() for stage in stages}


@dataclass
class _Recipe:
    """The stages of a configuration."""

    cfg: CfgNode

    @property
    def folder(self) -> Path:
        return Path(os.path.expanduser(self.cfg.data.save_dir))

    @cached_property
    def images(self) -> ImageTensor:
        """The training images, with the labels that the table is asked for."""
        identity = self.cfg.genext.identity
        found = load_images(
            self.cfg.data.sources[0], self.cfg.data.root, height=identity.height, width=identity.width,
            cache_dir=self.folder / "images",
        )  # fmt: skip
        if identity.labels == "train":
            return found
        if identity.labels != "raw":
            raise ValueError(f"unknown labels {identity.labels!r}; choose from train, raw")
        if found.raw_pids is None:
            raise ValueError(f"expected numbers of people in file names, got {found.paths[0]}")
        return replace(found, pids=found.raw_pids)

    def gen(self) -> Path:
        node, generator = self.cfg.genext.identity, self.new_generator()
        self.begin_table(generator)
        task = GeneratorTask(
            generator, self.optimizer(node, generator), augment=Augmentation(), loss=node.loss, pull=node.pull
        )
        return self.fit("gen", node, task, self.shuffled(node), {"generator": generator})

    def prior(self) -> Path:
        node, generator = self.cfg.genext.prior, self.trained(IdentityGenerator, "gen", "generator")
        codes = {"trained": generator.trained_codes(), "all": generator.table.weight.detach()}
        if node.rows not in codes:
            raise ValueError(f"unknown rows {node.rows!r}; choose from {', '.join(codes)}")
        prior = CodePrior(generator.code_width, width=node.width, layers=node.layers)
        prior.fit_normalizer(codes[node.rows])
        task = PriorTask(prior, self.optimizer(node, prior), generator)
        drawn = _rows(codes[node.rows], node.train.batch_size, self.cfg.genext.training.seed)
        return self.fit("prior", node, task, drawn, {"prior": prior})

    def inverter(self) -> Path:
        node, inverter, classifier = self.cfg.genext.inverter, self.new_inverter(), self.classifier()
        task = InverterTask(
            inverter,
            classifier,
            self.optimizer(node, inverter, classifier=classifier),
            self.synthetic(pool=node.pool),
            augment=self.augmentation(),
            data=node.data,
            denoised=node.denoised,
            denoising=node.denoising,
            losses=self.losses(node),
        )
        drawn = self.shuffled(node, partners=self.partners(True))
        return self.fit("inverter", node, task, drawn, {"inverter": inverter})

    def noise(self) -> Path:
        node = self.cfg.genext.inverter
        inverter = NoiseInverter(
            node.widths, depth=self.cfg.genext.identity.depth, image_size=self.image_size
        )
        task = NoiseInverterTask(inverter, self.optimizer(node, inverter), self.synthetic())
        return self.fit("noise", node, task, self.shuffled(node), {"inverter": inverter})

    def cross(self) -> Path:
        node, inverter, classifier = self.cfg.genext.cross, self.new_inverter(unit=True), self.classifier()
        generator = self.new_generator(identities=1)
        task = CrossTask(
            inverter,
            generator,
            classifier,
            self.optimizer(node, inverter, generator, classifier=classifier),
            augment=self.augmentation(),
            flip=Augmentation(),
            denoised=node.denoised,
            denoising=node.denoising,
            losses=self.losses(node),
            examples=self.examples(),
        )
        drawn = self.shuffled(node, partners=self.partners(node.other_camera))
        return self.fit("cross", node, task, drawn, {"inverter": inverter, "generator": generator})

    @property
    def image_size(self) -> tuple[int, int]:
        return self.cfg.genext.identity.height, self.cfg.genext.identity.width

    def new_generator(self, identities: int = 0) -> IdentityGenerator:
        """Untrained, with the statistics of the images and a row for each label, unless told their number."""
        node, pids = self.cfg.genext.identity, self.images.pids
        mean, variance = channel_statistics(self.images.images)
        torch.manual_seed(self.cfg.genext.training.seed)
        generator = IdentityGenerator(
            identities or node.rows or int(pids.max()) + 1,
            image_size=self.image_size,
            mean=mean.tolist(),
            variance=variance.tolist(),
            prediction=node.prediction,
            widths=node.widths,
            depth=node.depth,
            code_width=node.code_width,
        )
        known = torch.arange(generator.table.num_embeddings)
        generator.trained.copy_(torch.isin(known, pids.unique()) & (not identities))
        return generator

    def begin_table(self, generator: IdentityGenerator) -> None:
        start = self.cfg.genext.identity.table
        if start not in ("appearance", "random"):
            raise ValueError(f"unknown start of the table {start!r}; choose from appearance, random")
        if start == "appearance":
            people, averages = self.images.averages()
            codes = appearance_codes(averages, generator.code_width)
            generator.table.weight.data[people] = codes

    def new_inverter(self, *, unit: bool = False) -> Inverter:
        node, identity = self.cfg.genext.inverter, self.cfg.genext.identity
        torch.manual_seed(self.cfg.genext.training.seed + 1)
        return Inverter(
            node.widths,
            depth=identity.depth,
            code_width=identity.code_width,
            hidden=node.hidden,
            image_size=self.image_size,
            unit=unit,
        )

    def synthetic(self, pool: int = 0) -> SyntheticPairs:
        return SyntheticPairs(
            self.trained(IdentityGenerator, "gen", "generator"),
            self.trained(CodePrior, "prior", "prior"),
            steps=self.cfg.genext.identity.steps,
            prior_steps=self.cfg.genext.prior.steps,
            pool=pool,
        )

    def classifier(self) -> nn.Module:
        """Codes to people, behind a BatchNorm."""
        width, people = self.cfg.genext.identity.code_width, int(self.images.pids.max()) + 1
        linear = nn.Linear(width, people, bias=False)
        nn.init.normal_(linear.weight, std=0.1)  # a narrow code needs larger weights than the default
        return nn.Sequential(nn.BatchNorm1d(width), linear)

    def losses(self, node: CfgNode) -> IdentityLosses:
        scale, softly = self.cfg.genext.inverter.soft_margin, self.cfg.loss.softmax.label_smooth
        ranking = compat.triplet_loss(margin=self.cfg.loss.triplet.margin)
        return IdentityLosses(
            partial(F.cross_entropy, label_smoothing=0.1 if softly else 0.0),
            partial(soft_margin_triplet, scale=scale) if scale else ranking,
            node.classification,
            node.ranking,
        )

    def augmentation(self) -> Augmentation:
        node = self.cfg.genext.inverter
        return Augmentation(padding=node.padding, erase=node.erase)

    def examples(self) -> Tensor:
        """An image of each of a few people."""
        people = self.images.pids.unique()[:_EXAMPLES]
        first = [int((self.images.pids == person).nonzero()[0]) for person in people]
        return self.images.images[first]

    def partners(self, other_camera: bool) -> Partners:
        return Partners(self.images.pids, self.images.camids if other_camera else None)

    def shuffled(self, node: CfgNode, **options: Any) -> Callable[[int, int, int], Iterator[Any]]:
        seed = self.cfg.genext.training.seed
        shuffle, size = self.cfg.genext.identity.shuffle, node.train.batch_size
        order = Shuffled(len(self.images), size, seed, shuffle=shuffle)
        return batches(self.images, order, seed=seed, **options)

    def optimizer(
        self, node: CfgNode, *modules: nn.Module, classifier: nn.Module | None = None
    ) -> torch.optim.Optimizer:
        groups = [{"params": [parameter for module in modules for parameter in module.parameters()]}]
        if classifier is not None:
            faster = node.train.lr * self.cfg.genext.inverter.classifier_lr
            groups.append({"params": [*classifier.parameters()], "lr": faster})
        return torch.optim.AdamW(groups, node.train.lr, weight_decay=node.train.weight_decay, fused=True)

    def trained(self, kind: type[Saved], stage: str, name: str) -> Any:
        """What an earlier stage has written."""
        path = self.folder / stage / f"{name}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"expected the result of stage {stage}, got none: {path} does not exist")
        return kind.load(path)

    def fit(self, stage: str, node: CfgNode, task: Task, drawn: Callable, networks: dict[str, Saved]) -> Path:
        """Train, and write the networks with their averaged weights."""
        training, schedule = dict(self.cfg.genext.training), dict(node.train)
        for name in ("batch_size", "lr", "weight_decay"):
            del schedule[name]
        options = Options(folder=self.folder / stage, **training, **schedule)
        description = self.description(stage, node, networks)
        fit(task, drawn, options, description=description, finish=partial(self.save, stage, networks))
        return self.folder / stage

    def save(self, stage: str, networks: dict[str, Saved]) -> None:
        for name, network in networks.items():
            network.save(self.folder / stage / f"{name}.safetensors")

    def description(self, stage: str, node: CfgNode, networks: dict[str, Saved]) -> dict[str, Any]:
        """What decides on the weights, beside the loop's own options."""
        keys = {name: value for name, value in node.items() if name != "train"}
        return {
            "stage": stage, "data": self.cfg.data.sources[0], "images": len(self.images),
            "batch_size": node.train.batch_size, "keys": keys,
            "networks": {name: network.config for name, network in networks.items()},
        }  # fmt: skip


def _rows(codes: Tensor, batch_size: int, seed: int) -> Callable[[int, int, int], Iterator[Tensor]]:
    """Batches of codes; a batch may be longer than there are codes, so they are drawn with repetition."""

    def drawn(first: int, rank: int, world: int) -> Iterator[Tensor]:
        position = first
        while True:
            random = torch.Generator().manual_seed(seed * 1_000_003 + position)
            yield codes[torch.randint(len(codes), (batch_size,), generator=random)[rank::world]]
            position += 1

    return drawn
