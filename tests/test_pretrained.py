"""The weights that come with the repository: listed, small, and read by what reads them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "pretrained"
SHIPPED = sorted(FOLDER.glob("synthreid/*.safetensors"))  # others may lie beside them, fetched by the user
LISTED = dict(
    re.findall(r"^\| `(synthreid/\S+)` .* `([0-9a-f]{64})` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
)


def test_all_files_are_listed_and_small() -> None:
    assert {str(path.relative_to(FOLDER)) for path in SHIPPED} == set(LISTED)
    assert sum(path.stat().st_size for path in SHIPPED) <= 12 * 2**20


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_files_are_those_that_are_listed(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LISTED[str(path.relative_to(FOLDER))]
