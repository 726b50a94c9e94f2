"""Measuring generators from the command line: a table for each judge, and a sheet."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.generators.ipg.networks import embedded
from torchreid_genext.cli import evaluate_generators
from torchreid_genext.generators import build_generator

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.slow
def test_ipg_stands_between_its_rivals_and_the_truth(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    embedded().save_pretrained(tmp_path / "pipeline")
    shipped = ROOT / "pretrained/synthreid"
    evaluate_generators.main([
        "--root", str(reid_data), "--dataset", "synthreid_tiny", "--people", "2", "--averaged", "4",
        "--sheet", str(tmp_path / "sheet.png"),
        "--judge", f"osnet_x0_25@{shipped}/osnet_x0_25.safetensors",
        "--judge", f"genid@{shipped}/inverter.safetensors",
        "--judge", f"osnet_x0_25@{shipped}/osnet_x0_25_64x32.safetensors@64x32",
        "genext.sampling.pipeline", str(tmp_path / "pipeline"), "genext.sampling.image_size", "[128, 64]",
        "genext.sampling.steps", "1", "genext.sampling.guidance", "1.0",
    ])  # fmt: skip
    told = capsys.readouterr().out
    for what in ("judge: osnet_x0_25", "judge: genid", "safetensors@64x32", "2 people in 8 poses"):
        assert what in told
    rows = [line.split() for line in told.splitlines() if line.strip().startswith(("IPG", "the truth"))]
    assert len(rows) == 7 and all(float(row[-4]) == 1 for row in rows if row[1] == "truth")  # SSIM
    assert float(rows[0][-6]) > 0.05  # an untrained generator draws noise
    assert Image.open(tmp_path / "sheet.png").width > 9 * 64


def test_each_generator_has_a_row_and_cameras_a_table(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small = {
        "pg2": {"image_size": (64, 32), "width": 4, "code": 4, "radius": 2},
        "deformable": {"image_size": (32, 16), "encoder": [4, 4, 4], "decoder": [4, 4]},
        "camstyle": {"cameras": 6, "image_size": (64, 32), "width": 4, "blocks": 1},
    }
    weights = {
        name: build_generator(name, **options).save(tmp_path / f"{name}.safetensors")
        for name, options in small.items()
    }
    evaluate_generators.main([
        "--root", str(reid_data), "--dataset", "synthreid_tiny", "--people", "2", "--averaged", "4",
        "--size", "64", "32", "--generators", *small, "--sheet", str(tmp_path / "sheet.png"),
        *(word for name, path in weights.items() for word in (f"genext.{name}.weights", str(path))),
    ])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    found = {
        line[:20].strip(): [*map(float, line[20:].split())] for line in lines if line[20:].count("0.") > 1
    }
    assert {"PG2", "Deformable GAN", "as it was", "CamStyle"} <= found.keys()
    assert found["the truth"][1:3] == [0, 0] and found["CamStyle"][1] > 0  # of the table of cameras
    assert (tmp_path / "sheet.png").is_file() and (tmp_path / "sheet_camstyle.png").is_file()


def test_photographs_are_judged_in_the_papers_definitions(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = sorted((reid_data / "synthreid_tiny" / "bounding_box_test").glob("*"))
    pids = sorted({path.name[:4] for path in images if not path.name.startswith("-1")})
    people = [[path.name for path in images if path.name[:4] == pid] for pid in pids]
    lines = [f"{names[0]},{names[1]}" for names in people if len(names) > 2]
    (tmp_path / "pairs.csv").write_text("\n".join(["from,to", *lines]))
    embedded().save_pretrained(tmp_path / "pipeline")
    options = {"image_size": (64, 32), "width": 4, "code": 4, "radius": 2}
    pg2 = build_generator("pg2", **options).save(tmp_path / "pg2.safetensors")
    evaluate_generators.main([
        "--root", str(reid_data), "--dataset", "synthreid_tiny", "--pairs", str(tmp_path / "pairs.csv"),
        "--limit", "3", "--generators", "pg2", "ipg", "genext.pg2.weights", str(pg2),
        "genext.sampling.pipeline", str(tmp_path / "pipeline"), "genext.sampling.steps", "1",
    ])  # fmt: skip
    told = capsys.readouterr().out
    table = [line for line in told.splitlines() if line[20:].count(".") > 5]
    found = {line[:20].strip(): [*map(float, line[20:].split())] for line in table}
    assert found["the truth"][:5] == [1, 1, 1, 1, 0] and "3 pairs of 3 people" in told
    assert found["PG2"][0] < found["the truth in 8 x 8"][0] < 1 and len(found["IPG"]) == 7
    assert {"the given image", "mean training image"} <= found.keys()


def test_what_would_be_ignored_is_refused(reid_data: Path) -> None:
    words = ["--root", str(reid_data), "--dataset", "synthreid_tiny"]
    for given, message in (
        (["--shown", "2"], "expected no --shown without --sheet"),
        (["--generators", "camstyle", "--size", "64", "32"], "expected no --size for camstyle"),
        (["--generators", "pg2", "ipg", "--weights", "x"], "expected --weights for one of .* pg2 ipg"),
        (["--weights", "x", "genext.sampling.pipeline", "y"], "expected --weights for one of"),
        (["--limit", "3"], "expected no --limit without --pairs"),
        (["--pairs", "x.csv", "--people", "3"], "expected no --people with --pairs"),
        (["--pairs", "x.csv", "--generators", "camstyle"], "expected generators of poses with --pairs"),
        (["--people", "99999"], "expected --people in 1..12 of synthreid_tiny, got 99999"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_generators.main([*words, *given])
