"""Finds recordings and reads them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
COPIES = ROOT / "tests" / "data" / "vectors"


def vectors(system: str) -> Path:
    """The folder of one family of recordings, ``ipg`` or ``systems``."""
    if os.environ.get("GENEXT_VECTORS"):
        return Path(os.environ["GENEXT_VECTORS"]) / system
    beside = ROOT.parent / "shared" / "vectors" / system
    return beside if beside.is_dir() else COPIES / system


def case(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of a recorded case of Pose2ID."""
    folder = vectors("ipg")
    return load_file(folder / f"in_{name}.safetensors"), load_file(folder / f"out_{name}.safetensors")


def cases(pattern: str) -> list[str]:
    """Names of the recorded cases that match, so that another set of recordings brings its own."""
    names = (path.stem.removeprefix("out_") for path in sorted(vectors("ipg").glob("out_*.safetensors")))
    return [name for name in names if re.fullmatch(pattern, name)]


def tolerance(start: str) -> float:
    """The recorded tolerance whose name begins so."""
    recorded: dict[str, Any] = json.loads((vectors("ipg") / "tolerances.json").read_text())
    return next(value for name, value in recorded.items() if name.startswith(start))


def system_tolerance(name: str) -> float:
    """The first number in the tolerance that the manifest of ``systems`` gives for a file."""
    manifest = json.loads((vectors("systems") / "MANIFEST.json").read_text())
    return float(re.search(r"\d+e-\d+", manifest[name]["tolerance"])[0])


def settings(key: str) -> dict[str, int]:
    """The numbers in a recorded name: ``raw.k1=2.k2=3`` gives {k1: 2, k2: 3}."""
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", key)}
