"""The doctor finds real faults, each with its cure, and tells scripts by its exit status."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_package import setup_arguments
from torchreid_genext import cli
from torchreid_genext.checkpoints import shipped
from torchreid_genext.cli import health, places

FINDING = dict[str, str]


def examined(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[FINDING]]:
    """Exit status and findings."""
    with pytest.raises(SystemExit) as ended:
        cli.command(["doctor", "--json", *words])
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (ended.value.code == 0)
    return ended.value.code, told["findings"]


def of(findings: list[FINDING], subject: str, kind: str = "fault") -> list[str]:
    """Told and cure of the findings of a kind."""
    chosen = [each for each in findings if (each["subject"], each["kind"]) == (subject, kind)]
    return [f"{each['told']}; {each['cure']}" for each in chosen]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def pretend(site: Path, name: str, version: str, *lines: str) -> None:
    """That a version is installed."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    (folder / "METADATA").write_text(text + "\n")
    importlib.invalidate_caches()


def test_a_machine_that_can_run_the_tests_is_healthy(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(shipped.PRETRAINED / "osnet_x0_25.safetensors")
    words = ["--root", str(reid_data), "-t", "synthreid_tiny", "--output", str(tmp_path), "--weights", weights]
    code, findings = examined(capsys, *words)
    assert code == 0
    (data,) = of(findings, "data", "ok")
    assert data.startswith("synthreid_tiny: ") and " query, " in data
    assert of(findings, "weights", "ok")[0].endswith(" tensors; ")
    assert len(of(findings, "folder", "ok")) == 2 and of(findings, "torchreid", "ok")
    assert "fast, precision auto takes it" in of(findings, "cpu", "ok")[0]
    assert not [*tmp_path.iterdir()]  # nothing stays behind


def test_the_text_is_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1"):
        cli.command(["doctor", "--root", str(tmp_path), "-t", "market1501"])
    told = capsys.readouterr().out
    assert f"\nfault  data             market1501: expected its images in\n{' ' * 24}{tmp_path}/market1501" in told
    assert f"\n{' ' * 24}cure: put its images there, or name the folder above it with --root FOLDER\n" in told
    assert "\n1 fault, " in told


def test_a_broken_data_set_is_a_fault_only_if_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "market1501/Market-1501-v15.09.15/query"
    folder.mkdir(parents=True)
    (folder / "0001_c1s1_000001_00.jpg").touch()
    code, findings = examined(capsys, "--root", str(tmp_path))
    assert code == 0 and of(findings, "data", "note")[0].startswith("market1501: expected ")
    code, findings = examined(capsys, "--root", str(tmp_path), "data.targets", "['market1501']")
    assert code == 1 and of(findings, "data")[0].startswith("market1501: expected ")


def test_data_sets_below_the_root_are_found_without_being_named(
    reid_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, findings = examined(capsys, "--root", str(reid_data))
    assert "synthreid_tiny: " in " ".join(of(findings, "data", "ok"))


def test_a_recipe_names_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config-file", "configs/market1501_steps.yaml", "--root", str(tmp_path)]
    code, findings = examined(capsys, *words)
    assert code == 1 and of(findings, "data")[0].startswith("market1501: ")
    _, findings = examined(capsys, "--config-file", "configs/demo.yaml", "--root", str(tmp_path))
    assert "will be written to" in of(findings, "data", "ok")[0] and not [*tmp_path.iterdir()]
    assert len(of(findings, "weights", "ok")) == 2  # both models of the recipe


def test_damaged_weights_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes((shipped.PRETRAINED / "osnet_x0_25.safetensors").read_bytes()[:-100])
    code, findings = examined(capsys, "--weights", str(file))
    assert code == 1 and "cut short or damaged: download it again" in of(findings, "weights")[0]
    code, findings = examined(capsys, "--weights", str(tmp_path / "weight.pth"))
    assert code == 1 and "which does not exist; near there: weights.pth" in of(findings, "weights")[0]
    code, findings = examined(capsys, "genext.benchmark.models", f"['x=osnet_x0_25@{file}']")
    assert code == 1 and str(file) in of(findings, "weights")[0]


def test_shipped_weights_are_compared_byte_by_byte(tmp_path: Path) -> None:
    folder = tmp_path / "synthreid"
    shutil.copytree(shipped.PRETRAINED, folder)
    assert [finding.kind for finding in places.shipped_weights(folder)] == [health.OK]
    file = folder / "ipg/vae/diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # as long as before, and read without complaint
    file.write_bytes(content)
    (folder / "prior.safetensors").unlink()
    damaged, missing = sorted(places.shipped_weights(folder), key=lambda finding: "missing" in finding.told)
    assert {damaged.kind, missing.kind} == {health.FAULT}
    assert str(file) in damaged.told and "prior.safetensors is missing" in missing.told
    assert "install the package again" in missing.cure
    (folder / "SHA256SUMS").unlink()
    assert [finding.kind for finding in places.shipped_weights(folder)] == [health.FAULT]


@pytest.mark.parametrize("place", ["/proc/none", "file/below"])
def test_folders_that_cannot_be_written_to_are_found(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also for those whom no mode of a file stops."""
    (tmp_path / "file").touch()
    code, findings = examined(capsys, "--output", str(tmp_path / place), "--root", str(tmp_path))
    (told,) = of(findings, "folder")
    assert code == 1 and told.startswith(f"cannot write to {tmp_path / place}: ")
    assert told.endswith("; name another one with the key data.save_dir")


def test_too_little_room_or_memory_is_a_fault(tmp_path: Path) -> None:
    (room,) = places.folders({"data.root": str(tmp_path / "a/b")}, least=2**60)
    assert room.kind == health.FAULT and "room or more, got " in room.told and "data.root" in room.cure
    (memory,) = health.memory(least=2**60)
    assert memory.kind == health.FAULT and memory.cure


@pytest.mark.parametrize(
    ("version", "kind"), [("1.13.1+cpu", "fault"), ("2.6", "ok"), ("2.6.0+cu126", "ok"), ("2.10", "ok")]
)
def test_versions_are_held_against_the_declared_bounds(version: str, kind: str, site: Path) -> None:
    pretend(site, "torch", version)
    found = {finding.subject: finding for finding in health.versions() if finding.kind == health.FAULT}
    assert ("torch" in found) == (kind == "fault") and len(found) == (kind == "fault")
    if found:
        assert found["torch"].told == "expected 2.6 or newer, got 1.13.1+cpu"
        assert found["torch"].cure == "pip install --upgrade 'torch>=2.6'"


def test_with_versions_that_do_not_fit_nothing_else_is_tried(site: Path, tmp_path: Path) -> None:
    """Whatever they would break; and packages that are not there are named."""
    needs = ["Requires-Dist: torch>=2.6", "Requires-Dist: not-there>=1", 'Requires-Dist: timm>=1; extra == "timm"']
    pretend(site, "torchreid-genext", "9.9", "Requires-Python: >=3.99", *needs)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-m", "torchreid_genext", "doctor"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and not ended.stderr
    assert "fault  python           expected 3.99 or newer, got 3." in ended.stdout
    assert "note   torchreid_genext" in ended.stdout and "was installed as 9.9" in ended.stdout
    assert "fault  not-there        is not installed\n" in ended.stdout
    assert "cure: pip install --upgrade 'not-there>=1'" in ended.stdout
    assert "memory" not in ended.stdout


def test_modules_without_a_version_are_taken(site: Path) -> None:
    """As those of opencv-python, or of a clone of torchreid on the path."""
    pretend(site, "torchreid-genext", "9.9", "Requires-Dist: a-clone>=1")
    (site / "a_clone.py").touch()
    (found,) = (finding for finding in health.versions() if finding.subject == "a-clone")
    assert found.kind == health.NOTE and found.told == "the module a_clone is there, its version is not known"


def test_extras_are_notes_where_absent_and_faults_where_too_old(site: Path) -> None:
    needs = [f'Requires-Dist: {name}>=1; extra == "{extra}"' for name, extra in (("gone", "timm"), ("old", "onnx"))]
    pretend(site, "torchreid-genext", "9.9", *needs, 'Requires-Dist: gone>=1; extra == "test"')
    pretend(site, "old", "0.9")
    found = {finding.subject: finding for finding in health.extras()}
    assert {name: finding.kind for name, finding in found.items()} == {"timm": health.NOTE, "old": health.FAULT}
    assert found["timm"].told == "gone not installed; only for models timm:NAME"
    assert found["timm"].cure == "pip install 'gone>=1'"


def test_a_module_of_an_extra_without_a_version_is_told(site: Path) -> None:
    pretend(site, "torchreid-genext", "9.9", 'Requires-Dist: loose>=1; extra == "parquet"')
    (site / "loose.py").touch()
    (found,) = health.extras()
    assert (found.subject, found.kind) == ("loose", health.NOTE) and "version is not known" in found.told


def test_every_extra_has_its_purpose() -> None:
    assert set(health._FOR) == set(setup_arguments()["extras_require"]) - {"test", "docs"}


def test_another_package_of_the_name_torchreid_is_told(site: Path) -> None:
    (site / "torchreid").mkdir()
    (site / "torchreid/__init__.py").touch()
    code = "from torchreid_genext.cli import health\nprint(*health.tried('torchreid', health.host))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert "kind='fault'" in told and "it is another package of that name" in told


def test_what_stops_a_check_is_a_fault() -> None:
    def stops() -> None:
        yield health.Finding("x", health.OK, "first")
        raise RuntimeError("second\nline")

    assert health.tried("x", stops)[1] == health.Finding("x", health.FAULT, "second line")
