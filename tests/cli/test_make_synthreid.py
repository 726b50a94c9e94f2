"""The page that draws SynthReID from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from torchreid_genext.cli import make_synthreid
from torchreid_genext.data import image_datasets
from torchreid_genext.data.synthetic import read_manifest


def test_dataset_is_written_where_torchreid_looks_and_the_result_is_told(
    few: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_synthreid.main(["--size", few, "--root", str(tmp_path), "--seed", "3"])
    manifest = read_manifest(tmp_path / "synthreid_few")
    assert (manifest.size, manifest.seed) == (few, 3)
    assert f"{manifest.counts['query']} in query" in capsys.readouterr().out


def test_folders_are_those_of_the_registered_datasets() -> None:
    for name, dataset in image_datasets().items():
        assert make_synthreid.folder_name(dataset.size, dataset.world) == name


def test_sheet_is_a_small_picture(tmp_path: Path) -> None:
    make_synthreid.main(["--sheet", str(tmp_path / "docs" / "sheet.png"), "--people", "2"])
    with Image.open(tmp_path / "docs" / "sheet.png") as image:
        assert image.size == (8 * 66, 13 + 2 * 130)


def test_unknown_size_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_synthreid.main(["--size", "huge"])
    assert "tiny" in capsys.readouterr().err
