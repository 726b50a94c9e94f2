"""Query and gallery of the configuration's data set, as searches want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.extracting import Split
from torchreid_genext.explore.search import Sets

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["dataset_sets", "options"]


def dataset_sets(cfg: CfgNode) -> Sets:
    """Queries and gallery of the data set; one of this package is drawn first, where it is not there.

    Raises:
        ValueError, OSError: if the data set or the backbone is not there.
    """
    encoder = settings.build_encoder(cfg, settings.backbones(cfg)[0])
    images = settings.open_dataset(cfg)
    query, gallery = (Split(cfg, encoder, each).images for each in images)
    train, rules = settings.training_sightings(cfg), settings.protocol(cfg)
    return Sets(query, gallery, encoder, train, rules, options(cfg))


def options(cfg: CfgNode) -> dict[str, Any]:
    """How sets are compared, as the configuration says."""
    keys = cfg.genext.evaluation
    return {"metric": cfg.test.dist_metric, "memory_limit": keys.memory_limit or None, "index": keys.index}
