"""Slow, literal restatements of the formulas, in double precision: the oracles of the fast code."""

from tests.reference.cameras import merged_tracklets
from tests.reference.camstyle import (
    cyclegan_generator,
    image_pool,
    instance_normalized,
    strided,
    transposed,
)
from tests.reference.centralization import fuse_generated, id2, nfc, nfc_in_order, reported_density
from tests.reference.deformable import carried, convex_contains, direct_linear_transform, nearest_neighbour
from tests.reference.diffusion import (
    diffusion_rates,
    inverted,
    network_says,
    sampled,
    sinusoidal,
    taken_apart,
)
from tests.reference.enhancement import aro, dmon
from tests.reference.expansion import expanded
from tests.reference.neighbours import nearest, squared_distances
from tests.reference.pg2 import halving_convolved, pg2_discriminator, pg2_discs, pg2_mask
from tests.reference.quality import (
    color_distance,
    inception_score,
    joints_in_place,
    structural_similarity,
    uniform_similarity,
)
from tests.reference.ranking import (
    average_precision,
    evaluate,
    ranked,
    recall_curve,
    streid_average_precision,
)
from tests.reference.reranking import ca_jaccard, k_reciprocal
from tests.reference.times import official_distances, parzen, transition_counts
from tests.reference.training import adam, soft_margin_triplet
from tests.reference.unet import convolved, doubled, encoded, halved, residual_block, unet

__all__ = [
    "merged_tracklets",
    "cyclegan_generator", "image_pool", "instance_normalized", "strided", "transposed",
    "fuse_generated", "id2", "nfc", "nfc_in_order", "reported_density",
    "carried", "convex_contains", "direct_linear_transform", "nearest_neighbour",
    "diffusion_rates", "inverted", "network_says", "sampled", "sinusoidal", "taken_apart",
    "aro", "dmon",
    "expanded",
    "nearest", "squared_distances",
    "halving_convolved", "pg2_discriminator", "pg2_discs", "pg2_mask",
    "color_distance", "inception_score", "joints_in_place", "structural_similarity", "uniform_similarity",
    "average_precision", "evaluate", "ranked", "recall_curve", "streid_average_precision",
    "ca_jaccard", "k_reciprocal",
    "official_distances", "parzen", "transition_counts",
    "adam", "soft_margin_triplet",
    "convolved", "doubled", "encoded", "halved", "residual_block", "unet",
]  # fmt: skip
