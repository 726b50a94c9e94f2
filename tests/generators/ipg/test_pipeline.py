"""The pipeline as users of diffusers know them: batches, schedulers, files, callbacks, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import torchreid_genext as genext
from tests.generators.ipg.networks import embedded, pipeline
from torchreid_genext.generators.ipg import IPGPipeline

SMALL = {"height": 16, "width": 8, "num_inference_steps": 2, "output_type": "pt"}


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (8, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_an_image_depends_on_its_reference_pose_and_noise_only() -> None:
    pipe, people, poses = (
        pipeline(),
        [picture(1), picture(2), picture(1)],
        [picture(seed) for seed in (3, 4, 5)],
    )
    together = pipe(people, poses, generator=seeded(6, 7, 8), **SMALL).images
    for row in range(3):
        alone = pipe(people[row], poses[row], generator=seeded(6 + row), **SMALL).images
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)


def test_a_reference_serves_all_poses_and_may_be_looked_at_before() -> None:
    pipe, poses = pipeline(), [picture(3), picture(4)]
    images = pipe(picture(1), poses, generator=seeded(6, 7), **SMALL).images
    for reference in ([picture(1), picture(1)], pipe.look_at(picture(1), 16, 8)):
        torch.testing.assert_close(pipe(reference, poses, generator=seeded(6, 7), **SMALL).images, images)
    assert images.shape == (2, 3, 16, 8) and 0 <= images.min() and images.max() <= 1


def test_an_image_that_comes_twice_is_looked_at_once() -> None:
    pipe, person, rows = pipeline(), picture(1), []
    pipe.reference_unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    references = pipe.look_at([person, picture(2), person], 16, 8)
    assert rows == [2] and len(references) == 3
    assert torch.equal(references.tokens[0], references.tokens[2])


@pytest.mark.parametrize("scale", (1.0, 3.5))
def test_guidance_goes_from_nobody_to_the_person(scale: float) -> None:
    pipe, latents = pipeline(), torch.randn(1, 4, 8, 4)
    options = SMALL | {"num_inference_steps": 1, "output_type": "latent", "latents": latents}
    person = pipe(picture(1), picture(3), guidance_scale=1.0, **options).images
    nobody = pipe(picture(1), picture(3), guidance_scale=1.0, official_guidance=True, **options).images
    found = pipe(picture(1), picture(3), guidance_scale=scale, **options).images
    torch.testing.assert_close(found, nobody + scale * (person - nobody))
    assert not torch.allclose(person, nobody)


def test_references_may_have_any_mode_and_size() -> None:
    pipe, modes = pipeline(), ("L", "RGBA", "P", "1", "CMYK")
    people = [picture(1, mode, size) for mode in modes for size in ((1, 1), (33, 70))]
    plain = [person.convert("RGB") for person in people]
    found, expected = (
        pipe(each, [picture(3, mode)] * 10, generator=seeded(*range(10)), **SMALL).images
        for each, mode in ((people, "RGBA"), (plain, "RGB"))
    )
    assert torch.equal(found, expected)


KINDS = (
    "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete",
    "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "PNDM", "DDPM", "LCM", "TCD",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_schedulers_are_swapped_as_everywhere(kind: str) -> None:
    pipe, options = pipeline(), SMALL | {"num_inference_steps": 8, "guidance_scale": 2.5}
    official = pipe(picture(1), picture(3), generator=seeded(6), **options).images
    pipe.scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(pipe.scheduler.config)
    images = pipe(picture(1), picture(3), generator=seeded(6), **options).images
    assert images.isfinite().all() and not torch.equal(images, official)


@pytest.mark.parametrize("kind", ("FlowMatchEulerDiscrete", "EDMEuler", "IPNDM"))
def test_schedulers_of_other_noise_are_refused(kind: str) -> None:
    pipe = pipeline()
    pipe.scheduler = getattr(diffusers, f"{kind}Scheduler")()
    with pytest.raises(ValueError, match=f"expected a scheduler with alphas_cumprod, .*got {kind}Scheduler"):
        pipe(picture(1), picture(3), **SMALL)


@pytest.mark.parametrize("made", (pipeline, embedded))
def test_what_is_saved_and_read_draws_the_same(tmp_path: Path, made: Any) -> None:
    pipe = made()
    pipe.save_pretrained(tmp_path)
    again = IPGPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    options = {"generator": seeded(6), **SMALL}
    expected = pipe(picture(1), picture(3), **options).images
    assert torch.equal(again(picture(1), picture(3), **options | {"generator": seeded(6)}).images, expected)
    assert (tmp_path / "model_index.json").is_file()


def test_what_is_read_lies_where_kernels_want_it(tmp_path: Path) -> None:
    embedded().save_pretrained(tmp_path)
    for network in IPGPipeline.from_pretrained(tmp_path).components.values():
        if isinstance(network, torch.nn.Module):
            assert all(tensor.data_ptr() % 64 == 0 for tensor in network.state_dict().values())


def test_networks_of_pipelines_are_found_in_the_package_and_nothing_else_is() -> None:
    assert genext.IPGPipeline is IPGPipeline
    with pytest.raises(AttributeError, match="has no attribute 'Nobody'"):
        genext.Nobody  # noqa: B018


def test_poses_may_be_looked_at_before_but_at_the_right_size() -> None:
    pipe, poses = pipeline(), [picture(3), picture(4)]
    images = pipe(picture(1), poses, generator=seeded(6, 7), **SMALL).images
    looked_at = pipe.look_at_poses(poses, 16, 8)
    assert torch.equal(pipe(picture(1), looked_at, generator=seeded(6, 7), **SMALL).images, images)
    with pytest.raises(ValueError, match="expected poses of 32 x 16, got 16 x 8"):
        pipe(picture(1), looked_at, **SMALL | {"height": 32, "width": 16})


def test_a_missing_head_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedded().save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        IPGPipeline.from_pretrained(tmp_path)
    assert "newly initialized" not in caplog.text


def test_outputs_and_callbacks_are_those_of_diffusers() -> None:
    pipe, steps, options = pipeline(), [], SMALL | {"output_type": "pil"}

    def zero(
        _: Any, step: int, time: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        steps.append((step, int(time)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    (images,) = pipe(picture(1), picture(3), return_dict=False, callback_on_step_end=zero, **options)
    assert images[0].size == (8, 16) and steps == [(0, 999), (1, 499)]
    with torch.no_grad():
        blank = pipe.decode(torch.zeros(1, 4, 8, 4), "np")
    assert np.abs(np.asarray(images[0]) / 255 - blank[0]).max() <= 0.5 / 255 + 1e-6


def test_swapped_poses_are_those_of_the_authors_files() -> None:
    pipe, pose = pipeline(), picture(3)
    swapped = Image.fromarray(np.asarray(pose)[..., ::-1].copy())
    expected = pipe(picture(1), pose, generator=seeded(6), **SMALL).images
    found = pipe(picture(1), swapped, generator=seeded(6), swap_pose_channels=True, **SMALL).images
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"height": 15}, "expected height and width in multiples of 2, got 15 and 8"),
        ({"output_type": "jpg"}, "unknown output type 'jpg'; choose from pil, np, pt, latent"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, r"expected latents \(2, 4, 8, 4\), got \(1, 4, 4, 4\)"),
        ({"reference": [picture(1)] * 3}, "expected one reference, or one for each of 2 poses, got 3"),
        ({"pose": torch.zeros(2, 3, 8, 8)}, r"expected poses \(B, 3, 16, 8\), got \(2, 3, 8, 8\)"),
        (
            {"callback_on_step_end_tensor_inputs": ("noise",)},
            "expected callbacks for latents, prompt_embeds, got noise",
        ),
    ),
)  # fmt: skip
def test_what_cannot_be_done_is_said(change: dict[str, Any], message: str) -> None:
    options = {"reference": picture(1), "pose": [picture(3), picture(4)], **SMALL} | change
    with pytest.raises(ValueError, match=message):
        pipeline()(**options)
