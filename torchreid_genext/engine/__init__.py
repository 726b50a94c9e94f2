"""torchreid's engines with the steps of a configuration: `attach`, and the objects that its scripts make."""

from __future__ import annotations

from torchreid_genext.engine.building import (
    build_datamanager,
    build_engine,
    build_model,
)
from torchreid_genext.engine.console import console_copied_to
from torchreid_genext.engine.hook import attach, detach
from torchreid_genext.engine.steps import build_chain

__all__ = [
    "attach", "build_chain", "build_datamanager", "build_engine", "build_model",
    "console_copied_to", "detach",
]  # fmt: skip
