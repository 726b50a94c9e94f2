"""The benchmark: backbones x chains on one data set, with features extracted once.

    result = run(cfg)
    table(result)  # as text

`run` leaves ``report.html``, ``report.md``, ``report.json``, ``report.csv``, pictures and the merged
configuration in ``cfg.data.save_dir``; `describe` says what it would do.
"""

from __future__ import annotations

from torchreid_genext.benchmark.results import Measurement, Result
from torchreid_genext.benchmark.study import describe, run
from torchreid_genext.benchmark.writing import table

__all__ = ["Measurement", "Result", "describe", "run", "table"]
