"""The tour: as short as it says, without stored outputs, and it runs."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "tour.ipynb"
MINUTES, CORES = 3, 2


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_python_without_outputs() -> None:
    for cell in cells("code"):
        ast.parse(cell)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not [cell for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert len(cells("markdown")) > 5 and NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
def test_the_notebook_runs_within_its_time(tmp_path: Path) -> None:
    """From an empty folder; processor time is what a machine with other work can promise."""
    (tmp_path / "tour.py").write_text("\n\n".join(cells("code")), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, "tour.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [line.split() for line in run.stdout.splitlines() if " mAP " in line]
    assert len(rows) == 5 and float(rows[-1][0]) > 90 > 65 > float(rows[0][0])
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 60 * MINUTES * CORES
