from __future__ import annotations

import itertools

import pytest
import torch

from torchreid_genext.data.generator_batches.orders import (
    Batch,
    IdentityBalanced,
    PairedBatch,
    Partners,
    Shuffled,
    batches,
    generator_of,
    share,
)
from torchreid_genext.data.images.in_memory import ImageTensor

PIDS = torch.tensor([4, 4, 1, 9, 1, 4, 9, 7, 4, 2, 2, 2])
CAMIDS = torch.tensor([0, 0, 1, 2, 1, 3, 0, 0, 0, 0, 1, 2])


def images() -> ImageTensor:
    pixels = torch.arange(12, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageTensor(pixels, PIDS, CAMIDS, tuple(map(str, range(12))))


ORDERS = (Shuffled(12, 4, 0), Shuffled(12, 4, 0, shuffle=False), IdentityBalanced(PIDS, 2, 2, 0))


def test_an_epoch_shows_every_image_once_but_for_the_incomplete_batch() -> None:
    order = Shuffled(11, 3, seed=1)
    assert order.steps_per_epoch == 3
    for epoch in range(4):
        seen = torch.cat([order.indices(3 * epoch + step) for step in range(3)])
        assert len(seen.unique()) == 9 and set(seen.tolist()) <= set(range(11))


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = [Shuffled(50, 50, seed).indices(epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) == 9


def test_without_shuffling_images_come_as_they_stand_every_epoch() -> None:
    order = Shuffled(7, 3, seed=5, shuffle=False)
    assert [order.indices(step).tolist() for step in range(3)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


def test_steps_can_be_asked_for_in_any_order() -> None:
    for order in ORDERS:
        forwards = [order.indices(step) for step in range(9)]
        backwards = [order.indices(step) for step in reversed(range(9))][::-1]
        assert all(map(torch.equal, forwards, backwards))


@pytest.mark.parametrize("world", (2, 4))
def test_the_processes_share_the_batch_of_one(world: int) -> None:
    for order in (Shuffled(12, 4, 0), IdentityBalanced(PIDS, 4, 3, 0)):
        for step in range(5):
            parts = [order.indices(step, rank, world) for rank in range(world)]
            assert torch.equal(torch.cat(parts), order.indices(step))


def test_a_balanced_batch_has_as_many_people_and_as_many_images_of_each() -> None:
    order = IdentityBalanced(PIDS, 3, 2, seed=0)
    for step in range(12):
        batch = order.indices(step)
        people = PIDS[batch].reshape(3, 2)
        assert (people == people[:, :1]).all() and len(people[:, 0].unique()) == 3
        for own in batch.reshape(3, 2):
            assert len(own.unique()) == 2 or (PIDS == PIDS[own[0]]).sum() == 1


def test_everyone_is_seen_before_anyone_comes_again() -> None:
    order = IdentityBalanced(PIDS, 2, 1, seed=0)
    assert order.steps_per_epoch == 3  # for five people
    for epoch in range(6):
        people = PIDS[torch.cat([order.indices(3 * epoch + step) for step in range(3)])].tolist()
        assert len(set(people[:5])) == 5 and people[5] == people[0]


def test_few_images_are_repeated_evenly_and_all_are_used_in_time() -> None:
    batch = IdentityBalanced([3, 3, 5, 5, 5, 5], 2, 4, seed=0).indices(0)
    assert sorted(batch.tolist()) == [0, 0, 1, 1, 2, 3, 4, 5]
    order = IdentityBalanced(PIDS, 5, 1, seed=0)
    assert len(torch.cat([order.indices(step) for step in range(40)]).unique()) == 12


def possible(index: int, cameras: bool) -> set[int]:
    others = {i for i in range(12) if PIDS[i] == PIDS[index] and i != index}
    elsewhere = {i for i in others if CAMIDS[i] != CAMIDS[index]}
    return (elsewhere if cameras and elsewhere else others) or {index}


@pytest.mark.parametrize("cameras", (True, False))
def test_partners_are_all_other_images_of_the_person_and_only_these(cameras: bool) -> None:
    partners = Partners(PIDS, CAMIDS if cameras else None)
    indices = torch.arange(12).repeat(200)
    found = partners.another(indices, generator_of(1)).reshape(200, 12)
    for index in range(12):
        assert set(found[:, index].tolist()) == possible(index, cameras)


def test_partners_are_drawn_evenly() -> None:
    found = Partners(PIDS).another(torch.full((6000,), 5), generator_of(2)).bincount(minlength=12)
    assert found[[0, 1, 8]].sum() == 6000 and (found[[0, 1, 8]] - 2000).abs().max() < 200


def test_partners_of_numpy_labels_are_the_same() -> None:
    found = Partners(PIDS.numpy(), CAMIDS.tolist()).another(torch.arange(12), generator_of(3))
    assert torch.equal(found, Partners(PIDS, CAMIDS).another(torch.arange(12), generator_of(3)))


def assert_same(found: Batch | PairedBatch, expected: Batch | PairedBatch) -> None:
    for name, values in expected._asdict().items():
        assert torch.equal(getattr(found, name), values), name


@pytest.mark.parametrize("order", ORDERS, ids=("shuffled", "as they stand", "balanced"))
def test_training_that_resumes_sees_what_it_would_have_seen(order) -> None:
    source = batches(images(), order, partners=Partners(PIDS, CAMIDS), seed=3)
    through = list(itertools.islice(source(0, 0, 1), 12))
    for first in (1, 5, 11):
        for found, expected in zip(source(first, 0, 1), through[first:]):
            assert_same(found, expected)


def test_processes_together_see_the_batch_of_one() -> None:
    source = batches(images(), Shuffled(12, 6, 0), partners=Partners(PIDS), seed=3)
    alone = next(source(4, 0, 1))
    parts = [next(source(4, rank, 3)) for rank in range(3)]
    assert_same(PairedBatch(*map(torch.cat, zip(*parts))), alone)


def test_every_step_draws_its_own_partners() -> None:
    same = Shuffled(12, 12, 0, shuffle=False)
    drawn = itertools.islice(batches(images(), same, partners=Partners(PIDS))(0, 0, 1), 8)
    assert len({tuple(batch.others[:, 0, 0, 0].tolist()) for batch in drawn}) > 4


def test_a_batch_is_what_its_indices_say() -> None:
    batch = next(batches(images(), ORDERS[0], partners=Partners(PIDS))(7, 0, 1))
    assert_same(next(batches(images(), ORDERS[0])(7, 0, 1)), Batch(*batch[:4]))
    assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.indices)
    assert torch.equal(batch.labels, PIDS[batch.indices]) and torch.equal(batch.camids, CAMIDS[batch.indices])
    assert torch.equal(PIDS[batch.others[:, 0, 0, 0].long()], batch.labels)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: Shuffled(3, 4, 0), "expected batch_size in 1..3, the number of images, got 4"),
        (lambda: Shuffled(3, 0, 0), "expected batch_size in 1..3, the number of images, got 0"),
        (lambda: Shuffled(3, 2, 0).indices(-1), "expected a step >= 0, got -1"),
        (lambda: IdentityBalanced([1, 1], 2, 1, 0), "expected images of at least 2 people, got 1"),
        (lambda: IdentityBalanced(PIDS, 6, 2, 0), r"expected identities in 2..5, .* got 6 and 2"),
        (lambda: IdentityBalanced(PIDS, 1, 2, 0), r"expected identities in 2..5, .* got 1 and 2"),
        (lambda: IdentityBalanced(PIDS, 2, 0, 0), r"images >= 1, got 2 and 0"),
        (lambda: IdentityBalanced(PIDS, 3, 2, 0).indices(0, 0, 2), "2 processes can share .* groups of 2"),
        (lambda: share(torch.arange(5), 0, 2), "2 processes can share equally, got 5 images"),
        (lambda: share(torch.arange(4), 2, 2), r"expected a rank in 0..1, got 2"),
        (lambda: Partners([1, 1], [0]), "expected as many camids as pids, got 1 and 2"),
    ),
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
