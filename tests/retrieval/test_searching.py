"""Search without labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from torchreid_genext.retrieval.protocol import RetrievalSet, compare
from torchreid_genext.retrieval.searching import search, write_found


def pair(queries: int = 7, images: int = 30, **options: object) -> tuple[RetrievalSet, RetrievalSet]:
    generator = np.random.default_rng(1)
    # Few different values, so that there are ties.
    features = generator.integers(0, 3, (queries + images, 2)).astype(np.float32) + 1
    zeros = np.zeros(queries + images, dtype=int)
    return (
        RetrievalSet(features[:queries], zeros[:queries], **options),
        RetrievalSet(features[queries:], zeros[queries:]),
    )


@pytest.mark.parametrize("memory_limit", [None, 4096])
@pytest.mark.parametrize("chain", ["base", "nfc", "rerank(k1=5,k2=2)"])
@pytest.mark.parametrize("top", [1, 4, 99])
def test_lists_are_those_of_a_stable_sort(chain: str, top: int, memory_limit: int | None) -> None:
    comparison = compare(*pair(), chain, memory_limit=memory_limit)
    found = search(comparison, top=top)
    distances = comparison.matrix().numpy()
    for row, hits in enumerate(found.lists):
        assert [hit.row for hit in hits] == np.argsort(distances[row], kind="stable")[:top].tolist()
        assert np.allclose([hit.distance for hit in hits], distances[row][[hit.row for hit in hits]])
    assert found.chain == chain


def test_a_file_does_not_find_itself_and_blank_images_are_not_found(tmp_path: Path) -> None:
    features = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], np.float32)
    names = [str(tmp_path / f"{n}.png") for n in range(4)]
    images = RetrievalSet(features, [0] * 4, paths=names)
    query = images.select(torch.tensor([0, 2]))
    found = search(compare(query, images), top=9)
    assert [[hit.row for hit in hits] for hits in found.lists] == [[2, 3], [0, 3]]
    assert [len(hits) for hits in search(compare(query, images), top=1).lists] == [1, 1]


def test_files_say_the_same(tmp_path: Path) -> None:
    found = search(compare(*pair(), "nfc"), top=3)
    files = write_found(found, tmp_path / "new")
    told = json.loads(files[0].read_text())
    with open(files[1], newline="") as lines:
        rows = list(csv.DictReader(lines))
    stored = np.load(files[2])
    for number, hits in enumerate(found.lists):
        assert [hit["row"] for hit in told["queries"][number]["list"]] == [hit.row for hit in hits]
        mine = [row for row in rows if row["query"] == found.queries[number]]
        assert [(int(row["rank"]), int(row["row"])) for row in mine] == [
            (n, h.row) for n, h in enumerate(hits, 1)
        ]
        assert stored["rows"][number].tolist() == [hit.row for hit in hits]
        assert np.allclose(stored["distances"][number], [hit.distance for hit in hits])


def test_no_list_is_refused() -> None:
    with pytest.raises(ValueError, match="top"):
        search(compare(*pair()), top=0)


def test_a_set_that_is_searched_in_itself_leaves_each_own_row_out() -> None:
    """Where no files are known: by the features of both sets."""
    images = pair()[1]
    found = search(compare(images, images), top=3)
    assert all(row not in [hit.row for hit in hits] for row, hits in enumerate(found.lists))
    other = images.with_features(images.features + torch.eye(len(images))[:, :2])
    assert any(row in [hit.row for hit in hits] for row, hits in enumerate(search(compare(images, other)).lists))
