"""Features of anybody under chains, measured as the benchmark measures those that it extracts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchreid_genext import config
from torchreid_genext.benchmark import settings, study, writing
from torchreid_genext.benchmark.results import Measurement, Result
from torchreid_genext.benchmark.settings import Backbone
from torchreid_genext.retrieval.protocol import RetrievalSet, Training, compare
from torchreid_genext.retrieval.rules import protocol_named

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["measure_features"]


def measure_features(
    cfg: CfgNode,
    query: RetrievalSet,
    gallery: RetrievalSet,
    train: Training | None = None,
    *,
    names: Sequence[str],
    write: bool = False,
) -> Result:
    """Measure every chain of ``genext.benchmark.chains`` on features.

    Args:
        cfg: the whole tree; of it ``genext.benchmark``, ``genext.evaluation``, ``test.dist_metric``. Where no
            protocol is named it is ``plain`` without cameras, and else ``market1501``.
        query: what is searched for.
        gallery: what is searched.
        train: the training split, for steps that learn.
        names: of both sets, for reports.
        write: whether to leave a report in ``data.save_dir``.

    Raises:
        ValueError: if the sets do not belong together, the protocol needs cameras that are not known, a key is
            out of its range, or no chain can be measured.
    """
    cfg, chains = cfg.clone(), settings.chains(cfg)
    cameras = query.camids is not None and gallery.camids is not None
    cfg.genext.evaluation.protocol = cfg.genext.evaluation.protocol or ("market1501" if cameras else "plain")
    _check(cfg, query, gallery, names)
    if write:
        config.write_config(cfg, cfg.data.save_dir)
    found = study.evaluated(cfg, query, gallery, chains, train)
    if not found.reports:
        raise ValueError("; ".join(why.removeprefix("ValueError: ") for why in found.failures.values()))
    label = Path(names[0]).stem
    measured = Measurement(
        backbone=Backbone(label, "features", str(names[0])),
        precision="float32",
        computed=0,
        seconds=0.0,
        unreadable={},
        coverage={},
        query=query,
        gallery=gallery,
        precision_effect=None,
        train=train,
        metric=cfg.test.dist_metric,
        origin="from files",
        **study.compared_with_first(cfg, found, chains[0]),
    )
    protocol = settings.protocol(cfg)
    result = Result(
        " and ".join(map(str, names)), cfg.test.dist_metric, protocol, [measured], Path(cfg.data.save_dir),
        command=f"evaluate {shlex.join(map(str, names))}",
    )  # fmt: skip
    if write:
        writing.write(result)
    return result


def _check(cfg: CfgNode, query: RetrievalSet, gallery: RetrievalSet, names: Sequence[str]) -> None:
    """Tell before any work what all chains would be refused for."""
    settings.check_keys(cfg)
    for images, whose in ((query, "query"), (gallery, "gallery")):
        protocol_named(cfg.genext.evaluation.protocol).check_cameras(images.camids, whose)
    try:
        compare(query, gallery)
    except ValueError as error:
        raise ValueError(f"{error}, in {' and '.join(map(str, names))}") from error
