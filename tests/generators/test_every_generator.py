"""What holds for every generator that is registered, and for IPG: one contract, one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from tests.generators.ipg.networks import embedded
from tests.generators.networks import awake, rand, randn
from tests.generators.poses import standing
from torchreid_genext.generators import build_generator, list_generators
from torchreid_genext.generators.ipg import IPGPipeline

COUNT, SIZE = 3, (32, 16)
SMALL = {
    "camstyle": {"cameras": 3, "image_size": SIZE, "width": 4, "blocks": 1},
    "camstyle_pair": {"first": 0, "second": 2, "image_size": SIZE, "width": 4, "blocks": 1, "official": True},
    "deformable": {"image_size": SIZE, "encoder": [4, 4, 4], "decoder": [4, 4]},
    "identity": {"identities": 3, "image_size": SIZE, "widths": [4, 6], "depth": 1, "code_width": 4},
    "pg2": {"image_size": SIZE, "width": 4, "code": 4, "radius": 1},
}
ALL = [*SMALL, "ipg"]

# Rows of what is asked for, with their seeds, to images (B, 3, H, W) in [-1, 1].
Draw = Callable[[list[int], list[int]], Tensor]


def noises(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def people() -> Tensor:
    return 2 * rand(COUNT, 3, *SIZE) - 1


def device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def of_poses(generator: torch.nn.Module) -> Draw:
    given = people(), standing(COUNT, SIZE, 1), standing(COUNT, SIZE, 2)
    images, own, wanted = (each.to(device_of(generator)) for each in given)
    return lambda rows, seeds: generator.generate(
        images[rows], own[rows], wanted[rows], generators=noises(seeds)
    )


def of_cameras(generator: torch.nn.Module) -> Draw:
    given = people(), torch.tensor([0, 2, 2]), torch.tensor([2, 0, 0])
    images, source, target = (each.to(device_of(generator)) for each in given)
    return lambda rows, seeds: generator.generate(
        images[rows], source[rows], target[rows], generators=noises(seeds)
    )


def of_codes(generator: torch.nn.Module) -> Draw:
    codes = randn(COUNT, 4).to(device_of(generator))

    def draw(rows: list[int], seeds: list[int]) -> Tensor:
        noise = torch.cat([generator.noise(1, each) for each in noises(seeds)])
        with torch.no_grad():
            return 2 * generator(codes[rows], noise, steps=3) - 1

    return draw


def of_pipeline(pipe: IPGPipeline) -> Draw:
    pipe.set_progress_bar_config(disable=True)
    skeletons, pictures = rand(COUNT, 3, *SIZE, seed=3), [to_pil_image(each / 2 + 0.5) for each in people()]

    def draw(rows: list[int], seeds: list[int]) -> Tensor:
        options = {"height": SIZE[0], "width": SIZE[1], "num_inference_steps": 3, "output_type": "pt"}
        shown = [pictures[row] for row in rows]
        return 2 * pipe(shown, skeletons[rows], generator=noises(seeds), **options).images - 1

    return draw


ADAPTERS = {
    "camstyle": of_cameras, "camstyle_pair": of_cameras, "deformable": of_poses, "identity": of_codes,
    "pg2": of_poses, "ipg": of_pipeline,
}  # fmt: skip


def made(kind: str) -> object:
    return embedded() if kind == "ipg" else awake(build_generator(kind, **SMALL[kind]))


def test_every_registered_generator_is_here() -> None:
    assert set(SMALL) == set(list_generators())


@pytest.mark.parametrize("kind", ALL)
def test_images_have_shape_and_range_and_depend_on_their_own_input_and_seed(kind: str) -> None:
    draw = ADAPTERS[kind](made(kind))
    whole = draw([0, 1, 2], [5, 6, 7])
    assert whole.shape == (COUNT, 3, *SIZE) and whole.dtype == torch.float32
    assert -1 <= whole.min() and whole.max() <= 1 and whole.std() > 0
    assert torch.equal(draw([0, 1, 2], [5, 6, 7]), whole)
    for row, seed in enumerate((5, 6, 7)):
        torch.testing.assert_close(draw([row], [seed]), whole[[row]], atol=1e-4, rtol=0)
    torch.testing.assert_close(draw([2, 0], [7, 5]), whole[[2, 0]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_saved_generators_draw_the_same(kind: str, tmp_path: Path, registered: None) -> None:
    generator = made(kind)
    before = ADAPTERS[kind](generator)([0, 1, 2], [5, 6, 7])
    if kind == "ipg":
        generator.save_pretrained(tmp_path / "pipeline")
        again = IPGPipeline.from_pretrained(tmp_path / "pipeline")
    else:
        again = build_generator(kind, generator.save(tmp_path / "weights.safetensors"))
    assert torch.equal(ADAPTERS[kind](again)([0, 1, 2], [5, 6, 7]), before)


@pytest.mark.parametrize("kind", ALL)
def test_bfloat16_draws_nearly_the_same(kind: str) -> None:
    draw = ADAPTERS[kind](made(kind))
    exact = draw([0, 1, 2], [5, 6, 7])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = draw([0, 1, 2], [5, 6, 7])
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.05
