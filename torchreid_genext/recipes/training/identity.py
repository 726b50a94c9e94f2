"""GenerativePersonReID from a configuration: its stages, in folders of their own below ``data.save_dir``.

gen        denoiser and table of identities      -> generator.safetensors
prior      the distribution of its codes         -> prior.safetensors
inverter   images to codes                       -> inverter.safetensors
noise      images to noise                       -> noise_inverter.safetensors
cross      encoder and denoiser without a table  -> inverter.safetensors, generator.safetensors
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_genext.data.generator_batches.orders import Partners, Shuffled, batches
from torchreid_genext.data.images.batch_transforms import Augmentation
from torchreid_genext.data.images.in_memory import ImageTensor, channel_statistics, load_images
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.identity import IdentityGenerator, appearance_codes
from torchreid_genext.generators.inverter import Inverter, NoiseInverter
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.training.schedules import Schedule, configured_size, placed, run, schedule
from torchreid_genext.training import Task
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
_SIZE = (64, 32)
_STEPS, _PRIOR_STEPS = 10, 50  # of samplers, where the configuration does not say
_FASTER = 3.0  # learning rate of the classifier, in those of the rest
# What losses count: cross-entropy, and the triplet loss.
_CLASSIFICATION, _RANKING = {"inverter": 0.3, "cross": 1.0}, {"inverter": 0.0, "cross": 1.0}
_DENOISED = {"inverter": 0.25, "cross": 0.4}  # share of the images that are denoised, too


@dataclass(frozen=True)
class _Manner:
    """Where our way and the authors' part.

    Attributes:
        prediction: of the denoiser. loss: of that.
        looks: whether codes start from how people look on average, or at random.
        raw: whether labels are the numbers in file names, or counted from 0.
        rows: of the table, at least.
        shuffle: whether images come in another order each time.
        all_rows: whether the prior also learns rows of nobody.
        data: what the inverter learns from. pool: synthetic pairs, made once; 0: new ones a step.
        padding, erase: of the images that it sees, as of `Augmentation`.
    """

    prediction: str = "v"
    loss: str = "l2"
    looks: bool = True
    raw: bool = False
    rows: int = 1
    shuffle: bool = True
    all_rows: bool = False
    data: str = "mixed"
    pool: int = 4096
    padding: int = 2
    erase: float = 0.3


_AUTHORS = _Manner("eps", "l1", False, True, 1502, False, True, "synthetic", 0, 0, 0.0)


def train(cfg: CfgNode, stages: Sequence[str]) -> dict[str, Path]:
    """Train stages one after the other; each reads what earlier ones, or earlier runs, have written.

    Args:
        cfg: the whole configuration; the first of ``data.sources`` is learnt from.
        stages: some of `STAGES`.

    Returns:
        The folder of each stage.

    Raises:
        FileNotFoundError: if a stage needs what has not been trained.
        ValueError: if a stage is unknown, or as `schedule` and `training.fit`.
    """
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}")
    official = cfg.genext.identity.official
    recipe = _Recipe(cfg, {stage: schedule(cfg, stage, official=official) for stage in stages})
    return {stage: getattr(recipe, stage)() for stage in stages}


@dataclass
class _Recipe:
    """The stages of a configuration."""

    cfg: CfgNode
    schedules: dict[str, Schedule]

    @property
    def folder(self) -> Path:
        return Path(os.path.expanduser(self.cfg.data.save_dir))

    @property
    def manner(self) -> _Manner:
        return _AUTHORS if self.cfg.genext.identity.official else _Manner()

    @cached_property
    def images(self) -> ImageTensor:
        """The training images, with the labels that the table is asked for."""
        height, width = self.image_size
        found = load_images(
            self.cfg.data.sources[0], self.cfg.data.root, height=height, width=width,
            cache_dir=self.folder / "images",
        )  # fmt: skip
        if not self.manner.raw:
            return found
        if found.raw_pids is None:
            raise ValueError(f"expected numbers of people in file names, got {found.paths[0]}")
        return replace(found, pids=found.raw_pids)

    def gen(self) -> Path:
        generator = self.new_generator()
        if self.manner.looks:
            people, averages = self.images.averages()
            generator.table.weight.data[people] = appearance_codes(averages, generator.code_width)
        flip = Augmentation(flip=self.schedules["gen"].flip)
        task = GeneratorTask(
            generator, self.optimizer("gen", generator), augment=flip, loss=self.manner.loss
        )  # fmt: skip
        return self.fit("gen", task, self.shuffled("gen"), {"generator": generator})

    def prior(self) -> Path:
        generator = self.trained(IdentityGenerator, "gen", "generator")
        codes = generator.table.weight.detach() if self.manner.all_rows else generator.trained_codes()
        prior = CodePrior(generator.code_width)
        prior.fit_normalizer(codes)
        task = PriorTask(prior, self.optimizer("prior", prior), generator)
        drawn = _rows(codes, self.schedules["prior"].batch_size, self.cfg.genext.training.seed)
        return self.fit("prior", task, drawn, {"prior": prior})

    def inverter(self) -> Path:
        inverter, classifier = self.new_inverter(), self.classifier()
        task = InverterTask(
            inverter,
            classifier,
            self.optimizer("inverter", inverter, classifier=classifier),
            self.synthetic(pool=self.manner.pool),
            augment=self.augmentation("inverter"),
            data=self.cfg.genext.inverter.data or self.manner.data,
            denoised=_DENOISED["inverter"],
            losses=self.losses("inverter"),
        )
        drawn = self.shuffled("inverter", partners=self.partners())
        return self.fit("inverter", task, drawn, {"inverter": inverter})

    def noise(self) -> Path:
        inverter = NoiseInverter(self.cfg.genext.identity.widths, image_size=self.image_size)
        task = NoiseInverterTask(inverter, self.optimizer("noise", inverter), self.synthetic())
        return self.fit("noise", task, self.shuffled("noise"), {"inverter": inverter})

    def cross(self) -> Path:
        inverter, classifier = self.new_inverter(unit=True), self.classifier()
        generator = self.new_generator(identities=1)
        task = CrossTask(
            inverter,
            generator,
            classifier,
            self.optimizer("cross", inverter, generator, classifier=classifier),
            augment=self.augmentation("cross"),
            flip=Augmentation(flip=self.schedules["cross"].flip),
            denoised=_DENOISED["cross"],
            losses=self.losses("cross"),
            examples=self.examples(),
        )
        drawn = self.shuffled("cross", partners=self.partners())
        return self.fit("cross", task, drawn, {"inverter": inverter, "generator": generator})

    @property
    def image_size(self) -> tuple[int, int]:
        return configured_size(self.cfg, _SIZE)

    def new_generator(self, identities: int = 0) -> IdentityGenerator:
        """Untrained, with the statistics of the images and a row for each label, unless told their number."""
        node, pids = self.cfg.genext.identity, self.images.pids
        mean, variance = channel_statistics(self.images.images)
        torch.manual_seed(self.cfg.genext.training.seed)
        generator = IdentityGenerator(
            identities or max(self.manner.rows, int(pids.max()) + 1),
            image_size=self.image_size,
            mean=mean.tolist(),
            variance=variance.tolist(),
            prediction=self.manner.prediction,
            widths=node.widths,
            code_width=node.code_width,
        )
        known = torch.arange(generator.table.num_embeddings)
        generator.trained.copy_(torch.isin(known, pids.unique()) & (not identities))
        return generator

    def new_inverter(self, *, unit: bool = False) -> Inverter:
        identity, hidden = self.cfg.genext.identity, self.cfg.genext.inverter.hidden
        torch.manual_seed(self.cfg.genext.training.seed + 1)
        return Inverter(
            identity.widths, code_width=identity.code_width, hidden=hidden, image_size=self.image_size,
            unit=unit,
        )  # fmt: skip

    def synthetic(self, pool: int = 0) -> SyntheticPairs:
        steps = self.cfg.genext.sampling.steps
        return SyntheticPairs(
            self.trained(IdentityGenerator, "gen", "generator"),
            self.trained(CodePrior, "prior", "prior"),
            steps=steps or _STEPS,
            prior_steps=steps or _PRIOR_STEPS,
            pool=pool,
        )

    def classifier(self) -> nn.Module:
        """Codes to people, behind a BatchNorm."""
        width, people = self.cfg.genext.identity.code_width, int(self.images.pids.max()) + 1
        linear = nn.Linear(width, people, bias=False)
        nn.init.normal_(linear.weight, std=0.1)  # a narrow code needs larger weights than the default
        return nn.Sequential(nn.BatchNorm1d(width), linear)

    def losses(self, stage: str) -> IdentityLosses:
        smoothing = 0.1 if self.cfg.loss.softmax.label_smooth else 0.0
        return IdentityLosses(
            partial(F.cross_entropy, label_smoothing=smoothing),
            soft_margin_triplet,
            _CLASSIFICATION[stage],
            _RANKING[stage],
        )

    def augmentation(self, stage: str) -> Augmentation:
        manner = self.manner
        return Augmentation(flip=self.schedules[stage].flip, padding=manner.padding, erase=manner.erase)

    def examples(self) -> Tensor:
        """An image of each of a few people."""
        people = self.images.pids.unique()[:_EXAMPLES]
        first = [int((self.images.pids == person).nonzero()[0]) for person in people]
        return self.images.images[first]

    def partners(self) -> Partners:
        return Partners(self.images.pids, self.images.camids)

    def shuffled(self, stage: str, **options: Any) -> Callable[[int, int, int], Iterator[Any]]:
        seed, size = self.cfg.genext.training.seed, self.schedules[stage].batch_size
        order = Shuffled(len(self.images), size, seed, shuffle=self.manner.shuffle)
        return batches(placed(self.images), order, seed=seed, **options)

    def optimizer(
        self, stage: str, *modules: nn.Module, classifier: nn.Module | None = None
    ) -> torch.optim.Optimizer:
        how = self.schedules[stage]
        groups = [{"params": [parameter for module in modules for parameter in module.parameters()]}]
        if classifier is not None:
            groups.append({"params": [*classifier.parameters()], "lr": _FASTER * how.lr})
        return torch.optim.AdamW(groups, how.lr, weight_decay=how.weight_decay, fused=True)

    def trained(self, kind: type[Saved], stage: str, name: str) -> Any:
        """What an earlier stage has written."""
        path = self.folder / stage / f"{name}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"expected the result of stage {stage}, got none: {path} does not exist")
        return kind.load(path)

    def fit(self, stage: str, task: Task, drawn: Callable, networks: dict[str, Saved]) -> Path:
        """Train, and write the networks with their averaged weights."""
        folder, how = self.folder / stage, self.schedules[stage]
        pairs = {"data": self.cfg.genext.inverter.data, "steps": self.cfg.genext.sampling.steps}
        described = {
            "stage": stage, "images": len(self.images), "flip": how.flip, "pairs": pairs,
            "manner": asdict(self.manner),
            "networks": {name: network.config for name, network in networks.items()},
        }  # fmt: skip
        run(self.cfg, task, drawn, how, folder, described, partial(self.save, folder, networks))
        return folder

    def save(self, folder: Path, networks: dict[str, Saved]) -> None:
        for name, network in networks.items():
            network.save(folder / f"{name}.safetensors")


def _rows(codes: Tensor, batch_size: int, seed: int) -> Callable[[int, int, int], Iterator[Tensor]]:
    """Batches of codes; a batch may be longer than there are codes, so they are drawn with repetition."""

    def drawn(first: int, rank: int, world: int) -> Iterator[Tensor]:
        position = first
        while True:
            random = torch.Generator().manual_seed(seed * 1_000_003 + position)
            yield codes[torch.randint(len(codes), (batch_size,), generator=random)[rank::world]]
            position += 1

    return drawn
