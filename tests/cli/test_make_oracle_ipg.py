"""The page that draws the oracle of pose-guided generation from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from torchreid_genext.cli import make_oracle_ipg
from torchreid_genext.data.synthetic import write_dataset

TINY = ["--dataset", "synthreid_tiny", "--workers", "0"]


def test_pictures_stand_beside_the_dataset_and_the_result_is_told(
    few: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "synthreid_few", size=few, progress=False)
    make_oracle_ipg.main(["--root", str(tmp_path), "--dataset", "synthreid_few", "--workers", "0"])
    pictures = list((tmp_path / "synthreid_few_ipg").glob("*_gen/pose?/*.jpg"))
    assert len({path.parent for path in pictures}) == 16
    assert f"{len(pictures)} pictures drawn" in capsys.readouterr().out


def test_sheet_is_a_small_picture(reid_data: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "docs" / "sheet.png"
    make_oracle_ipg.main(["--root", str(reid_data), *TINY, "--sheet", str(sheet), "--people", "2"])
    with Image.open(sheet) as image:
        assert image.size == (9 * 66, 13 + 2 * 130)


def test_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a complete SynthReID in .*synthreid_tiny"):
        make_oracle_ipg.main(["--root", str(tmp_path), *TINY])
