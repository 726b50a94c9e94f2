"""Features in files: npz, npy with a CSV, mat; and what is refused of them."""

from __future__ import annotations

import sys
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


def test_an_empty_csv_has_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.ones((4, 3), dtype=np.float32))
    (tmp_path / "mine.csv").touch()
    with pytest.raises(ValueError, match=r"expected pids in .*mine\.npy, got features; labels belong in .*csv"):
        load_sets(tmp_path / "mine.npy")


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


def test_a_csv_without_a_camera_in_one_line_is_refused(tmp_path: Path) -> None:
    """An empty cell is no camera of its own."""
    np.save(tmp_path / "mine.npy", FEATURES)
    (tmp_path / "mine.csv").write_text("pid,camid\n1,1\n1,\n2,1\n2,2\n")
    with pytest.raises(ValueError, match="expected a camid in line 3 of .*mine.csv, got none; fill it in"):
        RetrievalSet.load(tmp_path / "mine.npy")


def write_parquet(file: Path, **columns: object) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), file)
    return file


@pytest.mark.parametrize("form", ["list", "fixed", "numbers"])
def test_a_parquet_has_a_row_for_each_image(tmp_path: Path, form: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    kinds = {"list": pyarrow.list_(pyarrow.float32()), "fixed": pyarrow.list_(pyarrow.float32(), 3)}
    if form == "numbers":  # f10 comes behind f9
        wide = np.random.default_rng(1).normal(size=(4, 11))
        columns = {f"f{place}": wide[:, place] for place in reversed(range(11))}
    else:
        wide, columns = FEATURES, {"feature": pyarrow.array(FEATURES.tolist(), kinds[form])}
    people = pyarrow.array(["b", "b", "a", "c"]).dictionary_encode()
    generated = np.arange(24).reshape(4, 2, 3).tolist()
    others = {"path": list("abcd"), "camid": [0, 1, 0, 1], "generated": generated, "noted": [None] * 4}
    file = write_parquet(tmp_path / "f.parquet", **columns, pid=people, **others)
    found = RetrievalSet.load(file)
    assert np.allclose(found.features, wide) and found.pids.tolist() == [2, 2, 1, 3]
    assert list(found.paths) == list("abcd") and found.camids.tolist() == [0, 1, 0, 1]
    assert found.generated.tolist() == generated


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"feature": [[1.0], [1.0, 2.0]], "pid": [1, 2]},
            "expected feature of one length in all rows, got 1 .. 2",
        ),
        ({"feature": [[1.0], None], "pid": [1, 2]}, "expected feature in all rows, got none in 1"),
        ({"feature": [[1.0], [2.0]], "pid": [1, None]}, "expected pid in all rows"),
        ({"pid": [1, 2]}, "expected features in .*, got pids"),
    ],
)
def test_hostile_parquets_are_refused(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}.*"):
        RetrievalSet.load(write_parquet(tmp_path / "f.parquet", **columns))


def test_beside_features_a_column_called_f1_is_no_feature(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "f.parquet", feature=[[1.0, 2.0], [3.0, 4.0]], pid=[1, 2], f1=[0.5, 0.7])
    assert RetrievalSet.load(file).features.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "f.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(ValueError, match="expected features in .*f.parquet, got a file that cannot be read"):
        RetrievalSet.load(tmp_path / "f.parquet")


@pytest.mark.parametrize("kind, package", [("parquet", "pyarrow"), ("mat", "scipy")])
def test_what_a_kind_of_file_needs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / f"f.{kind}").touch()
    with pytest.raises(ImportError, match=f"need the module '{package}'.*`pip install {package}`"):
        RetrievalSet.load(tmp_path / f"f.{kind}")


@pytest.mark.parametrize(
    "lines",
    [
        "pid;camid|7;1.0|7;2.0|9;1.0|-1;2.0",
        " PID , CamID |7,1|7,2|9,1|-1,2",
        "pid\tcamid\t|7\t1\t|7\t2\t|9\t1\t|-1\t2\t",
    ],
)
def test_tables_of_other_programs_are_read(tmp_path: Path, lines: str) -> None:
    """With semicolons or tabs, names in large letters, and whole numbers as 1.0."""
    np.save(tmp_path / "mine.npy", FEATURES)
    (tmp_path / "mine.csv").write_text(lines.replace("|", "\n"))
    found = RetrievalSet.load(tmp_path / "mine.npy")
    assert found.pids.tolist() == PIDS and found.camids.tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_whole_numbers_are_features_and_labels_may_be_columns(tmp_path: Path, dtype: type) -> None:
    """As quantised features are, and as MATLAB writes labels."""
    whole = np.arange(12).reshape(4, 3).astype(dtype)
    savemat(tmp_path / "f.mat", {"Features": whole, "PIDs": np.array(PIDS)[:, None]})
    found = RetrievalSet.load(tmp_path / "f.mat")
    assert found.features.dtype == torch.float32 and found.features.tolist() == whole.tolist()
    assert found.pids.tolist() == PIDS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer: run `git lfs pull`"),
        ("<html>too many downloads", "a web page, not features: download it again"),
    ],
)
def test_what_came_instead_of_features_is_named(tmp_path: Path, content: str, words: str) -> None:
    for name in ("f.npz", "f.npy", "f.mat"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"expected features in .*{name}, got .*{words}"):
            RetrievalSet.load(tmp_path / name)


def test_arrays_are_called_by_one_of_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", features=FEATURES, pid=PIDS, pids=PIDS)
    with pytest.raises(ValueError, match="expected one array of pids in .*two.npz, got pid and pids"):
        RetrievalSet.load(tmp_path / "two.npz")
    np.savez(tmp_path / "none.npz", feats=FEATURES, labels=PIDS)
    with pytest.raises(
        ValueError, match="expected features in .*, got feats, labels; call arrays features, pids"
    ):
        RetrievalSet.load(tmp_path / "none.npz")
