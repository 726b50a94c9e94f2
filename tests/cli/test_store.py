"""The tool for stores: what it tells, what it finds, and what it removes, which is never another's."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.data.store.test_image_store import contents
from tests.generation.conftest import draw_references
from tests.generation.test_filling import fill_with
from tests.generation.worker import MADE, POSES, draw
from torchreid_genext.cli import store as tool
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import Mark
from torchreid_genext.generation import Filled, Work, works
from torchreid_genext.generation.survey import survey

HOUR = 3600


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return draw_references(tmp_path / "query")


@pytest.fixture
def asked(references: Path) -> Callable[[int, int], list[Work]]:
    paths = sorted(map(str, references.iterdir()))
    return lambda count=8, seed=0: works("query", paths[:count], POSES, seed=seed)


@pytest.fixture
def store(tmp_path: Path, asked: Callable) -> ImageStore:
    """24 pictures of seed 0, a while ago."""
    made = ImageStore.create(tmp_path / "store")
    fill_with(made, asked())
    make_old(made.root)
    return made


def make_old(root: Path) -> None:
    for path in root.glob("images/*/*"):
        os.utime(path, (time.time() - HOUR,) * 2)


def count(store: ImageStore) -> int:
    return len([*ImageStore(store.root).entries(dropped=True)])


def poison(store: ImageStore, asked: list[Work]) -> None:
    """What an earlier version did when it was given another seed."""
    for work, entry in survey(None, asked, MADE).entries.items():
        store.add(draw(work), **vars(entry))


def test_what_is_there_is_told(store: ImageStore, asked: Callable, capsys: pytest.CaptureFixture) -> None:
    poison(store, asked(1, 77))
    store.mark(next(store.entries()), Mark(("blank",)))
    tool.main(["list", str(store.root)])
    told = capsys.readouterr().out
    assert "query: 27 pictures of 8 references in poses 1, 2, 3; 1 dropped" in told
    assert "weights: a1b2 (27)" in told and "drawn from seed: 0 (24), 77 (3)" in told
    assert "two answers: query 0000_c1s1_000451_03.png in pose" in told and "times two answers" in told


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--seed", "77"], 24),
        (["--other_seeds", "0"], 24),
        (["--seed", "0"], 6),
        (["--pose", "1", "2", "--seed", "0"], 14),
        (["--reference", "0000_c1s1_000451_03.png"], 24),
        (["--split", "gallery"], 30),
        (["--where", "sampler.steps=20"], 0),
        (["--where", "sampler.steps!=20"], 30),
        (["--where", "weights=a1b2", "sampler.name!=ddpm"], 0),
        (["--where", "nothing=1"], 30),
        (["--all"], 0),
    ],
)
def test_what_is_chosen_is_removed(
    store: ImageStore, asked: Callable, words: list[str], left: int, capsys: pytest.CaptureFixture
) -> None:
    poison(store, asked(2, 77))
    before = contents(store.root)
    tool.main(["remove", str(store.root), *words, "--dry-run"])
    assert f"{30 - left} pictures would be removed" in capsys.readouterr().out
    assert contents(store.root) == before and count(store) == 30
    tool.main(["remove", str(store.root), *words])
    assert f"{30 - left} pictures removed" in capsys.readouterr().out and count(store) == left
    assert contents(store.root).items() <= before.items()


def test_a_poisoned_store_is_healed_as_the_error_says(store: ImageStore, asked: Callable) -> None:
    poison(store, asked(2, 77))
    with pytest.raises(ValueError, match="seed 0, got seed 77") as caught:
        fill_with(store, asked())
    words = str(caught.value).split("torchreid-genext store ")[1].split()
    tool.main(words)
    assert fill_with(store, asked()) == Filled(0, 24, {}) and count(store) == 24


def test_pictures_of_images_that_were_changed_are_removed(
    store: ImageStore, asked: Callable, references: Path
) -> None:
    Image.new("RGB", (8, 16), "white").save(asked()[0].reference)
    Path(asked()[3].reference).unlink()  # of this nothing is known
    with pytest.raises(ValueError, match="--changed") as caught:
        fill_with(store, asked())
    tool.main(str(caught.value).split("torchreid-genext store ")[1].split())
    assert count(store) == 21 and fill_with(store, asked()).made == 3


def test_what_differs_is_removed_as_the_error_says(store: ImageStore, asked: Callable) -> None:
    for changes in ({"weights": 'it\'s "new"'}, {"sampler": {"name": "ddim", "steps": 50}}):
        with pytest.raises(ValueError) as caught:
            fill_with(store, asked(), provenance=MADE | changes)
        tool.main(shlex.split(str(caught.value).split("torchreid-genext store ")[1]))
        assert count(store) == 0
        fill_with(store, asked(), provenance=MADE | {"weights": 'it\'s "new"'})


def test_nothing_chosen_is_refused(store: ImageStore, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        tool.main(["remove", str(store.root)])
    assert "expected what is to be removed, or --all, got neither" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a condition such as .*, got 'steps'"):
        tool.main(["remove", str(store.root), "--where", "steps"])
    assert count(store) == 24


def spoilt(store: ImageStore) -> dict[str, Path]:
    """Faults of all kinds, each of another picture."""
    damaged, cut, alone, lonely, other, *_ = sorted(store.root.glob("images/*/*.png"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:60] + bytes(8) + content[68:])
    cut.write_bytes(cut.read_bytes()[:-1])
    alone.with_suffix(".json").unlink()
    lonely.unlink()
    other.with_suffix(".json").write_text("{}")
    return {
        "damaged picture": damaged, "cut": cut, "no entry": alone, "no picture": lonely,
        "damaged entry": other,
    }  # fmt: skip


def foreign(store: ImageStore) -> list[Path]:
    """Files that no store writes."""
    folder = sorted(store.root.glob("images/*"))[0]
    found = [
        store.root / "notes.txt", folder / "photo.png", folder / "photo.json", folder / f"{'0' * 32}.txt",
        folder / f".{'0' * 32}.png", store.root / "images" / "readme.json", folder / f"{'f' * 32}.png",
    ]  # fmt: skip
    for path in found:
        path.write_text("not ours")
    return found


def test_faults_are_found_and_repaired_and_made_again(
    store: ImageStore, asked: Callable, capsys: pytest.CaptureFixture
) -> None:
    tool.main(["verify", str(store.root)])
    assert "no faults; what is not whole and younger than three minutes" in capsys.readouterr().out
    whole, faulty, theirs = contents(store.root / "images"), spoilt(store), foreign(store)
    make_old(store.root)
    with pytest.raises(SystemExit, match="expected whole pictures, got 5 faults; --repair removes them"):
        tool.main(["verify", str(store.root)])
    told = capsys.readouterr().out
    assert all(f"{reason}: {path.parent}" in told for reason, path in faulty.items() if reason != "cut")
    tool.main(["verify", str(store.root), "--repair"])
    assert "5 removed" in capsys.readouterr().out and all(path.exists() for path in theirs)
    assert fill_with(store, asked()) == Filled(5, 19, {})
    for path in theirs:
        path.unlink()
    again = contents(store.root / "images")
    assert {name: content for name, (content, _) in again.items()} == {
        name: content for name, (content, _) in whole.items()
    }


def test_a_quick_look_finds_what_was_cut_off(store: ImageStore) -> None:
    spoilt(store)
    make_old(store.root)
    with pytest.raises(SystemExit, match="got 4 faults"):
        tool.main(["verify", str(store.root), "--quick"])


def test_what_is_in_the_making_is_no_fault(store: ImageStore, capsys: pytest.CaptureFixture) -> None:
    path = sorted(store.root.glob("images/*/*.png"))[0]
    path.with_suffix(".json").unlink()
    os.utime(path)
    tool.main(["verify", str(store.root), "--repair"])
    assert path.exists() and "0 removed" in capsys.readouterr().out


def test_what_killed_processes_were_writing_is_swept(store: ImageStore, asked: Callable) -> None:
    folder = sorted(store.root.glob("images/*"))[0]
    stray = [folder / f".0a1b2c3d-{'0' * 32}{suffix}" for suffix in (".png", ".json", ".mark.json")]
    other = folder / ".0a1b2c3d-photo.png"
    for sweep in (
        lambda: tool.main(["verify", str(store.root), "--repair"]),
        lambda: fill_with(store, asked()),
    ):
        for path in (*stray, other):
            path.touch()
        sweep()
        assert all(path.exists() for path in stray)  # they may be in the making
        make_old(store.root)
        sweep()
        assert not any(path.exists() for path in stray) and other.exists()
