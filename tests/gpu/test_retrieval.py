"""Every step and protocol with features on an accelerator gives what it gives on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.gpu.measures import assert_near, memory_growth
from torchreid_genext.retrieval.metrics import PROTOCOLS
from torchreid_genext.retrieval.protocol import METRICS, STEPS, RetrievalSet, Sightings, evaluate, transform

pytestmark = pytest.mark.gpu

MIB = 2**20
PEOPLE, CAMERAS, WIDTH = 30, 4, 32
CHAINS = [
    "base",
    "l2",
    "camera_norm",
    "camera_norm(statistics=gallery)",
    "tracklets",
    "nfc",
    "nfc(side=joint)",
    "nfc(k1=4,k2=3,side=gallery)",
    "nfc(self_distance=1000)",
    "nfc(neighbours=cross_camera)",
    "nfc(neighbours=spatiotemporal)",
    "nfc(neighbours=cross_camera+spatiotemporal)",
    "fuse",
    "fuse(eta=2)+l2+nfc",
    "aqe",
    "alpha_qe",
    "dba",
    "st",
    "l2+st",
    "l2+st(form=loglikelihood)",
    "l2+st(form=official)",
    "rerank",
    "rerank(k1=5,k2=1)",
    "camera_norm+nfc+rerank",
    "l2+st+rerank",
    "camera_norm+nfc(neighbours=cross_camera)+st+rerank",
]


def images(count: int, seed: int, device: torch.device | str = "cpu") -> RetrievalSet:
    """People who look like themselves, mostly; their features may lie anywhere, their labels do not."""
    random = torch.Generator().manual_seed(seed)
    pids = torch.randint(1, PEOPLE, (count,), generator=random)
    camids = torch.randint(0, CAMERAS, (count,), generator=random)
    frames = 400 * pids + 900 * camids + torch.randint(0, 200, (count,), generator=random)
    centres = torch.randn(PEOPLE, WIDTH, generator=torch.Generator().manual_seed(99))
    features = 3 * (centres[pids] + torch.randn(count, WIDTH, generator=random))
    generated = features[:, None] + torch.randn(count, 3, WIDTH, generator=random)
    return RetrievalSet(features.to(device), pids, camids, frames, generated=generated.to(device))


def both(device: torch.device | str = "cpu") -> tuple[RetrievalSet, RetrievalSet]:
    return images(60, 1, device), images(300, 2, device)


def train() -> Sightings:
    known = images(400, 3)
    return Sightings(known.pids, known.camids, known.frames)


def test_every_step_is_here() -> None:
    assert {name for name in STEPS if not any(name in chain for chain in CHAINS)} == set()


@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_gives_what_it_gives_on_the_cpu(chain: str, device: torch.device, tf32: bool) -> None:
    wanted = evaluate(*both(), chain, train=train())
    found = evaluate(*both(device), chain, train=train())
    least = 0.02 if tf32 else 1e-3
    assert found.mAP == pytest.approx(wanted.mAP, abs=least)
    assert found.rank(1) == pytest.approx(wanted.rank(1), abs=2 * least + 1 / 60)
    assert found.mINP == pytest.approx(wanted.mINP, abs=least)
    worst = abs(found.average_precision - wanted.average_precision).max()
    assert tf32 or worst < 0.05, worst


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_gives_what_it_gives_on_the_cpu(protocol: str, metric: str, device: torch.device) -> None:
    reports = []
    for place in ("cpu", device):
        np.random.seed(0)  # cuhk03 draws from the global generator, as torchreid does
        reports.append(evaluate(*both(place), protocol=protocol, metric=metric, max_rank=20))
    wanted, found = reports
    assert found.mAP == pytest.approx(wanted.mAP, abs=1e-3)
    assert found.cmc == pytest.approx(wanted.cmc, abs=0.02)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("chain", ("base", "nfc", "camera_norm", "aqe", "alpha_qe", "dba", "l2+st", "rerank"))
def test_distances_are_those_of_the_cpu(chain: str, metric: str, device: torch.device, tf32: bool) -> None:
    wanted = transform(*both(), chain, metric=metric, train=train()).matrix()
    found = transform(*both(device), chain, metric=metric, train=train()).matrix()
    assert_near(found, wanted, 2e-2 if tf32 else 1e-4)


@pytest.mark.parametrize("chain", CHAINS)
def test_results_do_not_depend_on_the_block_size(chain: str, device: torch.device) -> None:
    whole = evaluate(*both(device), chain, train=train())
    parts = evaluate(*both(device), chain, train=train(), memory_limit=50_000)
    assert parts.mAP == pytest.approx(whole.mAP, abs=1e-3)
    assert parts.rank(1) == pytest.approx(whole.rank(1), abs=1 / 60 + 1e-6)


@pytest.mark.parametrize("chain", CHAINS)
def test_features_stay_where_they_are(chain: str, device: torch.device) -> None:
    after = transform(*both(device), chain, train=train())
    assert after.query.features.device.type == after.gallery.features.device.type == device.type
    assert after.distances(slice(0, 2)).device.type == device.type


@pytest.mark.parametrize("chain", ("base", "nfc", "camera_norm+nfc", "aqe", "alpha_qe", "dba", "rerank"))
def test_memory_of_the_accelerator_is_bounded(chain: str, device: torch.device) -> None:
    """The matrix of all distances would take 1,526 MiB."""
    if device.type != "cuda":
        pytest.skip("only CUDA's memory is counted here")
    random = torch.Generator().manual_seed(0)
    crowd = torch.randn(20_000, 64, generator=random)
    pids, camids = (torch.randint(0, high, (20_000,), generator=random) for high in (1000, 6))
    gallery = RetrievalSet(crowd.to(device), pids, camids)
    query = gallery.select(slice(0, 1000))
    growth = memory_growth(lambda: evaluate(query, gallery, chain, memory_limit=32 * MIB))
    assert growth < 160 * MIB, f"{growth / MIB:.0f} MiB above the start with a limit of 32"


def test_work_on_two_streams_does_not_mix(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("streams are CUDA's")
    wanted, other = evaluate(*both(device), "nfc"), evaluate(*reversed(both(device)), "nfc")
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    found = []
    for stream, sets in zip(streams, (both(device), [*reversed(both(device))])):
        stream.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(stream):
            found.append(evaluate(*sets, "nfc"))
    assert [each.mAP for each in found] == pytest.approx([wanted.mAP, other.mAP], abs=1e-6)


def test_deterministic_algorithms_are_enough(device: torch.device, deterministic: None) -> None:
    """Nothing here has none; two runs agree to the last bit."""
    faults = []
    for chain in CHAINS:
        try:
            runs = [distances_after(chain, device) for _ in range(2)]
        except RuntimeError as error:
            faults.append(f"{chain}: {str(error)[:200]}")
            continue
        if not torch.equal(*runs):
            faults.append(f"{chain}: two runs differ by {(runs[0] - runs[1]).abs().max():.3g}")
    assert not faults, "\n".join(faults)


def distances_after(chain: str, device: torch.device) -> Tensor:
    return transform(*both(device), chain, train=train()).matrix()
