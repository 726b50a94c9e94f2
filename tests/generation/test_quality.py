"""The gate for generated pictures: who is dropped and why, and what is said of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.reference import joints_in_place
from torchreid_genext.data.images.reading import UNREADABLE, open_image
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import Mark, mark_file
from torchreid_genext.generation import quality
from torchreid_genext.generation.quality import Gate, judge, pose_agreement, report

POSE = np.stack([np.linspace(2, 30, 18), np.linspace(3, 12, 18)], -1)


def person(number: int, shade: int = 0) -> Image.Image:
    """Stripes whose colours tell people apart."""
    pixels = np.zeros((32, 16, 3), np.uint8)
    pixels[:16, :, number % 3], pixels[16:, :, (number // 3) % 3] = 200, 120
    pixels[8:24, 4:12] += np.uint8(10 + shade)
    return Image.fromarray(pixels)


def features(files: list[str]) -> tuple[Tensor, Tensor]:
    """Pixels of a small version."""
    rows, kept = [], []
    for position, file in enumerate(files):
        try:
            rows.append(np.asarray(open_image(file).resize((4, 8)), np.float32).ravel() / 255)
            kept.append(position)
        except UNREADABLE:
            pass
    return torch.tensor(np.stack(rows) if rows else np.empty((0, 0))).float(), torch.tensor(kept).long()


@pytest.fixture
def people(tmp_path: Path) -> list[str]:
    """Images of nine people."""
    (tmp_path / "query").mkdir()
    paths = [str(tmp_path / "query" / f"{number:04d}.png") for number in range(9)]
    for number, path in enumerate(paths):
        person(number).save(path)
    return paths


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Pictures 1 and 2 of each person, but 0001 has a stranger, 0002 a black one, 0003 a cut one."""
    store = ImageStore.create(tmp_path / "store")
    for number in range(9):
        for pose in (1, 2):
            image = person(number, shade=pose)
            if (number, pose) == (1, 1):
                image = person(5)
            if (number, pose) == (2, 2):
                image = Image.new("RGB", (16, 32), (40, 0, 0))
            path = add(store, image, f"{number:04d}.png", str(pose))
            if (number, pose) == (3, 1):
                path.write_bytes(path.read_bytes()[:60] + path.read_bytes()[-12:])
    return store


def add(store: ImageStore, image: Image.Image, reference: str, pose: str, seed: int = 0) -> Path:
    return store.add(image, split="query", reference=reference, pose=pose, provenance={"seed": seed})


def marks(store: ImageStore) -> dict[tuple[str, str], Mark | None]:
    return {(e.reference, e.pose): store.mark_of(e) for e in store.entries("query", dropped=True)}


def test_strangers_and_blank_and_damaged_pictures_are_dropped_and_all_others_kept(
    store: ImageStore, people: list[str]
) -> None:
    found = judge(store, "query", people, features, gate=Gate(similarity=0.5), progress=False)
    reasons = {place: mark.reasons for place, mark in marks(store).items() if not mark.kept}
    assert reasons.pop(("0002.png", "2"))[0] == "blank"
    assert reasons == {("0001.png", "1"): ("other person",), ("0003.png", "1"): ("unreadable",)}
    assert (found.split, found.kept, found.dropped, found.unjudged) == ("query", 15, 3, 0)
    assert len(list(store.entries("query"))) == 15 and len(store.files("query")["1"]) == 7


def test_similarity_is_the_cosine_of_what_features_differ_by_from_the_mean(
    store: ImageStore, people: list[str]
) -> None:
    for gate in (Gate(centred=True), Gate(centred=False)):
        judge(store, "query", people, features, gate=gate, progress=False)
        known, _ = features(people)
        mean = sum(known) / len(known) if gate.centred else torch.zeros(known.shape[1])
        for entry in store.entries("query", dropped=True):
            mark = store.mark_of(entry)
            if mark.reasons != ("unreadable",):
                (row,), _ = features([str(store.path(entry))])
                a, b = row - mean, known[int(entry.reference[:4])] - mean
                expected = float((a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt())
                assert mark.measured["similarity"] == pytest.approx(expected, abs=1e-5)
            assert mark.gate["centred"] == gate.centred


def test_judging_in_parts_is_judging_at_once(
    store: ImageStore, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(store, "query", people, features, progress=False)
    at_once = marks(store)
    monkeypatch.setattr(quality, "_CHUNK", 5)
    judge(store, "query", people, features, progress=False)
    for place, mark in marks(store).items():
        assert mark.reasons == at_once[place].reasons
        assert mark.measured == pytest.approx(at_once[place].measured, abs=1e-5)


def test_judging_again_replaces_marks(store: ImageStore, people: list[str]) -> None:
    judge(store, "query", people, features, gate=Gate(similarity=1), progress=False)
    assert judge(store, "query", people, features, gate=Gate(-1, deviation=0), progress=False).dropped == 1


def test_features_that_are_not_finite_count_as_another_person(store: ImageStore, people: list[str]) -> None:
    def failing(files: list[str]) -> tuple[Tensor, Tensor]:
        rows, kept = features(files)
        return rows * (math.nan if "store" in files[0] else 1), kept

    found = judge(store, "query", people, failing, progress=False)
    assert found.kept == 0 and found.reasons["other person"] == 17 and "similarity" not in found.measured


def test_what_has_no_reference_is_not_judged(store: ImageStore, people: list[str]) -> None:
    Path(people[0]).write_bytes(b"no picture")
    found = judge(
        store, "query", people[:8] + [people[0]], features, gate=Gate(centred=False), progress=False
    )
    assert (found.unjudged, found.kept + found.dropped) == (4, 14)
    assert len(list(store.entries("query"))) == 18 - found.dropped


def test_poses_are_compared_where_joints_are_found(store: ImageStore, people: list[str]) -> None:
    def joints(image: Image.Image) -> np.ndarray:
        """A pose that is right in pictures of shade 1 and too low in others."""
        return POSE + (0 if np.asarray(image)[16, 8].min() == 11 else 8)

    found = judge(
        store, "query", people, features, gate=Gate(similarity=-1, agreement=0.6), joints=joints,
        targets={"1": POSE, "2": POSE}, progress=False,
    )  # fmt: skip
    assert found.reasons["other pose"] == 10 and set(found.measured["agreement"]) == {0, 1}
    of_pose_1 = [mark for (_, pose), mark in marks(store).items() if pose == "1" and mark.kept]
    assert len(of_pose_1) == 7 and all(mark.measured["agreement"] == 1 for mark in of_pose_1)


def test_agreement_equals_counting_joints_one_by_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        target, found = random.uniform(0, 60, (2, 18, 2))
        found = np.where(random.random((18, 1)) < 0.6, target + random.normal(0, 5, (18, 2)), found)
        found[random.random(18) < 0.2], target[random.random(18) < 0.2] = -1, -1
        assert pose_agreement(found, target) == joints_in_place(found.tolist(), target.tolist(), 0.1)


def test_agreement_with_no_pose_is_unknown() -> None:
    assert math.isnan(pose_agreement(POSE, np.full((18, 2), -1)))
    assert pose_agreement(np.full((18, 2), -1), POSE) == 0


def test_report_is_read_from_the_marks_and_says_so_in_words(store: ImageStore, people: list[str]) -> None:
    found = judge(store, "query", people, features, gate=Gate(similarity=0.5), progress=False)
    again = report(store, "query")
    assert again.summary() == found.summary()
    first, *others = again.summary().splitlines()
    assert first == "query: 15 pictures kept, 3 dropped (16.7%)"
    assert "  dropped as unreadable: 1" in others
    assert any(line.startswith("  similarity: ") and line.endswith("median 1") for line in others)
    assert (np.diff(again.measured["similarity"]) >= 0).all() and len(again.measured["similarity"]) == 17
    assert report(store, "train").summary() == "train: 0 pictures kept, 0 dropped"


def test_a_damaged_mark_is_none(
    store: ImageStore, people: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    judge(store, "query", people, features, progress=False)
    entry = next(entry for entry in store.entries("query", dropped=True) if not store.mark_of(entry).kept)
    file = mark_file(store.path(entry))
    for content in ("", "[]", "{}", json.dumps({"reasons": 3, "measured": {}, "gate": {}})):
        file.write_text(content)
        assert store.mark_of(entry) is None and entry in list(store.entries("query"))
    assert f"left out, since it is no mark: {file}" in caplog.text


def test_bad_requests_are_refused(store: ImageStore, people: list[str]) -> None:
    with pytest.raises(ValueError, match="unknown split 'test'"):
        judge(store, "test", people, features)
    with pytest.raises(ValueError, match="expected both joints and targets or neither"):
        judge(store, "query", people, features, targets={"1": POSE})
    with pytest.raises(ValueError, match="expected at least 8 references for a mean of them, got 7"):
        judge(store, "query", people[:7], features)
    with pytest.raises(ValueError, match=r"expected similarity in -1 .. 1, got 1.5"):
        Gate(similarity=1.5)
    with pytest.raises(ValueError, match="expected agreement in 0 .. 1, got nan"):
        Gate(agreement=math.nan)
