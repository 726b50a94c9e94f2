"""Every step, protocol and function on an accelerator: the CPU's numbers, nothing moved, few waits.

The accelerator is pretended, see ``tests.accelerator``: what would fail or wait on a real one does so here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.accelerator import DEVICE, Waits, counting_syncs, pretended_accelerator
from torchreid_genext.ranklists import ranked_lists
from torchreid_genext.retrieval.centralization import fuse_generated, id2, nfc
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.metrics import PROTOCOLS
from torchreid_genext.retrieval.neighbours import nearest
from torchreid_genext.retrieval.protocol import Report, RetrievalSet, evaluate, transform
from torchreid_genext.retrieval.reranking import k_reciprocal, k_reciprocal_distances
from torchreid_genext.retrieval.spatiotemporal import joint_similarity
from torchreid_genext.retrieval.steps import STEPS

CPU = torch.device("cpu")
SMALL = 12_000  # bytes: blocks of a few rows

CHAINS = [
    "base",
    "l2",
    "fuse(eta=2)+l2",
    "fuse(reduce=sum,side=query,normalize_before=True)",
    "camera_norm",
    "camera_norm(statistics=gallery,normalize_after=False)",
    "tracklets",
    "tracklets(gap=50,side=gallery)",
    "nfc",
    "nfc(k1=4,k2=2,side=joint)",
    "nfc(side=query,normalize_before=False,normalize_after=False)",
    "nfc(self_distance=1000)",
    "nfc(k1=3,neighbours=cross_camera)",
    "nfc(k1=3,neighbours=spatiotemporal)",
    "nfc(neighbours=spatiotemporal,form=official,side=joint)",
    "nfc(k1=3,neighbours=cross_camera+spatiotemporal,form=loglikelihood)",
    "aqe",
    "alpha_qe",
    "dba",
    "st",
    "st(form=loglikelihood)",
    "st(form=official)",
    "rerank",
    "l2+rerank(k1=6,k2=3)",
    "lda",
    "camera_norm+lda(ridge=0.1,width=4)+st",
    "l2+blend(weight=0.5)+nfc(k1=3,k2=3)",
    "camera_norm+lda+blend+tracklets+nfc(k1=3,k2=3,neighbours=cross_camera+spatiotemporal)+st+ca_jaccard",
    "dmon(k1=3,side=gallery)+l2",
    "aro(k1=6,k2=3)",
    "dmon+aro",
    "ca_jaccard",
    "st+ca_jaccard(k1_intra=2,k1_inter=6)",
    # those of the README
    "fuse(eta=2)+l2+nfc",
    "dba+alpha_qe",
    "camera_norm+nfc(neighbours=cross_camera)",
    "camera_norm+st",
    "st(form=official)+rerank",
    "camera_norm+tracklets+st",
    "camera_norm+tracklets+nfc(k1=3,k2=3,neighbours=cross_camera+spatiotemporal)+st",
    "camera_norm+tracklets+nfc(neighbours=cross_camera+spatiotemporal)+st+rerank",
]

RERANKING = re.compile("rerank|ca_jaccard")


@pytest.fixture(autouse=True)
def accelerator() -> None:
    with pretended_accelerator():
        yield


def world(device: torch.device, people: int = 12) -> tuple[RetrievalSet, RetrievalSet, RetrievalSet]:
    """Query, gallery and training split: people seen twice by each of four cameras."""
    generator = torch.Generator().manual_seed(0)
    noise = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    pids = torch.arange(people).repeat_interleave(8)
    camids = torch.arange(4).repeat_interleave(2).repeat(people)
    features = noise(people, 16)[pids] + 0.5 * noise(4, 16)[camids] + 0.8 * noise(len(pids), 16)
    frames = 1000 * pids + 300 * camids + torch.randint(0, 200, (len(pids),), generator=generator)
    generated = features[:, None] + 0.3 * noise(len(pids), 2, 16)
    asked = torch.arange(len(pids)) % 8 == 0

    def some(rows: Tensor) -> RetrievalSet:
        labels = (column[rows] for column in (pids, camids, frames))
        return RetrievalSet(features[rows].to(device), *labels, generated[rows].to(device))

    train = RetrievalSet(features.flip(0).to(device), pids, camids, frames)
    return some(asked), some(~asked), train


def close(found: Tensor, expected: Tensor) -> None:
    """The same numbers, and still on the accelerator."""
    assert found.device == DEVICE
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)


def reported(device: torch.device, chain: str, people: int = 12, **options: Any) -> Report:
    return counted(device, chain, people, **options)[0]


def waits(chain: str, people: int = 12, **options: Any) -> Waits:
    return counted(DEVICE, chain, people, **options)[1]


@functools.cache  # most tests ask different things of the same evaluations
def counted(device: torch.device, chain: str, people: int, **options: Any) -> tuple[Report, Waits]:
    query, gallery, train = world(device, people)
    with counting_syncs() as count:
        return evaluate(query, gallery, chain, train=train, **options), count


def assert_same(found: Report, expected: Report) -> None:
    for name in ("chain", "protocol", "metric", "num_query", "num_valid_queries", "num_gallery"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("mAP", "map_bounds", "cmc", "rank1_bounds", "mINP", "id2_query", "id2_gallery"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-6), name
    np.testing.assert_allclose(found.average_precision, expected.average_precision, atol=1e-6)
    np.testing.assert_array_equal(found.first_match_rank, expected.first_match_rank)
    np.testing.assert_allclose(found.density_gallery, expected.density_gallery, atol=1e-6)


def test_every_step_is_tried() -> None:
    assert {step.name for chain in CHAINS for step in Chain.parse(chain).steps} == set(STEPS)


@pytest.mark.parametrize("memory_limit", (None, SMALL), ids=("whole", "blocks"))
@pytest.mark.parametrize("chain", CHAINS)
def test_chains_give_the_same_and_stay(chain: str, memory_limit: int | None) -> None:
    query, gallery, train = world(DEVICE)
    after = transform(query, gallery, chain, train=train, memory_limit=memory_limit)
    query, gallery, _ = world(CPU)
    expected = transform(query, gallery, chain, train=train, memory_limit=memory_limit)
    close(after.query.features, expected.query.features)
    close(after.gallery.features, expected.gallery.features)
    close(after.matrix(), expected.matrix())
    some = torch.tensor([1, 3, 10])
    close(after.distances(some), expected.distances(some))
    close(after.distances(slice(2, 5), slice(10, 30)), expected.distances(slice(2, 5), slice(10, 30)))


@pytest.mark.parametrize("chain", CHAINS)
def test_evaluations_give_the_same(chain: str) -> None:
    found, expected = (reported(device, chain) for device in (DEVICE, CPU))
    assert_same(found, expected)


@pytest.mark.parametrize("memory_limit", (None, SMALL), ids=("whole", "blocks"))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_give_the_same(protocol: str, memory_limit: int | None) -> None:
    options = {"protocol": protocol, "metric": "cosine", "memory_limit": memory_limit}
    found, expected = (reported(device, "nfc", **options) for device in (DEVICE, CPU))
    assert_same(found, expected)


@pytest.mark.parametrize("chain", ("nfc", "camera_norm+st", "l2+rerank", "st+rerank"))
def test_rank_lists_are_the_same(chain: str) -> None:
    lists = []
    for device in (DEVICE, CPU):
        query, gallery, train = world(device)
        after = transform(query, gallery, chain, train=train, memory_limit=SMALL)
        lists.append(ranked_lists(after, [0, 3, 11], depth=12))
    for found, expected in zip(*lists):
        assert [(p.index, p.kind, p.rank) for p in found] == [(p.index, p.kind, p.rank) for p in expected]
        assert [p.distance for p in found] == pytest.approx([p.distance for p in expected], abs=1e-6)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nearest": lambda q, g: nearest(q, g, k=5, memory_limit=SMALL)[0],
    "whose is nearest": lambda q, g: nearest(g, k=5)[1].float(),
    "nfc": lambda q, g: nfc(g, k1=4, k2=3, memory_limit=SMALL),
    "nfc that finds itself": lambda q, g: nfc(10 * g, self_distance=1000),
    "fuse_generated": lambda q, g: fuse_generated(g, torch.stack([g, 2 * g], 1), normalize_before=True),
    "id2": lambda q, g: id2(g, torch.arange(len(g)) % 7),
    "id2 by labels there": lambda q, g: id2(g, torch.arange(len(g), device=g.device) % 7),
    "k_reciprocal": lambda q, g: k_reciprocal(q, g, k1=6, k2=3, memory_limit=SMALL),
    "k_reciprocal by angle": lambda q, g: k_reciprocal(q, g, metric="cosine"),
    "k_reciprocal_distances": lambda q, g: k_reciprocal_distances(
        torch.cdist(q, g), torch.cdist(q, q), torch.cdist(g, g), k1=6, k2=3, memory_limit=SMALL
    ),
    "joint_similarity": lambda q, g: joint_similarity(q @ g.t() / 16, torch.cdist(q, g) / 100),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_give_the_same_and_stay(name: str) -> None:
    found, expected = (
        FUNCTIONS[name](query.features, gallery.features) for query, gallery, _ in (world(DEVICE), world(CPU))
    )
    close(found, expected)


def test_neighbours_through_faiss_come_back() -> None:
    pytest.importorskip("faiss")
    assert_same(reported(DEVICE, "nfc", index="flat"), reported(CPU, "nfc", index="flat"))


@pytest.mark.parametrize("people", (12, 48))
@pytest.mark.parametrize("chain", CHAINS)
def test_the_host_seldom_waits(chain: str, people: int) -> None:
    """Each step checks its features and asks for a few sizes, some once a camera, of which there are four."""
    searches = 3 * 4 * ("ca_jaccard" in chain)  # within a camera, before it and behind it
    assert waits(chain, people=people).total() <= 40 + 60 * len(Chain.parse(chain).steps) + 5 * searches


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not RERANKING.search(chain)])
def test_each_block_waits_for_a_few_numbers_alone(chain: str) -> None:
    """Ranking checks a block, takes the distances of matches and the counts; a search, which rows to redo."""
    few, many = waits(chain), waits(chain, memory_limit=SMALL)
    assert many.total() <= few.total() + 4 * 96  # blocks of one row at the worst


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if RERANKING.search(chain)])
def test_blocks_of_reranking_wait_for_the_sizes_of_their_sets_alone(chain: str) -> None:
    images = 96  # blocks of one row at the worst, each through a handful of stages
    few, many = waits(chain), waits(chain, memory_limit=SMALL)
    assert many.total() <= few.total() + 12 * images


@pytest.mark.parametrize("chain", ("base", "nfc", "camera_norm+st", "l2+rerank"))
def test_distances_are_counted_where_they_lie(chain: str) -> None:
    """What reaches the host is a few numbers of each image, never a block of distances."""
    people = 60
    images, pairs = 8 * people, people * 7 * people
    assert waits(chain, people=people).fetched < 20 * images < pairs


@pytest.mark.parametrize("chain", ["l2", "rerank(k1=6,k2=3)"])
def test_the_open_set_is_counted_on_the_device(chain: str) -> None:
    found = []
    for device in (CPU, DEVICE):
        comparison = transform(*world(device)[:2], chain, memory_limit=SMALL)
        found.append(comparison.open_set(comparison.rank(), thresholds={0.5: 1.0}))
    assert found[1].eer == pytest.approx(found[0].eer, abs=2e-3)
    assert found[1].identification == pytest.approx(found[0].identification)
    for rate, point in found[0].verification.items():
        assert found[1].verification[rate].tpr == pytest.approx(point.tpr, abs=2e-2)
