"""Every generator draws on an accelerator what it draws on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from tests.generators.ipg.networks import pipeline
from tests.generators.networks import SIZE, generator, inverter, prior, rand, randn
from tests.generators.test_every_generator import ADAPTERS, ALL, made
from tests.gpu.measures import assert_near
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.inverter import refine
from torchreid_genext.generators.ipg import IPGPipeline

pytestmark = pytest.mark.gpu

ROWS, SEEDS = [0, 1, 2], [5, 6, 7]


def seeded(make: Callable[..., Any], *arguments: Any) -> Any:
    """The same weights every time."""
    torch.manual_seed(0)
    return make(*arguments)


def drawn(network: object, kind: str, rows: list[int] = ROWS, seeds: list[int] = SEEDS) -> Tensor:
    images = ADAPTERS[kind](network)(rows, seeds)
    return images.cpu()


@pytest.mark.parametrize("kind", ALL)
def test_images_are_those_of_the_cpu(kind: str, device: torch.device, tf32: bool) -> None:
    wanted, found = drawn(seeded(made, kind), kind), drawn(seeded(made, kind).to(device), kind)
    difference = (found - wanted).abs()
    least = 0.02 if tf32 else 1e-4
    assert difference.mean() < least, f"mean {difference.mean():.3g}, largest {difference.max():.3g}"


@pytest.mark.parametrize("kind", ALL)
def test_images_do_not_depend_on_their_neighbours(kind: str, device: torch.device, exact: None) -> None:
    network = seeded(made, kind).to(device)
    whole = drawn(network, kind)
    alone = torch.cat([drawn(network, kind, [row], [seed]) for row, seed in zip(ROWS, SEEDS)])
    torch.testing.assert_close(alone, whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("kind", ALL)
def test_half_precision_draws_nearly_the_same(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    network = seeded(made, kind).to(device)
    wanted = drawn(network, kind)
    with torch.autocast(device.type, dtype):
        found = drawn(network, kind)
    assert found.dtype == torch.float32
    assert (mean := (found - wanted).abs().mean().item()) < 0.05, mean


@pytest.mark.parametrize("kind", ALL)
def test_saved_on_the_accelerator_and_loaded_anywhere(
    kind: str, device: torch.device, exact: None, tmp_path: Path, registered: None
) -> None:
    network = seeded(made, kind).to(device)
    wanted = drawn(network, kind)
    if kind == "ipg":
        network.save_pretrained(tmp_path / "pipeline")
        again = IPGPipeline.from_pretrained(tmp_path / "pipeline")
        again.set_progress_bar_config(disable=True)
    else:
        again = build_generator(kind, network.save(tmp_path / "weights.safetensors"))
    assert {tensor.device.type for tensor in state(again).values()} == {"cpu"}
    torch.testing.assert_close(drawn(again, kind), wanted, atol=2e-3, rtol=0)
    torch.testing.assert_close(drawn(again.to(device), kind), wanted, atol=1e-5, rtol=0)


def state(network: object) -> dict[str, Tensor]:
    if isinstance(network, IPGPipeline):
        parts = [part for part in network.components.values() if isinstance(part, torch.nn.Module)]
        network = torch.nn.ModuleList(parts)
    return network.state_dict()


@pytest.mark.parametrize("kind", ALL)
def test_deterministic_algorithms_are_enough(kind: str, device: torch.device, deterministic: None) -> None:
    network = seeded(made, kind).to(device)
    first, second = drawn(network, kind), drawn(network, kind)
    assert torch.equal(first, second), (first - second).abs().max()


@pytest.mark.parametrize(
    "changes", ({"guidance_rescale": 0.7}, {"guidance_interval": (0.0, 0.5)}, {"guidance_scale": 1.0})
)
def test_levers_of_ipg_draw_as_on_the_cpu(changes: dict, device: torch.device, exact: None) -> None:
    options = {"height": 16, "width": 8, "num_inference_steps": 4, "output_type": "pt"} | changes
    pictures = []
    for place in ("cpu", device):
        pipe = pipeline().to(place)
        noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        shown = pipe.look_at([*people(2)], 16, 8)
        pictures.append(pipe(shown, rand(2, 3, 16, 8), generator=noise, **options).images)
    assert_near(pictures[1], pictures[0], 1e-3)


@pytest.mark.parametrize("how", ("enable_model_cpu_offload", "enable_sequential_cpu_offload"))
def test_ipg_offloaded_draws_as_on_the_device(how: str, device: torch.device, exact: None) -> None:
    options = {"height": 16, "width": 8, "num_inference_steps": 4, "output_type": "pt"}
    pictures = []
    for offloads in (False, True):
        pipe = pipeline()
        getattr(pipe, how)(device=device) if offloads else pipe.to(device)
        noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        pictures.append(pipe(people(1), rand(2, 3, 16, 8), generator=noise, **options).images)
    assert_near(pictures[1], pictures[0], 1e-3)


def people(count: int) -> list:
    return [to_pil_image(rand(3, 16, 8, seed=seed)) for seed in range(count)]


def test_codes_and_their_prior_are_those_of_the_cpu(device: torch.device, exact: None) -> None:
    images, noise = rand(4, 3, *SIZE), randn(4, 5)
    codes = {place: seeded(inverter).to(place)(images.to(place)) for place in ("cpu", device)}
    drawn_codes = {place: seeded(prior).to(place)(noise.to(place), steps=4) for place in ("cpu", device)}
    assert_near(codes[device], codes["cpu"], 1e-4, "inverter")
    # The last bit of a noise variance, 6e-8, turns phases of up to 6,283 rad by 4e-4 (see `sinusoidal`).
    assert_near(drawn_codes[device], drawn_codes["cpu"], 1e-3, "prior")


def test_inversion_and_refinement_work_there(device: torch.device, exact: None) -> None:
    found = {}
    for place in ("cpu", device):
        made_there, images, code = (
            seeded(generator).to(place),
            rand(2, 3, *SIZE).to(place),
            randn(2, 5).to(place),
        )
        with torch.no_grad():
            noise = made_there.invert(images, code, steps=3)
        found[place] = noise.cpu(), refine(made_there, images, code, steps=2).detach().cpu()
    for one, other in zip(found[device], found["cpu"]):
        assert_near(one, other, 1e-3)


def test_drawing_again_takes_no_more_memory(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA's memory is counted here")
    for kind in ALL:
        network, allocated = seeded(made, kind).to(device), []
        for _ in range(3):
            drawn(network, kind)
            torch.cuda.synchronize()
            allocated.append(torch.cuda.memory_allocated())
        assert allocated[2] <= allocated[1], (kind, allocated)
