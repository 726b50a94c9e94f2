"""Training of generators: one loop for all of them, and the tasks that say what is learned.

fit(task, batches, Options(steps=1000, folder=folder), description={"model": ...}).checkpoint
"""

from __future__ import annotations

from torchreid_genext.training.checkpointing import trained_weights
from torchreid_genext.training.loop import Fitted, fit
from torchreid_genext.training.options import Options
from torchreid_genext.training.task import Batches, Phase, Task

__all__ = ["Batches", "Fitted", "Options", "Phase", "Task", "fit", "trained_weights"]
