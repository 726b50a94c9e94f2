"""From image files to features: torchreid's test transform, any torchreid model, a cache keyed by content.

encoder = Encoder(model, "osnet_x0_25", precision="bf16", channels_last=True)
features = extract(encoder, paths, cache_dir="log/features").features
"""

from __future__ import annotations

from torchreid_genext.extraction.encoder import Encoder, fold_batch_norm
from torchreid_genext.extraction.files import Extraction, Plan, extract, plan, read_image
from torchreid_genext.extraction.generated import (
    GeneratedFeatures,
    generated_features,
    plan_generated,
    reader,
)
from torchreid_genext.extraction.table import FeatureTable

__all__ = [
    "Encoder", "Extraction", "FeatureTable", "GeneratedFeatures", "Plan", "extract", "fold_batch_norm",
    "generated_features", "plan", "plan_generated", "read_image", "reader",
]  # fmt: skip
