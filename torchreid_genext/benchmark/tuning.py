"""Choose a chain on the training split, so that the test set is looked at once.

Training identities are dealt into folds. In turn each fold is searched as a test set would be, with one query
image of each identity and camera and the others as gallery, while what a step learns (how long people take
between cameras) comes from the other folds. No test image is opened.

The features may be of a network that was trained on these identities; then they are better than they will be
on new ones, and a chain that repairs much has less to show.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchreid_genext import checkpoints, config
from torchreid_genext.benchmark import settings, study
from torchreid_genext.benchmark.extracting import Split
from torchreid_genext.benchmark.settings import Images
from torchreid_genext.retrieval.folds import Part, folds
from torchreid_genext.retrieval.protocol import (
    Chain,
    Report,
    RetrievalSet,
    expand_chains,
)

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["TARGETS", "Trial", "Tuning", "folds", "tune", "tuning_table"]

TARGETS = ("mAP", "rank1")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One chain on all folds: rates in 0 .. 1, their means first; `steps` has what its text leaves out."""

    chain: str
    steps: str
    protocol: str
    mAP: float
    rank1: float
    folds: list[dict[str, float]]

    @classmethod
    def of(cls, chain: Chain, reports: list[Report]) -> Trial:
        """The means over one report a fold."""
        folds = [{"mAP": report.mAP, "rank1": report.rank(1)} for report in reports]
        means = (sum(fold[name] for fold in folds) / len(folds) for name in TARGETS)
        return cls(chain.name, repr(chain.steps), reports[0].protocol, *means, folds)


@dataclass(frozen=True, eq=False)
class Tuning:
    """All trials, the best first.

    Attributes:
        dataset: whose training split it was. label: the backbone.
        target: what was compared. trials: one a chain that could be measured.
        failures: chain -> why it could not.
        sizes: queries and gallery images of each fold.
        key: of the features and settings, so that trials of others are not taken for these.
    """

    dataset: str
    label: str
    target: str
    trials: list[Trial]
    sizes: list[tuple[int, int]]
    key: str
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Trial:
        """The first of them."""
        return self.trials[0]

    def to_json(self) -> dict[str, Any]:
        """Plain Python values."""
        return vars(self) | {"trials": [vars(trial) for trial in self.trials]}


def tune(cfg: CfgNode) -> Tuning:
    """Try every chain of ``genext.tune.chains`` on the training split.

    After each trial ``tuning.json`` is written; a run that was interrupted, or that asks for more chains,
    begins with the trials of the same features that stand there.

    Raises:
        ValueError: if a chain or key is out of its range, a chain needs generated images, or the data set is
            absent.
    """
    keys, chains = cfg.genext.tune, expand_chains(cfg.genext.tune.chains)
    _check(keys, chains)
    settings.check_keys(cfg)
    backbone = settings.backbones(cfg)[0]
    path = Path(cfg.data.save_dir) / "tuning.json"
    training = settings.open_training(cfg)
    _check_needs(chains, training)
    config.write_config(cfg, cfg.data.save_dir)
    images = Split(cfg, settings.build_encoder(cfg, backbone), training).images
    parts = list(folds(images, keys.folds, seed=keys.seed))
    key = _key(cfg, images)
    known = _known(path, key)
    chains.sort(key=lambda chain: repr(chain.steps) not in known)  # an interruption must lose none
    sizes = [(len(query), len(gallery)) for query, gallery, _ in parts]
    tuning = Tuning(settings.dataset_name(cfg), backbone.label, keys.target, [], sizes, key)
    for number, chain in enumerate(chains, start=1):
        _log.info("%d of %d", number, len(chains))
        try:
            tuning.trials.append(known.get(repr(chain.steps)) or _trial(cfg, chain, parts))
        except Exception as error:  # whatever it is: the other trials must not be lost
            _log.warning("chain %s failed: %s", chain.name, error)
            tuning.failures[chain.name] = " ".join(f"{type(error).__name__}: {error}".split())
        tuning.trials.sort(key=lambda trial: -getattr(trial, keys.target))
        checkpoints.write_json(path, tuning.to_json())
    if not tuning.trials:
        raise ValueError(f"expected a chain that can be measured, got none: {tuning.failures}")
    return tuning


def _trial(cfg: CfgNode, chain: Chain, parts: list[Part]) -> Trial:
    return Trial.of(chain, [study.evaluate_chain(cfg, *part[:2], chain, part[2]) for part in parts])


def _key(cfg: CfgNode, images: RetrievalSet) -> str:
    """What every figure depends on, besides the chain."""
    tune, index = cfg.genext.tune, cfg.genext.evaluation.index
    chosen = (tune.folds, tune.seed, cfg.test.dist_metric, index, settings.protocol(cfg))
    digest = hashlib.sha256(repr(chosen).encode())
    for column in (images.features, images.pids, images.camids, images.frames):
        digest.update(b"" if column is None else column.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _known(path: Path, key: str) -> dict[str, Trial]:
    """Trials of an earlier run, by all that their steps were."""
    try:
        saved = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        _log.warning("%s holds no trials of a tuning; it begins anew", path)
        return {}
    return {trial["steps"]: Trial(**trial) for trial in saved.get("trials", []) if saved.get("key") == key}


def tuning_table(tuning: Tuning, shown: int = 20) -> str:
    """The best trials as text."""
    width = max(len(trial.chain) for trial in tuning.trials[:shown])
    sizes = ", ".join(f"{query} x {gallery}" for query, gallery in tuning.sizes)
    lines = [f"{tuning.label} on the training split of {tuning.dataset}, folds of {sizes} (mAP, rank-1):"]
    lines += [
        f"  {t.chain.ljust(width)}  {t.mAP * 100:6.2f}  {t.rank1 * 100:6.2f}" for t in tuning.trials[:shown]
    ]
    lines += [f"  {chain}: failed: {why}" for chain, why in tuning.failures.items()]
    return "\n".join(lines)


def _check(keys: CfgNode, chains: list[Chain]) -> None:
    if keys.target not in TARGETS:
        raise ValueError(f"unknown genext.tune.target {keys.target!r}; choose from {', '.join(TARGETS)}")
    if not chains:
        raise ValueError("expected at least one chain in genext.tune.chains, got none")
    for chain in chains:
        if any(need.startswith("generated") for need in chain.needs):
            raise ValueError(f"expected chains without generated images, got {chain.name}")


def _check_needs(chains: list[Chain], training: Images) -> None:
    known = {"training features"} | (set() if training.camids is None else {"cameras"})
    known |= set() if training.frames is None else {"frames", "training times"}
    for chain in chains:
        chain.check_needs(known)
