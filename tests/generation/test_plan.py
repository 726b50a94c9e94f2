"""Plans: FLOPs that can be counted by hand, and what is told of them."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from torchreid_genext.generation import Work
from torchreid_genext.generation.plan import Plan, plan

WORKS = [Work("query", f"{number}.jpg", "1", number) for number in range(5)]


def multiply(batch: list[Work]) -> list[Image.Image]:
    """A product of 4 x 6 by 6 x 8 a picture."""
    for _ in batch:
        torch.ones(4, 6) @ torch.ones(6, 8)
    return [Image.new("RGB", (8, 16)) for _ in batch]


def test_arithmetic_disk_and_time_are_those_of_one_batch() -> None:
    found = plan(WORKS, 7, multiply, batch_size=2)
    assert (found.images, found.present) == (5, 7)
    assert found.flops == 2 * 4 * 6 * 8
    assert found.disk == 2 * 4096  # a small PNG and its entry, a block each
    assert found.seconds > 0 and found.memory > 2**20


def test_a_plan_is_told_in_hours() -> None:
    told = str(Plan(images=36000, present=1, flops=2e9, seconds=0.5, disk=2**20, memory=2**31))
    for what in (
        "36,000 to make, 1 are there",
        "7.2e+13 (2 GFLOP an image)",
        "5 h 0 min (2 images/s",
        "36,000 MiB",
    ):
        assert what in told


def test_several_processes_take_a_share_of_the_time_and_a_thread_each() -> None:
    seen = []

    def look(batch: list[Work]) -> list[Image.Image]:
        seen.append(torch.get_num_threads())
        return multiply(batch)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert "images/s in 3 processes" in str(plan(WORKS, 0, look, batch_size=2, processes=3))
        assert "images/s in one process" in str(plan(WORKS, 0, look, batch_size=2))
        assert seen == [1, 1, 2, 2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    told = str(Plan(images=36000, present=0, flops=2e9, seconds=0.5, disk=2**20, memory=2**31, processes=4))
    assert "1 h 15 min (8 images/s in 4 processes)" in told and "2,048 MiB at most in each" in told


def test_nothing_to_make_is_no_plan() -> None:
    with pytest.raises(ValueError, match="expected something to make, got nothing"):
        plan([], 3, multiply, batch_size=2)


def picky(bad: set[str], asked: list[list[Work]]) -> Callable[[list[Work]], list[Image.Image]]:
    """Draws all but some references, and notes what it was asked for."""

    def draw(batch: list[Work]) -> list[Image.Image]:
        asked.append(batch)
        if bad & {work.reference for work in batch}:
            raise OSError("cannot identify image file")
        return multiply(batch)

    return draw


def test_one_image_that_cannot_be_read_is_passed_over() -> None:
    asked: list[list[Work]] = []
    found = plan(WORKS, 0, picky({"0.jpg"}, asked), batch_size=2)
    assert found.images == 5 and found.flops == 2 * 4 * 6 * 8
    assert asked[-2:] == [WORKS[1:3], WORKS[3:5]]


def test_images_that_cannot_be_read_beyond_the_first_batch_are_passed_over() -> None:
    assert plan(WORKS, 0, picky({"3.jpg"}, []), batch_size=2).flops == 2 * 4 * 6 * 8
    assert plan(WORKS, 0, picky({"0.jpg", "1.jpg", "2.jpg"}, []), batch_size=2).flops == 2 * 4 * 6 * 8


def test_without_any_image_that_can_be_read_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="expected references that can be read, got 5 pictures of others"):
        plan(WORKS, 0, picky({work.reference for work in WORKS}, []), batch_size=2)


@pytest.mark.parametrize("error", (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("memory")))
def test_errors_that_no_image_has_caused_are_raised(error: Exception) -> None:
    def fail(batch: list[Work]) -> list[Image.Image]:
        raise error

    with pytest.raises(type(error)):
        plan(WORKS, 0, fail, batch_size=2)


def test_no_batch_is_made_twice_where_there_are_two() -> None:
    asked: list[list[Work]] = []
    plan(WORKS, 0, picky(set(), asked), batch_size=2)
    assert asked == [WORKS[:2], WORKS[2:4]]
    asked.clear()
    plan(WORKS[:3], 0, picky(set(), asked), batch_size=2)
    assert asked == [WORKS[:2], WORKS[:2]]
