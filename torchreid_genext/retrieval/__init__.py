"""Retrieval as pure functions on tensors: torch and NumPy alone, no configuration, no torchreid.

Files are read and written only where a file is named: features, and time models that are saved.
"""

from torchreid_genext.retrieval.files import load_sets, save_set
from torchreid_genext.retrieval.neighbours import nearest
from torchreid_genext.retrieval.protocol import (
    METRICS,
    PROTOCOLS,
    STEPS,
    Chain,
    Comparison,
    Protocol,
    Ranking,
    Report,
    RetrievalSet,
    Sightings,
    Step,
    Training,
    bootstrap,
    bootstrap_difference,
    compare,
    distances,
    evaluate,
    expand_chains,
)
from torchreid_genext.retrieval.searching import Found, Hit, search, write_found

__all__ = [
    "METRICS", "PROTOCOLS", "STEPS", "Chain", "Comparison", "Found", "Hit", "Protocol", "Ranking", "Report",
    "RetrievalSet", "Sightings", "Step", "Training", "bootstrap", "bootstrap_difference", "compare", "distances",
    "evaluate", "expand_chains", "load_sets", "nearest", "save_set", "search", "write_found",
]  # fmt: skip
