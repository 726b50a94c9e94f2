"""Training and drawing from the command line: each script alone, in order, and their mistakes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.conftest import ROOT
from torchreid_genext.cli import generate, train_gen
from torchreid_genext.generators.inverter import Inverter

pytestmark = pytest.mark.usefixtures("registered")

# Networks of a few channels, two steps a stage.
SMALL = {
    "genext.identity.widths": "[4,6]", "genext.inverter.hidden": "[8]", "genext.sampling.steps": 2,
    "genext.training.image_size": "[16,16]", "genext.training.steps": 2, "genext.training.batch_size": 8,
    "genext.training.mixed_precision": "no", "genext.training.picture_every": 0,
}  # fmt: skip
SCRIPTS = ("train_gen", "train_prior", "train_inverter")


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, root: Path, folder: Path, *words: str) -> None:
    keys = {**SMALL, "data.save_dir": folder}
    options = [str(word) for pair in keys.items() for word in pair]
    script = ROOT / "tools" / f"{name}.py"
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(
        sys, "argv", [str(script), *words, "-s", "synthreid_tiny", "--root", str(root), *options]
    )
    runpy.run_path(str(script), run_name="__main__")


def draw(root: Path, weights: Path, output: Path, *words: str) -> None:
    generate.main([
        "--generator", "identity", "--weights", str(weights), "--output", str(output),
        "-s", "synthreid_tiny", "--root", str(root),
        "--people", "3", "--noises", "2", "--steps", "2", *words,
    ])  # fmt: skip


def test_each_script_trains_its_stage_and_the_result_can_be_drawn(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in SCRIPTS:
        run_script(monkeypatch, name, reid_data, tmp_path)
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{stage}: {tmp_path / stage}" for stage in ("gen", "prior", "inverter")]
    draw(reid_data, tmp_path, tmp_path / "pictures")
    names = {"identities", "interpolations", "arithmetic", "imagined", "reconstructions"}
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == names
    assert all(Image.open(path).width > 100 for path in (tmp_path / "pictures").iterdir())


def test_stages_of_one_command_are_done_in_order(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(monkeypatch, "train_gen", reid_data, tmp_path, "--stages", "gen", "prior", "inverter")
    Inverter.load(tmp_path / "inverter" / "inverter.safetensors")


def test_cross_is_drawn_by_the_codes_of_images(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_script(monkeypatch, "train_inverter", reid_data, tmp_path, "--stages", "cross")
    draw(reid_data, tmp_path / "cross", tmp_path / "pictures", "--refine", "1")
    names = {"identities", "interpolations", "arithmetic", "reconstructions"}
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == names
    assert "pictures that need the prior are left out" in caplog.text


def test_what_users_can_mend_ends_in_one_line(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="error: expected the result of stage gen, got none: "):
        run_script(monkeypatch, "train_prior", reid_data, tmp_path)
    with pytest.raises(FileNotFoundError, match="expected generator.safetensors in .* or .*gen, got none"):
        draw(reid_data, tmp_path, tmp_path)


def test_help_is_of_the_script_that_is_asked(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, words in (("train_prior", "Train the prior over"), ("train_inverter", "Train the inverter")):
        with pytest.raises(SystemExit):
            run_script(monkeypatch, name, reid_data, tmp_path, "--help")
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(("place", "words"), [({}, "gen: made\n"), ({"RANK": "0", "WORLD_SIZE": "2"}, "gen: made\n"),
                                              ({"RANK": "1", "WORLD_SIZE": "2"}, "")])  # fmt: skip
def test_of_processes_that_train_together_one_speaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    place: dict[str, str], words: str,
) -> None:  # fmt: skip
    """What torchrun tells each process decides."""
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    recipe = SimpleNamespace(STAGES=["gen"], train=lambda cfg, stages: dict.fromkeys(stages, "made"))
    parser = train_gen.parser_of("train_gen", "")
    arguments = train_gen.parse_arguments(["--output", str(tmp_path)], parser, recipe, ["gen"])
    train_gen.train(arguments, recipe)
    assert capsys.readouterr().out == words
