"""Own images and own features on the command line, as users write it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from torchreid_genext.cli import command
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

KEYS = ["use_gpu", "False", "model.name", "osnet_x0_25", "model.pretrained", "False", "data.workers", "0"]
KEYS += ["data.height", "64", "data.width", "32"]
QUICK = ["genext.benchmark.bootstrap", "10"]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Four people of odd names, one query and three gallery images each, in all formats, without cameras."""
    generator = np.random.default_rng(0)
    for person in ("Anna", "Jörg ä", "x 3", "0"):
        for number, suffix in enumerate((".JPG", ".png", ".webp", ".bmp")):
            file = tmp_path / "mine" / ("gallery" if number else "query") / person / f"1{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (64, 32, 3), dtype=np.uint8)).save(file)
    return tmp_path / "mine"


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torchreid_genext", *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_benchmark_of_a_folder_by_name_and_by_options_is_the_same(people: Path, tmp_path: Path) -> None:
    keys = [*KEYS, *QUICK, "genext.benchmark.rank_lists", "True"]
    one = run("benchmark", "-t", "folder:mine", "--output", "one", *keys, cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert "4 queries, 12 gallery images, euclidean distance, plain protocol" in one.stdout
    command(["benchmark", "--query", str(people / "query"), "--gallery", str(people / "gallery"),
             "--output", str(tmp_path / "two"), *KEYS, *QUICK])  # fmt: skip
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert [chain["mAP"] for chain in first["models"][0]["chains"]] == [
        chain["mAP"] for chain in second["models"][0]["chains"]
    ]
    lists = json.loads((tmp_path / "one" / "ranklists-osnet_x0_25.json").read_text())
    assert len(lists["queries"]) == 4 and lists["queries"][0]["camid"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["genext.evaluation.protocol", "market1501"],
            "cameras of the query under protocol market1501, got none",
        ),
        (["genext.benchmark.chains", "['camera_norm']"], "camids in both sets for the step camera_norm"),
        (["genext.benchmark.chains", "['st']"], "for the step st"),
        (["genext.benchmark.chains", "['lda']"], "training"),
    ],
)
def test_what_the_folder_lacks_is_told_before_the_work(
    people: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    line = ["benchmark", "-t", f"folder:{people}", "--output", str(tmp_path / "out"), *KEYS, *words]
    with pytest.raises(ValueError, match=message):
        command(line)
    assert not (tmp_path / "out" / "features").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", "a"], "expected --query and --gallery, got --query"),
        (["--pattern", "(?P<pid>.)"], "expected --query and --gallery, got --pattern"),
        (
            ["-t", "market1501", "--query", "a", "--gallery", "b"],
            "either a data set or --query and --gallery",
        ),
        (["--query", "a", "--gallery", "b"], "expected images in .*a, got no such folder"),
        (["-t", "folder:nowhere"], "a folder of images, got .*nowhere"),
    ],
)
def test_options_that_contradict_or_lead_nowhere(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command(["benchmark", *words, "--output", str(tmp_path), *KEYS])


def test_features_go_out_and_come_back_with_the_same_table(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["extract", "-t", f"folder:{people}", "--output", str(tmp_path / "f"), *KEYS])
    files = [str(tmp_path / "f" / f"{split}.npz") for split in ("query", "gallery")]
    query, gallery = map(RetrievalSet.load, files)
    assert query.camids is None and len(gallery) == 12 and gallery.paths[0].startswith(str(people))
    command(
        ["evaluate", *files, "--chain", "base", "--chain", "nfc", "--output", str(tmp_path / "e"), *QUICK]
    )
    saved = json.loads((tmp_path / "e" / "report.json").read_text())
    told = capsys.readouterr().out
    for chain in saved["models"][0]["chains"]:
        assert chain["mAP"] == evaluate(query, gallery, chain["chain"], protocol="plain").mAP
        assert f"{chain['mAP'] * 100:.2f}" in told
    assert f"torchreid-genext evaluate {files[0]}" in (tmp_path / "e" / "report.md").read_text()


def sets(folder: Path, cameras: bool = True) -> list[str]:
    generator = np.random.default_rng(0)
    for name, count in (("q", 6), ("g", 18), ("t", 18)):
        columns = {
            "features": generator.normal(size=(count, 8)).astype(np.float32),
            "pids": np.arange(count) % 6,
        }
        if cameras:
            columns |= {"camids": np.arange(count) // 6 % 3 + (name == "g"), "frames": np.arange(count) * 100}
        np.savez(folder / f"{name}.npz", **columns)
    return [str(folder / "q.npz"), str(folder / "g.npz")]


def test_evaluate_takes_cameras_times_and_a_training_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--chain", "camera_norm", "--chain", "st", "--train", str(tmp_path / "t.npz"), *QUICK]
    command(["evaluate", *sets(tmp_path), *words])
    told = capsys.readouterr().out
    assert "market1501 protocol" in told and "camera_norm" in told and "failed" not in told
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "market1501"], "cameras of the query"),
        (["--protocol", "mine"], "unknown protocol 'mine'"),
        (["--chain", "nothing"], "unknown step"),
        (["--chain", "st"], "for the step st, got none"),
        (["data.height", "3"], "expected keys that torchreid-genext evaluate reads"),
    ],
)
def test_evaluate_refuses_in_a_sentence(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command(["evaluate", *sets(tmp_path, cameras=False), *words])


@pytest.mark.parametrize("option", ["--output", "data.save_dir"])
def test_features_without_paths_have_a_report(tmp_path: Path, option: str) -> None:
    words = ["--chain", "base", "--chain", "nfc", option, str(tmp_path / "e"), *QUICK]
    command(["evaluate", *sets(tmp_path), *words])
    saved = json.loads((tmp_path / "e" / "report.json").read_text())
    hardest = saved["models"][0]["chains"][1]["hard_queries"]
    assert {query["image"] for query in hardest} <= {f"row {row}" for row in range(6)}
    assert f"`{hardest[0]['image']}`" in (tmp_path / "e" / "report.md").read_text()


def test_files_may_be_called_as_keys_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    query, gallery = map(Path, sets(tmp_path))
    query.rename(tmp_path / "data.npz"), gallery.rename(tmp_path / "test.npz")
    monkeypatch.chdir(tmp_path)
    command(["evaluate", "data.npz", "test.npz", "--chain", "base", *QUICK])
    assert "data.npz and test.npz: 6 queries" in capsys.readouterr().out


def test_files_that_lack_something_say_what_cures_it(tmp_path: Path) -> None:
    query, _ = sets(tmp_path)
    np.save(tmp_path / "alone.npy", np.ones((2, 8), np.float32))
    with pytest.raises(ValueError, match=r"expected pids in .*, got features; labels belong in .*alone\.csv"):
        command(["evaluate", query, str(tmp_path / "alone.npy")])
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="text.npz, got a file .* it is text, not features .'hello'"):
        command(["evaluate", query, str(tmp_path / "text.npz")])
    np.savez(tmp_path / "objects.npz", features=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="it holds Python objects, or is of another kind") as refused:
        command(["evaluate", query, str(tmp_path / "objects.npz")])
    assert "unsafely" not in str(refused.value)


@pytest.mark.parametrize("key", ["pictures", "rank_lists"])
def test_evaluate_refuses_what_needs_images(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"evaluate reads, .*, got genext.benchmark.{key}"):
        command(["evaluate", *sets(tmp_path), f"genext.benchmark.{key}", "True"])


def test_help_names_the_keys_that_a_verb_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["evaluate", "--help"])
    told = capsys.readouterr().out
    assert "genext.benchmark.bootstrap" in told and "genext.nfc" not in told


def test_widths_that_differ_are_refused(tmp_path: Path) -> None:
    query, gallery = sets(tmp_path)
    np.savez(query, features=np.ones((2, 3), np.float32), pids=[1, 2], camids=[0, 0])
    ended = run("evaluate", query, gallery, cwd=tmp_path)
    assert ended.returncode == 1 and "features of one width, got 3 and 8" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_search_needs_no_labels(people: Path, tmp_path: Path) -> None:
    (people / "gallery" / "loose.png").write_bytes((people / "query" / "Anna" / "1.JPG").read_bytes())
    words = ["--query", people / "query" / "Anna" / "1.JPG", "--gallery", people / "gallery", "--top", 3]
    command(["search", *map(str, words), "--chain", "nfc", "--output", str(tmp_path / "s"), *KEYS])
    with open(tmp_path / "s" / "search.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 3 and rows[0]["name"].endswith("loose.png")


def test_search_of_features_is_that_of_images(people: Path, tmp_path: Path) -> None:
    for split in ("query", "gallery"):
        command(["extract", "--images", str(people / split), "--output", str(tmp_path / split), *KEYS])
    files = [str(tmp_path / split / "images.npz") for split in ("query", "gallery")]
    command(["search", "--query", files[0], "--gallery", files[1], "--output", str(tmp_path / "one"), *KEYS])
    words = ["--query", str(people / "query"), "--gallery", files[1]]
    command(["search", *words, "--output", str(tmp_path / "two"), *KEYS])
    one, two = (np.load(tmp_path / name / "search.npz") for name in ("one", "two"))
    assert one["rows"].shape == (4, 12) and (one["rows"] == two["rows"]).all()


def test_images_without_labels_have_no_splits(people: Path) -> None:
    with pytest.raises(ValueError, match="expected no --split with --images"):
        command(["extract", "--images", str(people), "--split", "query"])


def test_the_page_of_a_search_has_all_that_was_found(people: Path, tmp_path: Path) -> None:
    words = ["--query", str(people / "query"), "--gallery", str(people / "gallery"), "--top", "2"]
    command(["search", *words, "--output", str(tmp_path / "s"), *KEYS])
    page = (tmp_path / "s" / "search.html").read_text()
    assert page.count("<section>") == 4 and page.count("<figure ") == page.count("<img ") == 12
    assert str(people) not in page


@pytest.mark.parametrize("chain", ["camera_norm", "nfc(neighbours=cross_camera)"])
def test_training_refuses_steps_that_need_cameras_where_there_are_none(
    people: Path, tmp_path: Path, chain: str
) -> None:
    with pytest.raises(ValueError, match="camids in both sets for the step .* by folder:"):
        command(["main", "-s", f"folder:{people / 'gallery'}", "-t", f"folder:{people}", "--output", str(tmp_path / "m"),
                 *KEYS, "genext.evaluation.chain", chain])  # fmt: skip


def test_training_on_a_folder_ends_with_a_test_on_a_small_gallery(people: Path, tmp_path: Path) -> None:
    words = ["-s", f"folder:{people / 'gallery'}", "-t", f"folder:{people}"]
    words += ["train.max_epoch", "1", "train.batch_size", "4"]
    ended = run("main", *words, "--output", "m", *KEYS, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Rank-10" in ended.stdout and "Rank-20" not in ended.stdout
    assert (tmp_path / "m" / "model.safetensors").is_file()


def test_a_chain_that_fails_beside_others_ends_the_command_badly(tmp_path: Path) -> None:
    """After the table and the report of the others."""
    files = sets(tmp_path)
    still = {"features": np.eye(4), "pids": [1, 1, 2, 2], "camids": [0] * 4, "frames": range(4)}
    np.savez(tmp_path / "still.npz", **still)  # nobody is seen by two cameras
    words = ["--chain", "base", "--chain", "st", "--train", "still.npz", "--output", "out"]
    done = run("evaluate", *files, *words, *QUICK, cwd=tmp_path)
    assert done.returncode == 1 and "base" in done.stdout and "failed: ValueError" in done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "got 1 that failed: q after st" in line
    assert (tmp_path / "out" / "report.md").is_file()


def test_what_files_lack_for_a_chain_is_told_with_its_place(tmp_path: Path) -> None:
    files = sets(tmp_path)
    for chain, cure in (
        ("lda", "--train"),
        ("fuse", "generated .N, P, D. to the gallery's file"),
        ("nfc(neighbours=spatiotemporal)", "by --train"),
    ):
        with pytest.raises(ValueError, match=f"for the step {chain[:3]}.*; .*{cure}"):
            command(["evaluate", *files, "--chain", "base", "--chain", chain])


@pytest.mark.parametrize("cameras", [True, False])
def test_the_same_features_on_both_sides_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cameras: bool
) -> None:
    """Without paths, by their content; where the own camera is left out, nobody finds himself."""
    query, gallery = sets(tmp_path, cameras)
    command(["evaluate", gallery, gallery, "--chain", "base", *QUICK])
    assert ("the very features of a gallery image" in caplog.text) == (not cameras)
    caplog.clear()
    command(["evaluate", query, gallery, "--chain", "base", *QUICK])
    assert "very features" not in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", "{0}/nothing", "--gallery", "{0}/mine"], "got no such folder"),
        (["--query", "{0}/q.npz", "--gallery", "{0}/g.npz", "--weights", "w.pth"], "expected no --weights with files"),
        (["--query", "{0}/q.npz", "--gallery", "{0}/g.npz", "--chain", "lda"], "a chain that learns nothing.*got lda"),
    ],
)
def test_search_refuses_before_a_network_is_made(
    people: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    sets(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        command(["search", "--output", str(tmp_path / "out"), *(word.format(tmp_path) for word in words)])


def test_search_names_what_is_wider(tmp_path: Path) -> None:
    query, gallery = sets(tmp_path)
    np.savez(tmp_path / "wide.npz", features=np.ones((2, 9)))
    with pytest.raises(ValueError, match="of one width, got 9 in .*wide.npz and 8 in .*g.npz"):
        command(["search", "--query", str(tmp_path / "wide.npz"), "--gallery", gallery, "--output", str(tmp_path)])


def test_features_whose_squares_overflow_are_told_what_helps(tmp_path: Path) -> None:
    query, gallery = sets(tmp_path)
    huge = RetrievalSet.load(query)
    huge.with_features(huge.features * 1e25).save(query)
    large = RetrievalSet.load(gallery)
    large.with_features(large.features * 1e25).save(gallery)
    with pytest.raises(ValueError, match="expected distances without NaN, .*; features this large need the step l2"):
        command(["evaluate", query, gallery, "--chain", "base", *QUICK])
    command(["evaluate", query, gallery, "--chain", "l2", *QUICK])


def test_search_by_random_weights_says_so(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = ["search", "--query", str(people / "query"), "--gallery", str(people / "gallery")]
    command([*line, "--output", str(tmp_path / "out"), *KEYS])
    assert "osnet_x0_25 has random weights, so its features say nothing" in caplog.text


def test_what_no_chain_can_measure_is_told_once_with_its_files(tmp_path: Path) -> None:
    query, gallery = sets(tmp_path)
    np.savez(tmp_path / "wide.npz", features=np.ones((2, 9), np.float32), pids=[0, 1], camids=[5, 5])
    np.savez(tmp_path / "empty.npz", features=np.ones((0, 8), np.float32), pids=[], camids=[])
    np.savez(tmp_path / "strangers.npz", features=np.ones((2, 8), np.float32), pids=[77, 78], camids=[5, 5])
    for name, words in (
        ("wide", "^expected query and gallery features of one width, got 9 and 8, in .*wide.npz and .*g.npz"),
        ("empty", "^expected a query and a gallery image at least, got 0 and 18, in .*empty.npz"),
        ("strangers", "^2 of 2 queries have no match"),
    ):
        with pytest.raises(ValueError, match=words):
            command(["evaluate", str(tmp_path / f"{name}.npz"), gallery, "--chain", "base", *QUICK])
