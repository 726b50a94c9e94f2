"""Sampling by the thousand: nothing is looked at twice, and levers change what they say they change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from tests.generators.ipg.networks import embedded, pipeline
from tests.generators.ipg.test_pipeline import SMALL, picture, seeded
from torchreid_genext.generators.ipg import IPGPipeline, IPGSampler, Sampling
from torchreid_genext.generators.ipg.sampler import weights_digest

PEOPLE = {"a.jpg": picture(1), "b.jpg": picture(2), "c.jpg": picture(3)}
POSES = {"1": picture(4), "2": picture(5)}
SAMPLING = {"height": 16, "width": 8, "steps": 2}


def sampler(pipe: IPGPipeline | None = None, keep: int = 64, **changes: Any) -> IPGSampler:
    pipe = embedded() if pipe is None else pipe
    return IPGSampler(pipe, POSES, Sampling(**SAMPLING | changes), PEOPLE.__getitem__, keep=keep)


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, np.float32) for image in images])


def test_a_batch_of_different_people_and_poses_equals_singles_and_the_pipeline() -> None:
    draw = sampler()
    names, poses, seeds = ["a.jpg", "b.jpg", "a.jpg"], ["2", "1", "1"], [7, 8, 9]
    together = pixels(draw(names, poses, seeds))
    alone = [pixels(draw([n], [p], [s]))[0] for n, p, s in zip(names, poses, seeds)]
    plain = embedded()(
        [PEOPLE[n] for n in names], [POSES[p] for p in poses], generator=seeded(*seeds),
        **SMALL | {"output_type": "pil"},
    ).images  # fmt: skip
    assert np.abs(together - np.stack(alone)).max() <= 1  # one grey level, where rounding turns
    assert np.abs(together - pixels(plain)).max() <= 1


@pytest.mark.parametrize(("keep", "looks"), ((64, [2]), (1, [2, 1])))
def test_references_are_looked_at_once_while_they_are_remembered(keep: int, looks: list[int]) -> None:
    pipe, rows = embedded(), []
    draw = sampler(pipe, keep)
    pipe.reference_unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    draw(["a.jpg", "b.jpg", "a.jpg"], ["1", "1", "2"], [1, 2, 3])
    draw(["a.jpg"], ["2"], [4])
    assert rows == looks


def test_a_batch_is_split_where_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    pipe, rows = embedded(), []
    call = (["a.jpg", "b.jpg", "a.jpg", "c.jpg", "c.jpg"], ["1", "2", "2", "1", "2"], [1, 2, 3, 4, 5])
    wanted = pixels(sampler()(*call))

    def too_much(_: Any, inputs: tuple) -> None:
        rows.append(len(inputs[0]))
        if len(inputs[0]) > 4:  # of two images under guidance
            raise torch.OutOfMemoryError

    pipe.denoising_unet.register_forward_pre_hook(too_much)
    draw = sampler(pipe)
    assert np.abs(pixels(draw(*call)) - wanted).max() <= 1
    assert rows == [10, 6, 4, 4, 4, 4, 2, 2]
    assert "memory is short for 3 images at a time; now 2 are drawn" in caplog.text
    draw(*call)
    assert max(rows[8:]) == 4, "it is remembered"
    draw._most = 1
    pipe.denoising_unet.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        draw(*call)


def test_poses_are_looked_at_once_a_run() -> None:
    pipe, rows = embedded(), []
    pipe.pose_guider.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    draw = sampler(pipe)
    for seed in range(3):
        draw(["a.jpg"], ["2"], [seed])
    assert rows == [len(POSES)]


@pytest.mark.parametrize(
    "change",
    (
        {"scheduler": "unipc"}, {"scheduler": "dpmsolver++"}, {"guidance": 1.0}, {"interval": (0.0, 0.4)},
        {"official_bank": True}, {"precision": "bf16"}, {"steps": 3},
    ),
)  # fmt: skip
def test_every_lever_changes_the_pixels_and_is_told_in_the_provenance(change: dict[str, Any]) -> None:
    usual, other = sampler(pipeline()), sampler(pipeline(), **change)
    call = (["a.jpg", "b.jpg"], ["1", "2"], [5, 6])
    assert not np.array_equal(pixels(usual(*call)), pixels(other(*call)))
    assert usual.provenance() != other.provenance()
    assert usual.provenance()["weights"] == other.provenance()["weights"]


def test_weights_tell_pipelines_apart() -> None:
    assert weights_digest(embedded(0)) == weights_digest(embedded(0)) != weights_digest(embedded(1))


def test_guidance_in_part_of_the_steps_is_the_sum_of_both_kinds() -> None:
    """Two steps, guided in the first alone: the second is that of an unguided run from the same latents."""
    pipe, latents = pipeline(), torch.randn(1, 4, 8, 4)
    options = SMALL | {"output_type": "latent", "latents": latents, "guidance_scale": 3.5}
    between: dict[str, torch.Tensor] = {}

    def keep(_: Any, step: int, __: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        between.setdefault("latents", tensors["latents"])
        return tensors

    pipe(picture(1), picture(4), callback_on_step_end=keep, **options)
    found = pipe(picture(1), picture(4), guidance_interval=(0.0, 0.5), **options).images

    def replace(_: Any, step: int, __: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latents": between["latents"]} if step == 0 else tensors

    unguided = options | {"guidance_scale": 1.0, "callback_on_step_end": replace}
    torch.testing.assert_close(found, pipe(picture(1), picture(4), **unguided).images)
    with pytest.raises(ValueError, match=r"expected a guidance interval in 0..1, got \(0.5, 0.2\)"):
        pipe(picture(1), picture(4), guidance_interval=(0.5, 0.2), **options)


def test_a_tiny_autoencoder_will_do() -> None:
    pipe = pipeline()
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()  # fmt: skip
    networks = {name: part for name, part in pipe.components.items() if name != "vae"}
    swapped = IPGPipeline(vae=tiny, **networks)
    swapped.set_progress_bar_config(disable=True)
    images = swapped(picture(1), picture(4), generator=seeded(1), **SMALL).images
    assert images.shape == (1, 3, 16, 8) and images.isfinite().all() and images.std() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"scheduler": "euler"}, "unknown scheduler 'euler'; choose from ddim, unipc, dpmsolver"),
        ({"precision": "int8"}, "unknown precision 'int8'; choose from fp32, bf16, fp16"),
        ({"steps": 0}, "expected steps >= 1, got 0"),
    ),
)
def test_what_cannot_be_done_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**change)(["a.jpg"], ["1"], [1])


def test_unknown_and_missing_poses_are_named() -> None:
    with pytest.raises(ValueError, match="unknown pose '3'; choose from 1, 2"):
        sampler()(["a.jpg"], ["3"], [1])
    with pytest.raises(ValueError, match="expected at least one pose, got none"):
        IPGSampler(embedded(), {}, Sampling(**SAMPLING), PEOPLE.__getitem__)
