"""Sheets: what stands where, and what is crossed out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import Mark
from torchreid_genext.generation.sheets import contact_sheet, doubtful_sheet

WIDE, TALL = 104, 242  # of a cell with its surroundings
RED = (215, 48, 39)


@pytest.fixture
def references(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 16), (0, 0, 50 * number + 50)).save(path)
    return paths


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Green pictures of three references in poses 2 and 10, of which 1 in pose 10 is dropped."""
    store = ImageStore.create(tmp_path / "store")
    for number in range(3):
        for pose in ("2", "10"):
            image = Image.new("RGB", (8, 16), (0, 80 * number + int(pose), 0))
            store.add(image, split="query", reference=f"{number}.png", pose=pose, provenance={})
    for entry in [*store.entries("query")]:
        likeness = int(entry.reference[0]) / 4 + (entry.pose == "10") / 16
        dropped = (entry.reference, entry.pose) == ("1.png", "10")
        store.mark(entry, Mark(("other person",) if dropped else (), {"similarity": likeness}))
    return store


def colours(sheet: Image.Image) -> list[list[tuple[int, int, int]]]:
    """Of cells, beside their middle, where crosses do not reach."""
    pixels = np.asarray(sheet)
    rows, columns = (sheet.height - 28) // TALL, (sheet.width - 8) // WIDE
    return [
        [tuple(pixels[28 + row * TALL + 96, 8 + column * WIDE + 20].tolist()) for column in range(columns)]
        for row in range(rows)
    ]


def crossed(sheet: Image.Image) -> list[tuple[int, int]]:
    """Row and column of cells with red in their middle."""
    pixels = np.asarray(sheet)
    found = (pixels == RED).all(-1)
    rows, columns = (sheet.height - 28) // TALL, (sheet.width - 8) // WIDE
    return [
        (r, c) for r in range(rows) for c in range(columns) if found[28 + r * TALL + 96, 8 + c * WIDE + 48]
    ]


def test_contact_sheet_shows_the_real_image_and_its_poses_in_order(
    store: ImageStore, references: list[str]
) -> None:
    sheet = contact_sheet(store, "query", references[:2])
    assert colours(sheet) == [[(0, 0, 50), (0, 2, 0), (0, 10, 0)], [(0, 0, 100), (0, 82, 0), (0, 90, 0)]]
    assert crossed(sheet) == [(1, 2)]


def test_contact_sheet_leaves_room_for_what_is_missing_or_cannot_be_read(
    store: ImageStore, references: list[str]
) -> None:
    Path(references[0]).write_bytes(b"no picture")
    sheet = contact_sheet(store, "query", references[:1], poses=["7", "2"])
    assert colours(sheet) == [[(255, 255, 255), (255, 255, 255), (0, 2, 0)]]


def test_contact_sheet_shows_what_replaced_a_dropped_picture(
    store: ImageStore, references: list[str]
) -> None:
    image = Image.new("RGB", (8, 16), (9, 9, 9))
    store.add(image, split="query", reference="1.png", pose="10", provenance={"seed": 2})
    sheet = contact_sheet(store, "query", references)
    assert crossed(sheet) == [] and colours(sheet)[1][2] == (9, 9, 9)


def test_doubtful_pictures_come_by_likeness_the_kept_ones_first(
    store: ImageStore, references: list[str]
) -> None:
    sheet = doubtful_sheet(store, "query", references, count=2)
    assert colours(sheet) == [[(0, 0, 50), (0, 2, 0), (0, 0, 50), (0, 10, 0), (0, 0, 100), (0, 90, 0)]]
    assert crossed(sheet) == [(0, 5)]
    everything = doubtful_sheet(store, "query", references[1:])
    assert [row[1::2] for row in colours(everything)] == [[(0, g, 0) for g in (82, 162, 170, 90)]]


def test_sheets_of_nothing_are_refused(store: ImageStore, references: list[str]) -> None:
    with pytest.raises(ValueError, match="expected at least one reference, got none"):
        contact_sheet(store, "query", [])
    with pytest.raises(ValueError, match="expected a store with judged pictures of gallery"):
        doubtful_sheet(store, "gallery", references)
