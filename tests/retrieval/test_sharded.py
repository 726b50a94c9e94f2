"""Two and three real processes on this machine against one process with all rows."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from torchreid_genext.retrieval import neighbours, protocol, reranking, sharded
from torchreid_genext.retrieval.centralization import nfc
from torchreid_genext.retrieval.metrics import rank_streamed
from torchreid_genext.retrieval.sets import RetrievalSet

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")

SIZES = {2: (61, 30), 3: (40, 1, 50)}  # images of each process; both sets have 91
CHAINS = ("base", "l2", "nfc(k1=3)", "nfc(side=gallery)", "rerank(k1=6,k2=3)", "nfc+rerank(k1=6,k2=1)")


LEARNT = (
    "lda(width=5)+dmon(k1=3)",
    "camera_norm+lda+blend+tracklets(gap=400)+nfc+st",
    "camera_norm(statistics=gallery,normalize_after=False)+tracklets(side=gallery,threshold=-1)",
    "dba(k=4)+alpha_qe+blend+aqe(k=500)",
    "camera_norm+ca_jaccard(k1_inter=9,k2_intra=3)",
    "camera_norm+lda+blend+tracklets+st+ca_jaccard(k1_intra=70,lambda_value=0.1)",
    "fuse(eta=0.5)+nfc(k1=3,neighbours=cross_camera,normalize_before=False)",
    "nfc(k1=40,neighbours=spatiotemporal)+nfc(neighbours=spatiotemporal,form=official)",
    "camera_norm+lda+blend(weight=0.7)+tracklets+nfc(k1=3,k2=3,neighbours=cross_camera+spatiotemporal)"
    "+st+ca_jaccard(k1_intra=8)",
    "dmon(side=gallery,normalize_before=False)+camera_norm+l2+rerank(k1=6,k2=3)",
)


def timed(seed: int) -> RetrievalSet:
    """91 images of 11 people with times and generated images, of two cameras and of a third one that took one image."""
    generator = torch.Generator().manual_seed(seed)
    pids, camids = (torch.randint(0, n, (91,), generator=generator) for n in (11, 2))
    camids[7 * seed] = 2
    centres = torch.randn(11, 8, generator=torch.Generator().manual_seed(9))
    features = centres[pids] + torch.randn(91, 8, generator=generator) + camids[:, None]
    frames = 1000 * pids + 300 * camids + torch.randint(0, 200, (91,), generator=generator)
    return RetrievalSet(features, pids, camids, frames, generated=features[:, None].repeat(1, 2, 1).sin())


def images(seed: int) -> RetrievalSet:
    """91 images of few small whole numbers: products are exact, and there are ties and duplicates."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(0, 12, (91,), generator=generator)
    features = torch.randint(-2, 3, (91, 8), generator=generator) + pids[:, None] % 3 + 1.0
    features[:, 0] += 1  # no zero rows
    return RetrievalSet(features, pids - (pids == 11) * 12, torch.randint(0, 3, (91,), generator=generator))


def crowd() -> torch.Tensor:
    """Rows with many digits, around common centres."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(13, 20, generator=generator).repeat(7, 1) + 0.5 * torch.randn(91, 20, generator=generator)
    x[50:55] = x[2]
    return x


def equals() -> torch.Tensor:
    """Rows of which so many are equal that an image is not among its own nearest."""
    return crowd() * (torch.arange(91) % 5 == 0)[:, None] + 1


def cliques() -> torch.Tensor:
    """Three images of each person, close together, the last person has one."""
    generator = torch.Generator().manual_seed(4)
    centres, people = 9 * torch.randn(31, 20, generator=generator), torch.arange(93) % 31
    return (centres[people] + 0.1 * torch.randn(93, 20, generator=generator))[:91]


PLAIN = protocol.Protocol("plain", own_camera=True)


def blank(gallery: RetrievalSet) -> RetrievalSet:
    """The same set, some of whose features are zeros."""
    features = gallery.features * (torch.arange(91) % 10 > 0)[:, None]
    return RetrievalSet(features, gallery.pids, gallery.camids)


def without(bare: int, rank: int, count: int) -> slice:
    """Shards of which one process holds none."""
    ends = [91 * step // (count - 1) for step in range(count)]
    return slice(0, 0) if rank == bare else slice(*ends[rank - (rank > bare) :][:2])


def shard(rank: int, count: int) -> slice:
    start = sum(SIZES[count][:rank])
    return slice(start, start + SIZES[count][rank])


def results(rank: int, count: int) -> dict[str, Any]:
    """Everything that shards can do, on one of the processes."""
    own, x, y = shard(rank, count), crowd(), images(0).features
    query, gallery = images(1).select(own), images(2).select(own)
    found = {
        "nearest": sharded.nearest(x[own], k=5),
        "nearest with ties": sharded.nearest(y[own], k=30),
        "nearest of two sets": sharded.nearest(x[own][: 5 * rank], x[own], k=91),
        "nfc": sharded.nfc(x[own], k1=3, k2=2),
        "nfc with ties": sharded.nfc(y[own], k1=4, k2=4),
        "nfc of cliques": sharded.nfc(cliques()[own], k1=2, k2=2),
        "nfc of all": sharded.nfc(x[own], k1=500, k2=500),
        "nearest of long": sharded.nearest(2.0**80 * x[own], k=5),
        "nfc of long": sharded.nfc(2.0**80 * x[own], k1=3, k2=2),
        "k_reciprocal of long": sharded.k_reciprocal(2.0**80 * x[own], 2.0**80 * x[own], k1=200, k2=3),
        "k_reciprocal": sharded.k_reciprocal(x[own], images(1).features[own] @ torch.ones(8, 20), k1=6, k2=3),
        "k_reciprocal of equals": sharded.k_reciprocal(equals()[own], equals()[own], k1=4, k2=2),
        "k_reciprocal cosine": sharded.k_reciprocal(
            query.features, gallery.features, metric="cosine", k1=4, k2=1, lambda_value=0.5, memory_limit=4000
        ),
    }
    for chain in CHAINS:
        found[chain] = vars(sharded.evaluate(query, gallery, chain).ranking)
    found["streid"] = vars(sharded.evaluate(query, gallery, protocol="streid", memory_limit=3000).ranking)
    uneven = images(1).select(without(0, rank, count)), images(2).select(without(count - 1, rank, count))
    for chain in CHAINS:
        found[f"uneven {chain}"] = vars(sharded.evaluate(*uneven, chain).ranking)
        found[f"blank {chain}"] = vars(sharded.evaluate(query, blank(images(2)).select(own), chain).ranking)
    without_cameras = RetrievalSet(query.features, query.pids), RetrievalSet(gallery.features, gallery.pids)
    found["no cameras"] = vars(sharded.evaluate(*without_cameras, protocol=PLAIN).ranking)
    for chain in LEARNT:
        sets = timed(1), timed(2)
        found[f"learnt {chain}"] = sharded.evaluate(*(s.select(own) for s in sets), chain, train=timed(3))
        uneven = sets[0].select(without(0, rank, count)), sets[1].select(without(count - 1, rank, count))
        found[f"uneven {chain}"] = sharded.evaluate(*uneven, chain, train=timed(3), memory_limit=9000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found["autocast"] = vars(sharded.evaluate(query, gallery, metric="cosine").ranking)
    found["problems"] = [problem(rank, act) for act in problems(rank, x[own], query, gallery)]
    return found


def problems(rank: int, x: torch.Tensor, query: RetrievalSet, gallery: RetrievalSet) -> list[Callable]:
    """What must be refused on all processes, also where only one of them is wrong."""
    holed = x.clone()
    holed[0, 0] = float("nan") if rank == 1 else 0
    narrow = x[:, : 20 - rank]
    return [
        lambda: sharded.nearest(holed, k=2),
        lambda: sharded.nearest(narrow, k=2),
        lambda: sharded.nearest(x, k=91),
        lambda: sharded.nearest(x, k=2 + rank),
        lambda: sharded.nearest(x, x[:, :5], k=2),
        lambda: sharded.nfc(x, k2=0),
        lambda: sharded.evaluate(query, gallery, "aro"),
        lambda: sharded.evaluate(query, gallery, "nfc(side=joint)"),
        lambda: sharded.evaluate(query, gallery, "rerank+l2"),
        lambda: sharded.evaluate(query, gallery, protocol="cuhk03"),
        lambda: sharded.evaluate(query, gallery, metric="manhattan"),
        lambda: sharded.k_reciprocal(x, x, k1=True),
        lambda: sharded.nearest(x, k=2, memory_limit=rank - 1),
        lambda: sharded.k_reciprocal(x, x, lambda_value=0.1 * (rank + 1)),
        lambda: sharded.k_reciprocal(x, x, metric=("euclidean", "cosine")[min(rank, 1)]),
        lambda: sharded.k_reciprocal(x, x, memory_limit=4000 + rank),
        lambda: sharded.nearest(x, x if rank else None, k=2),
        lambda: sharded.evaluate(query, gallery, memory_limit=4000 if rank else None),
        lambda: sharded.evaluate(RetrievalSet(query.features, query.pids), gallery),
        lambda: sharded.evaluate(query, gallery.select(slice(0, 0))),
        lambda: sharded.evaluate(query, gallery, "lda"),
        lambda: sharded.evaluate(query, gallery, max_rank=1 - rank),
        lambda: sharded.evaluate(query, gallery, "blend+rerank"),
    ]


def problem(rank: int, act: Callable) -> str:
    try:
        act()
    except ValueError as error:
        return str(error)
    return "nothing"


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def work(rank: int, count: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    found = results(rank, count)
    if rank == count - 1:
        torch.save(found, Path(folder) / f"{count}_{rank}.pt")
        os._exit(0)  # in the middle of the others' work, without a word
    try:
        sharded.nfc(crowd()[shard(rank, count)])
    except RuntimeError as error:
        found["left alone"] = str(error)
    torch.save(found, Path(folder) / f"{count}_{rank}.pt")


def start(count: int, folder: Path) -> Any:
    arguments = (count, f"tcp://127.0.0.1:{port()}", str(folder))
    return mp.start_processes(work, arguments, nprocs=count, join=False, start_method="forkserver")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Results of each process, by how many there were; all of them run side by side."""
    folder = tmp_path_factory.mktemp("sharded")
    multiprocessing.set_forkserver_preload([__name__])  # so that libraries are loaded once
    for context in [start(count, folder) for count in SIZES]:
        while not context.join():
            pass
    return {n: [torch.load(folder / f"{n}_{r}.pt", weights_only=False) for r in range(n)] for n in SIZES}


def rows(found: dict, count: int, name: str, column: int | None = None) -> torch.Tensor:
    parts = [part[name] for part in found[count]]
    return torch.cat(parts if column is None else [part[column] for part in parts])


@pytest.mark.parametrize("count", SIZES)
def test_neighbours_equal_one_process_bit_for_bit(found: dict, count: int) -> None:
    expected, tied = neighbours.nearest(crowd(), k=5), neighbours.nearest(images(0).features, k=30)
    for column in range(2):
        assert torch.equal(rows(found, count, "nearest", column), expected[column])
        assert torch.equal(rows(found, count, "nearest with ties", column), tied[column])


@pytest.mark.parametrize("count", SIZES)
def test_neighbours_in_another_set_and_of_no_rows_at_all(found: dict, count: int) -> None:
    asked = torch.cat([crowd()[shard(rank, count)][: 5 * rank] for rank in range(count)])
    expected = neighbours.nearest(asked, crowd(), k=91)
    for column in range(2):
        assert torch.equal(rows(found, count, "nearest of two sets", column), expected[column])
    assert len(found[count][0]["nearest of two sets"][0]) == 0


@pytest.mark.parametrize("count", SIZES)
def test_centralization_equals_one_process_bit_for_bit(found: dict, count: int) -> None:
    assert torch.equal(rows(found, count, "nfc"), nfc(crowd(), k1=3, k2=2))
    assert torch.equal(rows(found, count, "nfc with ties"), nfc(images(0).features, k1=4, k2=4))
    assert torch.equal(rows(found, count, "nfc of cliques"), nfc(cliques(), k1=2, k2=2))
    assert torch.equal(rows(found, count, "nfc of all"), nfc(crowd(), k1=90, k2=90))
    of_persons = rows(found, count, "nfc of cliques").view(-1)[: 62 * 20].view(2, 31, 20)[:, :29]
    assert torch.equal(*of_persons)


@pytest.mark.parametrize("count", SIZES)
def test_features_whose_squares_overflow_equal_one_process(found: dict, count: int) -> None:
    long = 2.0**80 * crowd()
    for column, expected in enumerate(neighbours.nearest(long, k=5)):
        assert torch.equal(rows(found, count, "nearest of long", column), expected)
    assert torch.equal(rows(found, count, "nfc of long"), nfc(long, k1=3, k2=2))
    expected = reranking.k_reciprocal(crowd(), crowd(), k1=181, k2=3)
    torch.testing.assert_close(rows(found, count, "k_reciprocal of long"), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", SIZES)
def test_reranked_distances_equal_one_process(found: dict, count: int) -> None:
    y = images(1).features @ torch.ones(8, 20)
    expected = reranking.k_reciprocal(crowd(), y, k1=6, k2=3)
    torch.testing.assert_close(rows(found, count, "k_reciprocal"), expected, atol=1e-6, rtol=0)
    expected = reranking.k_reciprocal(equals(), equals(), k1=4, k2=2)
    torch.testing.assert_close(rows(found, count, "k_reciprocal of equals"), expected, atol=1e-6, rtol=0)
    sets = images(1).features, images(2).features
    expected = reranking.k_reciprocal(*sets, metric="cosine", k1=4, k2=1, lambda_value=0.5)
    torch.testing.assert_close(rows(found, count, "k_reciprocal cosine"), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_process_has_the_ranking_of_one_process(found: dict, count: int, chain: str) -> None:
    expected = protocol.evaluate(images(1), images(2), chain)
    for part in found[count]:
        np.testing.assert_allclose(part[chain]["average_precision"], expected.average_precision, atol=1e-12)
        np.testing.assert_array_equal(part[chain]["first_match_rank"], expected.first_match_rank)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("chain", LEARNT)
def test_every_process_has_the_report_of_one_process(found: dict, count: int, chain: str) -> None:
    expected = protocol.evaluate(timed(1), timed(2), chain, train=timed(3))
    for part in found[count]:
        for kind in ("learnt", "uneven"):
            report = part[f"{kind} {chain}"]
            precision = report.average_precision
            np.testing.assert_allclose(precision, expected.average_precision, atol=1e-6, err_msg=kind)
            for name in ("mAP", "mINP", "cmc", "id2_query", "id2_gallery"):
                assert getattr(report, name) == pytest.approx(getattr(expected, name), abs=1e-6)
            for name in ("chain", "protocol", "metric", "num_query", "num_gallery"):
                assert getattr(report, name) == getattr(expected, name)
            for ours, one in ((report, expected), (report.cameras, expected.cameras)):
                for name, values in vars(one).items():
                    if isinstance(values, np.ndarray):
                        np.testing.assert_allclose(getattr(ours, name), values, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("count", SIZES)
def test_ties_and_junk_are_read_as_in_one_process(found: dict, count: int) -> None:
    after = protocol.transform(images(1), images(2), "base")
    labels = [values.numpy() for values in (after.query.pids, after.gallery.pids)]
    labels += [values.numpy() for values in (after.query.camids, after.gallery.camids)]
    expected = vars(rank_streamed(lambda r, c: after.matrix()[r, c].numpy(), *labels, protocol="streid"))
    assert (expected["pessimistic_precision"] < expected["optimistic_precision"]).any()
    for part in found[count]:
        for name, values in expected.items():
            np.testing.assert_array_equal(part["streid"][name], values, err_msg=name)


@pytest.mark.parametrize("count", SIZES)
def test_bad_arguments_are_refused_on_every_process(found: dict, count: int) -> None:
    for rank, part in enumerate(found[count]):
        nan, width, k, own_k, two_widths, k2, step, side, last, cuhk03, metric, *rest = part["problems"]
        assert nan == (
            "expected finite x, got NaN or infinity in rows 0 (1 in all)" if rank == 1
            else "expected good arguments on all processes, got bad ones on 1; see there"
        )  # fmt: skip
        assert width.startswith("expected one width of x on all processes, got 20, 19")
        assert k == "expected k in 1..90, got 91"
        assert own_k.startswith("expected one k on all processes, got 2, 3")
        assert two_widths == "expected x and y of one width, got 20 and 5"
        assert k2 == "expected k2 >= 1, got 0"
        assert step == (
            "expected only the steps l2, fuse, blend, st, aqe, alpha_qe, dba, lda, nfc, camera_norm, "
            "dmon, tracklets, rerank, ca_jaccard in shards, got aro"
        )
        assert "expected nfc in shards with self_distance=inf, and each set on its own" in side
        assert last.startswith("expected re-ranking to be the last step")
        assert cuhk03 == "expected a protocol whose curve is a CMC in shards, got cuhk03"
        assert metric == "unknown metric 'manhattan'; choose from euclidean, cosine"
        assert rest[-3] == "expected features of the training split for the step lda, got none"
        assert rest[-2].startswith("expected max_rank >= 1" if rank else "expected good arguments on all")
        assert rest[-1].startswith("expected rerank of features alone in shards, else ca_jaccard, got blend+")
        assert rest[0] == "expected k1 to be an integer, got True"
        assert rest[1].startswith(
            f"expected memory_limit >= 1 byte, got {rank - 1}" if rank < 2 else "expected good arguments"
        )


@pytest.mark.parametrize("count", SIZES)
def test_a_process_that_ends_stops_the_others_with_a_message(found: dict, count: int) -> None:
    for rank, part in enumerate(found[count][:-1]):
        message = f"expected {count} processes to work together, but process {rank} has lost contact"
        assert part["left alone"].startswith(message)


def test_without_a_process_group_the_way_to_one_is_said() -> None:
    with pytest.raises(RuntimeError, match="call torch.distributed.init_process_group first"):
        sharded.nearest(torch.rand(4, 2), k=1)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_process_may_hold_no_query_or_no_gallery_image(found: dict, count: int, chain: str) -> None:
    expected = protocol.evaluate(images(1), images(2), chain)
    for part in found[count]:
        found_here = part[f"uneven {chain}"]
        np.testing.assert_allclose(found_here["average_precision"], expected.average_precision, atol=1e-12)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("chain", CHAINS)
def test_features_of_zeros_rank_last_in_shards_too(found: dict, count: int, chain: str) -> None:
    expected = protocol.evaluate(images(1), blank(images(2)), chain)
    for part in found[count]:
        found_here = part[f"blank {chain}"]
        np.testing.assert_allclose(found_here["average_precision"], expected.average_precision, atol=1e-12)


@pytest.mark.parametrize("count", SIZES)
def test_sets_without_cameras_and_autocast_change_nothing(found: dict, count: int) -> None:
    bare = [RetrievalSet(some.features, some.pids) for some in (images(1), images(2))]
    plain = protocol.evaluate(*bare, protocol=PLAIN)
    cosine = protocol.evaluate(images(1), images(2), metric="cosine")
    for part in found[count]:
        precision = part["no cameras"]["average_precision"]
        np.testing.assert_allclose(precision, plain.average_precision, atol=1e-12)
        for name in ("pessimistic_precision", "optimistic_precision"):
            ours, one = part["autocast"][name], getattr(cosine.ranking, name)
            np.testing.assert_allclose(ours, one, atol=1e-12)


@pytest.mark.parametrize("count", SIZES)
def test_arguments_that_differ_between_processes_are_refused(found: dict, count: int) -> None:
    for part in found[count]:
        given, metric, limit, compared, evaluated, cameras, nobody = part["problems"][-10:-3]
        assert given.startswith("expected one lambda_value on all processes, got ")
        assert metric.startswith("expected one metric on all processes")
        assert limit.startswith("expected one memory_limit on all processes, got 400")
        assert compared.startswith("expected one compared on all processes")
        assert evaluated.startswith("expected one memory_limit on all processes, got ")
        assert "None" in evaluated or "4000" in evaluated
        assert cameras.startswith("expected cameras of the queries under protocol market1501, got none")
        assert nobody == "expected a gallery image on one process at least, got none"
