"""Features in files: npz, npy with a CSV, mat; and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from torchreid_genext.retrieval.files import load_sets, save_set
from torchreid_genext.retrieval.protocol import RetrievalSet

FEATURES = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PIDS = [7, 7, 9, -1]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    paths = ["a/1.png", "b/Jörg.png", "c", "d"]
    generated = np.ones((4, 2, 3), np.float32)
    saved = RetrievalSet(FEATURES, PIDS, [0, 1, 0, 1], [5, 6, 7, 8], generated, paths)
    found = RetrievalSet.load(saved.save(tmp_path / "new" / "mine.npz"))
    for name in ("features", "pids", "camids", "frames", "generated"):
        assert torch.equal(getattr(found, name), getattr(saved, name)), name
    assert list(found.paths) == paths


def test_what_is_unknown_stays_unknown(tmp_path: Path) -> None:
    found = RetrievalSet.load(RetrievalSet(FEATURES, PIDS).save(tmp_path / "mine.npz"))
    assert found.has == set() and found.paths is None


def test_features_in_npy_have_their_labels_in_a_csv_beside(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", FEATURES.astype(np.float16))
    lines = ["path,pid,camid,frame", *(f"{n}.png,{pid},{n},{n * 10}" for n, pid in enumerate(PIDS))]
    (tmp_path / "mine.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = RetrievalSet.load(tmp_path / "mine.npy")
    assert found.pids.tolist() == PIDS and found.frames.tolist() == [0, 10, 20, 30]
    assert found.features.dtype == torch.float32 and found.paths[3] == "3.png"


def test_a_mat_has_rows_as_labels_and_cells_as_paths(tmp_path: Path) -> None:
    cells = np.array(["one.png", "two.png", "3", "4"], dtype=object)
    savemat(
        tmp_path / "mine.mat", {"features": FEATURES, "pids": PIDS, "camids": [1.0, 2, 1, 2], "paths": cells}
    )
    found = RetrievalSet.load(tmp_path / "mine.mat")
    assert found.pids.tolist() == PIDS and found.camids.tolist() == [1, 2, 1, 2]
    assert list(found.paths[:2]) == ["one.png", "two.png"]


def test_names_of_people_are_numbered_over_all_files(tmp_path: Path) -> None:
    for name, people in (("q", ["Zoë", "Al", "Al", "Al"]), ("g", ["Bo", "Zoë", "Al", "Bo"])):
        np.savez(tmp_path / f"{name}.npz", features=FEATURES, pids=np.array(people))
    query, gallery = load_sets(tmp_path / "q.npz", tmp_path / "g.npz")
    assert query.pids.tolist() == [3, 1, 1, 1] and gallery.pids.tolist() == [2, 3, 1, 2]


def test_features_without_labels_can_be_read_for_a_search(tmp_path: Path) -> None:
    file = save_set(RetrievalSet(FEATURES, PIDS, [0, 1, 2, 3]), tmp_path / "mine.npz", labelled=False)
    with pytest.raises(ValueError, match=r"expected pids in .*mine\.npz, got features, camids"):
        load_sets(file)
    assert load_sets(file, labelled=False)[0].pids.tolist() == [0, 0, 0, 0]


def write(file: Path, **columns: object) -> None:
    np.savez(file, **columns)


HOSTILE = {
    "no features": (lambda f: write(f, embeddings=FEATURES, pids=PIDS), "expected features in .*, got pids"),
    "lengths differ": (
        lambda f: write(f, features=FEATURES, pids=PIDS[:3]),
        "expected 4 pids, .* got 3, in .*mine.npz",
    ),
    "not a number": (lambda f: write(f, features=FEATURES * np.nan, pids=PIDS), "finite.*in .*mine.npz"),
    "one dimension": (lambda f: write(f, features=FEATURES[0], pids=PIDS), "in .*mine.npz"),
    "objects": (
        lambda f: write(f, features=np.array([None, {}]), pids=[1, 2]),
        "cannot be read: it holds Python objects",
    ),
    "truncated": (
        lambda f: (write(f, features=FEATURES), f.write_bytes(f.read_bytes()[:200])),
        "cannot be read",
    ),
    "empty": (lambda f: f.write_bytes(b""), "cannot be read"),
    "a page": (lambda f: f.write_text("<html>"), "cannot be read"),
    "half pids": (lambda f: write(f, features=FEATURES, pids=[1.5, 1, 1, 1]), "whole numbers"),
    "frames of words": (
        lambda f: write(f, features=FEATURES, pids=PIDS, frames=list("abcd")),
        "frames to be whole",
    ),
    "negative frames": (lambda f: write(f, features=FEATURES, pids=PIDS, frames=[-1] * 4), "frames >= 0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    make, message = HOSTILE[case]
    make(tmp_path / "mine.npz")
    with pytest.raises(ValueError, match=message):
        RetrievalSet.load(tmp_path / "mine.npz")


def test_names_here_and_numbers_there_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "q.npz", features=FEATURES, pids=list("abcd"))
    np.savez(tmp_path / "g.npz", features=FEATURES, pids=PIDS)
    with pytest.raises(ValueError, match="pids to be names in all files or numbers in all"):
        load_sets(tmp_path / "q.npz", tmp_path / "g.npz")


def test_a_csv_with_a_short_line_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", FEATURES)
    (tmp_path / "mine.csv").write_text("pid,camid\n1,1\n1\n1,1\n1,1\n")
    with pytest.raises(ValueError, match=r"2 values in line 3 of .*mine\.csv"):
        RetrievalSet.load(tmp_path / "mine.npy")


@pytest.mark.parametrize(("name", "error"), [("mine.txt", ValueError), ("mine.npz", FileNotFoundError)])
def test_other_and_absent_files_are_refused(tmp_path: Path, name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        RetrievalSet.load(tmp_path / name)


def test_only_npz_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"called \.npz, got .*mine\.mat"):
        RetrievalSet(FEATURES, PIDS).save(tmp_path / "mine.mat")
