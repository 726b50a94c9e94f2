"""IPG's networks and reference attention against recordings of the official ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.conformance.conftest import case, cases, tolerance, vectors
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGDenoiser,
    IPGPipeline,
    PoseGuider,
    TransReID,
    official,
    official_scheduler,
    without_head,
)

BANK_TYPES = {"fp16": torch.float16, "fp32": None}


def configuration() -> dict[str, Any]:
    return json.loads((vectors("ipg") / "config.json").read_text())


def filled(network: nn.Module, name: str) -> nn.Module:
    official.fill(network, vectors("ipg") / f"weights_{name}.safetensors")
    return network.eval()


def denoiser() -> IPGDenoiser:
    if not (vectors("ipg") / "weights_denoising_unet.safetensors").is_file():
        pytest.skip(
            "needs the recorded U-Nets (11 MB, no copies here); tests/generators/ipg checks the formulas"
        )
    config = configuration()["unet"]
    reference = filled(without_head(UNet2DConditionModel(**config)), "reference_unet")
    return IPGDenoiser.from_unets(reference, filled(UNet2DConditionModel(**config), "denoising_unet"))


def worst(found: Tensor, recorded: Tensor) -> float:
    assert found.shape == recorded.shape
    return (found - recorded).abs().max().item()


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


def test_pose_guider() -> None:
    inputs, outputs = case("pose_guider")
    guider = filled(PoseGuider(configuration()["unet"]["block_out_channels"][0]), "pose_guider")
    for images, features in (("x", "y"), ("x_odd", "y_odd")):
        assert worst(guider(inputs[images]), outputs[features]) <= tolerance("pose_guider")


def test_identity_projector() -> None:
    inputs, outputs = case("ifr")
    config = configuration()
    projector = IdentityProjector(
        config["ifr"]["in_dim"], config["ifr"]["num_tokens"], config["unet"]["cross_attention_dim"]
    )
    assert worst(filled(projector, "IFR")(inputs["x"]), outputs["y"]) <= tolerance("ifr")


def test_identity_projector_of_official_size() -> None:
    recorded = case_of_outputs("ifr_full_closed_form")["y"]
    projector = IdentityProjector(3840, *recorded.shape[1:])
    o, i, j = torch.arange(recorded[0].numel())[:, None], torch.arange(3840), torch.arange(recorded.shape[2])
    b = torch.arange(len(recorded))[:, None]
    projector.projection.weight.copy_(((1103 * o + 12289 * i + 7 * o * i) % 2003 - 1001) / 1001 * 0.02)
    projector.projection.bias.copy_(((37 * o[:, 0]) % 101 - 50) / 500)
    projector.norm.weight.copy_(1 + ((13 * j) % 29 - 14) / 100)
    projector.norm.bias.copy_(((17 * j) % 31 - 15) / 100)
    features = ((5003 * b + 911 * i) % 1009 - 504) / 504
    assert worst(projector(features), recorded) <= tolerance("ifr_full_closed_form")


def case_of_outputs(name: str) -> dict[str, Tensor]:
    return load_file(vectors("ipg") / f"out_{name}.safetensors")


def case_of_inputs(name: str) -> dict[str, Tensor]:
    return load_file(vectors("ipg") / f"in_{name}.safetensors")


def encoder_of(name: str) -> TransReID:
    config = configuration()[name]
    encoder = TransReID(
        config["img_size"], config["stride"], config["embed_dim"], config["depth"] - 1, config["num_heads"],
        config["shift_num"], config["shuffle_group"],
    )  # fmt: skip
    return filled(encoder, name)


@pytest.mark.parametrize("name", cases(r"transreid_.*"))
def test_identity_encoder(name: str) -> None:
    inputs, outputs = case(name)
    encoder, images = encoder_of(name), inputs["x"]
    tokens = encoder.tokens(images)
    found = {
        "tokens_before_last_block": tokens,
        "shuffled": encoder.shuffled(tokens[:, 1:]),
        "feat": encoder(images),
        "feat_zeros": encoder(torch.zeros_like(images[:1])),
    }
    for name, recorded in outputs.items():
        assert worst(found[name], recorded) <= tolerance("transreid"), name


@pytest.mark.parametrize("name", cases(r"plain.*"))
def test_denoiser_without_a_reference(name: str) -> None:
    inputs, outputs = case(name)
    found = denoiser()(
        inputs["latents"], inputs["timestep"], inputs["encoder_hidden_states"], pose=inputs.get("pose_fea")
    )
    assert worst(found, outputs["model_out"]) <= tolerance("plain")


@pytest.mark.parametrize("name", cases(r"ref_.*"))
def test_reference_attention(name: str) -> None:
    (inputs, outputs), network = case(name), denoiser()
    tokens, rows = inputs["encoder_hidden_states"], len(inputs["latents"])
    doubled = lambda x: torch.cat([x] * (len(tokens) // rows))  # noqa: E731  # [uncond; cond] under guidance
    references = [inputs[key] for key in sorted(inputs) if key.startswith("ref_latents")]
    for number, reference in enumerate(references):
        bank, end = network.write(doubled(reference), tokens)
        assert worst(end, outputs[f"ref_unet_sample{number + 1 if number else ''}"]) <= tolerance("banks")
    for key in (key for key in outputs if key.startswith("bank.")):
        assert worst(bank[key.removeprefix("bank.")], outputs[key]) <= tolerance("banks"), key
    for kind, dtype in BANK_TYPES.items():
        seen = network.see(references, tokens[-rows:], dtype=dtype)
        found = network(
            doubled(inputs["latents"]),
            inputs["timestep"],
            tokens,
            pose=doubled(inputs["pose_fea"]),
            seen=seen,
        )
        limit = tolerance("... fp16bank" if kind == "fp16" else "ref_cfg/ref_nocfg")
        assert worst(found, outputs[f"model_out_{kind}bank"]) <= limit


def pictures(pixels: Tensor) -> list[Image.Image]:
    return [Image.fromarray(each.numpy()) for each in pixels]


def whole_pipeline() -> IPGPipeline:
    networks, config = denoiser(), configuration()
    guider = PoseGuider(config["unet"]["block_out_channels"][0])
    projector = IdentityProjector(*official.projector_sizes(vectors("ipg") / "weights_IFR.safetensors"))
    pipe = IPGPipeline(
        filled(AutoencoderKL(**config["vae"]), "vae"),
        networks,
        filled(guider, "pose_guider"),
        filled(projector, "IFR"),
        encoder_of("transreid_even"),
        official_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", cases(r"pipeline_.*"))
def test_denoising_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with pictures of poses whose channels the official code had swapped."""
    inputs, outputs, pipe, steps = case_of_inputs("pipeline"), case_of_outputs(name), whole_pipeline(), []
    monkeypatch.setattr(pipe, "encoder_input", lambda _: inputs["reid_input"])
    guidance = configuration()["guidance"] if name != "pipeline_guidance1" else 1.0
    *_, height, width = case_of_outputs("pipeline_fp32bank")["ref_image_tensor"].shape
    found = pipe(
        pictures(inputs["ref_image_rgb_u8"][None])[0],
        pictures(inputs["pose_images_rgb_u8"]),
        height=height,
        width=width,
        num_inference_steps=len(outputs["timesteps"]),
        guidance_scale=guidance,
        official_guidance=True,
        latents=outputs["init_latents"],
        bank_dtype=BANK_TYPES["fp16" if "fp16" in name else "fp32"],
        swap_pose_channels=True,
        output_type="pt",
        callback_on_step_end=lambda _, __, ___, tensors: steps.append(tensors["latents"]) or tensors,
    ).images
    kind = "fp16" if "fp16" in name else "fp32"
    assert torch.equal(pipe.scheduler.timesteps, outputs["timesteps"])
    assert worst(torch.stack(steps), outputs["latents_steps"]) <= tolerance(f"pipeline_{kind}bank latents")
    if "images" in outputs:
        assert worst(found, outputs["images"]) <= tolerance("images")


def test_inputs_of_the_networks() -> None:
    pipe = whole_pipeline()
    inputs, outputs = case_of_inputs("pipeline"), case_of_outputs("pipeline_fp32bank")
    *_, height, width = outputs["ref_image_tensor"].shape
    poses = pipe.preprocess_poses(pictures(inputs["pose_images_rgb_u8"]), height, width, swap=True)
    reference = pipe.image_processor.preprocess(pictures(inputs["ref_image_rgb_u8"][None]), height, width)
    reid = torch.cat([torch.zeros_like(inputs["reid_input"]), inputs["reid_input"]])
    tokens, recorded = pipe.identity_tokens(reid), outputs["encoder_hidden_states"]
    assert worst(poses, outputs["pose_cond_tensor"]) <= tolerance("reid_preprocess")
    assert worst(reference, outputs["ref_image_tensor"][:1]) <= tolerance("reid_preprocess")
    assert worst(pipe.encode(reference), outputs["ref_image_latents_doubled"][:1]) <= tolerance("banks")
    assert worst(tokens.repeat_interleave(len(recorded) // 2, 0), recorded) <= tolerance("transreid")
    # a product of a thousand float32 factors, which processors multiply in different orders
    assert worst(pipe.scheduler.alphas_cumprod, outputs["alphas_cumprod"]) <= 1e-6


def test_preprocessing_for_the_identity_encoder() -> None:
    pipe = whole_pipeline()
    inputs, outputs = case("reid_preprocess")
    pipe.reid_encoder.image_size = tuple(outputs["x"].shape[1:])
    found = pipe.encoder_input(pictures(inputs["image_rgb_u8"][None])[0])[0]
    assert worst(found, outputs["x"]) <= tolerance("reid_preprocess")
