"""Weights in and out: loading that runs no foreign code, writing that is whole or not there at all.

Everything foreign is read with ``weights_only=True``; everything of ours is written as safetensors with its
metadata as JSON. Files appear under their final name in one step, complete, or not. ``~`` in a path is the
home folder, as in torchreid.
"""

from torchreid_genext.checkpoints.fitting import fill, load_weights, resume_training
from torchreid_genext.checkpoints.reading import read_hdf5, read_metadata, safe_load
from torchreid_genext.checkpoints.saving import save, save_backbone
from torchreid_genext.checkpoints.writing import atomic_path, write_bytes, write_json, write_text

__all__ = [
    "atomic_path", "fill", "load_weights", "read_hdf5", "read_metadata", "resume_training", "safe_load",
    "save", "save_backbone", "write_bytes", "write_json", "write_text",
]  # fmt: skip
