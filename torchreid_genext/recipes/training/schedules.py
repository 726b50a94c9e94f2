"""How long and how fast each stage of each generator learns, and the one way in which all are trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.training import Batches, Options, Task, fit
from torchreid_genext.training.machine import place_of

__all__ = ["OFFICIAL", "OWN", "Schedule", "configured_size", "placed", "run", "schedule"]

_STAGE = re.compile(r"(\w+)\(([^()]*)\)")
_EXAMPLE = "prior(lr=1e-4,steps=3000)"
_OF_LOOP = ("seed", "mixed_precision", "accumulation", "picture_every", "save_every", "keep", "resume")
_OF_BOTH = ("steps", "warmup", "schedule", "clip_norm", "ema_decay")


@dataclass(frozen=True)
class Schedule:
    """How a stage learns; the names are those of ``genext.training``.

    Attributes:
        steps: updates.
        batch_size: of all processes together.
        lr: the learning rate at its peak.
        weight_decay: of AdamW.
        warmup, schedule, clip_norm, ema_decay: as of `training.Options`.
        flip: share of mirror images.

    Raises:
        ValueError: if a value is out of range.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: str = "constant"
    clip_norm: float = 0.0
    ema_decay: float = 0.999
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "lr", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"expected {name} >= 0, got {getattr(self, name)}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"expected flip in 0 .. 1, got {self.flip}")
        self.options(Path())

    def options(self, folder: Path, **others: Any) -> Options:
        """The loop's options; `others` are those of its own."""
        return Options(folder=folder, **others, **{name: getattr(self, name) for name in _OF_BOTH})


_INVERTER = Schedule(
    20000, 64, 5e-4, weight_decay=5e-4, warmup=200, schedule="cosine", clip_norm=5.0, flip=0.5
)  # fmt: skip
# What each stage has where keys say nothing. Of PG2, the Deformable GAN and CamStyle these are the authors',
# but for averages; a batch size of 0 is two images of each camera.
OWN = {
    "gen": Schedule(20000, 64, 1e-3, warmup=200, schedule="cosine", clip_norm=1.0, flip=0.5),
    "prior": Schedule(3000, 256, 1e-3, schedule="cosine"),
    "inverter": _INVERTER,
    "noise": _INVERTER,
    "cross": replace(_INVERTER, steps=30000, batch_size=32, lr=8e-4),
    "ipg": Schedule(20000, 32, 1e-3, weight_decay=0.01, warmup=200, schedule="cosine", clip_norm=1.0),
    "pg2_stage1": Schedule(22000, 16, 2e-5, flip=0.5),
    "pg2_stage2": Schedule(38000, 16, 2e-5, flip=0.5),
    "deformable": Schedule(90000, 4, 2e-4),
    "camstyle": Schedule(20000, 0, 2e-4, flip=0.5),
}
# With genext.identity.official; the authors have no stage `cross`, and tell no number of steps.
OFFICIAL = {
    "gen": Schedule(20000, 64, 1e-4, ema_decay=0.0, flip=0.5),
    "prior": Schedule(5000, 256, 1e-4, ema_decay=0.0),
    "inverter": Schedule(20000, 64, 4e-5, ema_decay=0.0),
    "noise": Schedule(20000, 64, 4e-5, ema_decay=0.0),
}
# Where a key says nothing; what is not named here is -1.
_UNSAID: dict[str, Any] = {"steps": 0, "batch_size": 0, "lr": 0.0, "schedule": ""}


def schedule(cfg: CfgNode, stage: str, *, official: bool = False) -> Schedule:
    """What `stage` has: its own, then what ``genext.training`` says of all, then what it says of this one.

    Args:
        cfg: the whole configuration.
        stage: a name in `OWN`.
        official: begin with the authors' own.

    Raises:
        ValueError: if a value is out of range, or a text of ``genext.training.stages`` is none.
    """
    node, own = cfg.genext.training, (OFFICIAL if official else OWN).get(stage, OWN[stage])
    names = [each.name for each in fields(Schedule)]
    given = {name: node[name] for name in names if node[name] != _UNSAID.get(name, -1)}
    alone = [_parsed(text) for text in node.stages]
    for values in (given, *(values for name, values in alone if name == stage)):
        own = replace(own, **values)
    return own


def configured_size(cfg: CfgNode, own: tuple[int, int], node: str = "training") -> tuple[int, int]:
    """Height and width in pixels that a node below ``genext`` names, or `own`.

    Raises:
        ValueError: if they are not two numbers of pixels.
    """
    found = tuple(cfg.genext[node].image_size) or own
    if len(found) != 2 or not all(isinstance(side, int) and side > 0 for side in found):
        raise ValueError(f"expected genext.{node}.image_size as [height, width] in pixels, got {[*found]}")
    return found


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A stage, and what is said of it."""
    if not (found := _STAGE.fullmatch(text.replace(" ", ""))):
        raise ValueError(f"expected genext.training.stages such as {_EXAMPLE!r}, got {text!r}")
    if found[1] not in OWN:
        raise ValueError(f"unknown stage {found[1]!r} in {text!r}; choose from {', '.join(OWN)}")
    return found[1], dict(_setting(words, text) for words in found[2].split(",") if words)


def _setting(words: str, text: str) -> tuple[str, Any]:
    name, _, value = words.partition("=")
    kinds = {each: type(default) for each, default in asdict(_INVERTER).items()}
    if name not in kinds:
        raise ValueError(f"unknown setting {name!r} in {text!r}; choose from {', '.join(kinds)}")
    try:
        return name, kinds[name](value)
    except ValueError:
        raise ValueError(f"expected {name} to be {kinds[name].__name__}, got {value!r} in {text!r}") from None


def placed(images: ImageTensor) -> ImageTensor:
    """The images where they fit: on the device of the training, or else as they are."""
    return images.to(place_of(images.images.nbytes))


def run(
    cfg: CfgNode, task: Task, batches: Batches, how: Schedule, folder: Path, description: Mapping[str, Any],
    finish: Callable[[], object],
) -> None:  # fmt: skip
    """Train as the configuration says.

    Args:
        cfg: the whole configuration; of it ``genext.training`` and the first of ``data.sources``.
        task: what is trained.
        batches: as of `training.fit`.
        how: its schedule.
        folder: of checkpoints, scalars and pictures.
        description: what else the weights depend on; a training resumes only where it is the same.
        finish: as of `training.fit`.

    Raises:
        ValueError: as `training.fit`.
    """
    options = how.options(folder, **{name: cfg.genext.training[name] for name in _OF_LOOP})
    told = {"data": cfg.data.sources[0], "batch_size": how.batch_size, **description}
    fit(task, batches, options, description=told, finish=finish)
