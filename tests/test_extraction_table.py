"""Features that came as a file: found by the names of images, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchreid_genext.extraction import FeatureTable, extract, plan
from torchreid_genext.retrieval.protocol import RetrievalSet

NAMES = ["query/a.jpg", "gallery/a.jpg", "b.jpg", "./deep/er/c.jpg", "win\\d.jpg"]


def table(folder: Path, **arrays: Any) -> Path:
    features = np.arange(len(NAMES) * 3, dtype=np.float64).reshape(-1, 3)
    np.savez(folder / "f.npz", **{"features": features, "names": np.array(NAMES), **arrays})
    return folder / "f.npz"


def test_features_are_found_by_as_much_of_the_path_as_the_file_names(tmp_path: Path) -> None:
    paths = ["/x/gallery/a.jpg", "/y/b.jpg", "/x/query/a.jpg", "deep/er/c.jpg", "/z/win/d.jpg"]
    found = extract(FeatureTable(table(tmp_path)), paths, cache_dir=tmp_path / "cache")
    assert found.features[:, 0].tolist() == [3, 6, 0, 9, 12] and found.features.dtype == torch.float32
    assert found.kept.tolist() == [0, 1, 2, 3, 4] and not found.computed and not (tmp_path / "cache").exists()
    assert plan(FeatureTable(table(tmp_path)), paths).to_compute == 0


def test_the_longest_name_wins(tmp_path: Path) -> None:
    path = table(tmp_path, names=np.array(["a.jpg", "q/a.jpg", "b.jpg", "c.jpg", "d.jpg"]))
    assert extract(FeatureTable(path), ["/q/a.jpg", "/g/a.jpg"]).features[:, 0].tolist() == [3, 0]


@pytest.mark.parametrize("path", ["/x/other/a.jpg", "/x/zzz.jpg", "/er/c.jpg"])
def test_images_without_features_are_named(path: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"expected features of 2 images by name in .*, got none of {path} and 0 others, but of query/a.jpg"
    ):
        extract(FeatureTable(table(tmp_path)), ["/y/b.jpg", path])


@pytest.mark.parametrize(
    "arrays, words",
    [
        (
            {"features": np.zeros((4, 3))},
            r"expected features \(N, D\), numbers, and names \(N,\) in .*, got float64 \(4, 3\) and \(5,\)",
        ),
        ({"features": np.zeros(5)}, r"expected features \(N, D\)"),
        ({"features": np.array([["a"]] * 5)}, r"expected features \(N, D\), numbers"),
        (
            {"features": np.full((5, 2), np.nan)},
            "expected finite features, got NaN or infinity for query/a.jpg in",
        ),
        ({"names": np.arange(5)}, "expected names as texts, one at least, got int64"),
        ({"names": np.array(["a", "b", "c", "d", "a"])}, "expected each name once in .*, got 'a' again"),
        ({"names": np.array(["a", "b", "c", "d", ""])}, "expected names that are not empty"),
        ({"names": np.array(NAMES, dtype=object)}, r"names must be texts: numpy.array\(names, dtype=str\)"),
        ({"features": np.zeros((0, 3)), "names": np.array([], dtype=str)}, "one at least"),
    ],
)
def test_wrong_arrays_are_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as error:
        FeatureTable(table(tmp_path, **arrays))
    assert "f.npz" in str(error.value)


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", feats=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="got no features and no paths among feats"):
        FeatureTable(tmp_path / "f.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(ValueError, match="f.npz"):
        FeatureTable(tmp_path / "f.npz")
    np.save(tmp_path / "g.npy", np.zeros(3))
    with pytest.raises(ValueError, match="expected an npz file that numpy.savez wrote, got .*g.npy"):
        FeatureTable(tmp_path / "g.npy")
    with pytest.raises(FileNotFoundError, match="expected an npz file of features, got .*none.npz"):
        FeatureTable(tmp_path / "none.npz")


def test_what_extract_writes_is_read_by_file_and_by_folder(tmp_path: Path) -> None:
    for split, first in (("query", 0), ("gallery", 5)):
        columns = {"pids": [1, 2], "paths": [f"{split}/a.jpg", f"{split}/b.jpg"]}
        RetrievalSet([[first, 1.0], [first + 1, 1.0]], **columns).save(tmp_path / f"{split}.npz")
    np.savez(tmp_path / "search.npz", rows=[1])
    both = ["/x/gallery/a.jpg", "/x/query/b.jpg"]
    assert extract(FeatureTable(tmp_path), both).features[:, 0].tolist() == [5, 1]
    assert extract(FeatureTable(tmp_path / "query.npz"), both[1:]).features[:, 0].tolist() == [1]
    with pytest.raises(FileNotFoundError, match="expected train.npz, query.npz, gallery.npz in .*, got none"):
        FeatureTable(Path(tmp_path, "nothing").mkdir() or tmp_path / "nothing")
    RetrievalSet([[1.0, 2, 3]], [0], paths=["c"]).save(tmp_path / "train.npz")
    with pytest.raises(ValueError, match=r"one width in .*, got \[2, 3\]"):
        FeatureTable(tmp_path)


def test_a_name_may_hold_more_folders_than_the_path_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(tmp_path / "query" / "a.jpg"), *NAMES[1:]]
    found = extract(FeatureTable(table(tmp_path, names=np.array(names))), ["query/a.jpg"])
    assert found.features[:, 0].tolist() == [0]
