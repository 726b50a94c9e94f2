"""What users of diffusers do with every pipeline: offload, place, compile, replace, stop, call back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import DiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.utils.torch_utils import get_device
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tests.accelerator import counting_syncs, pretended_accelerator
from tests.generators.ipg.networks import embedded, pipeline, principal, unet
from tests.generators.ipg.test_pipeline import SMALL, picture, seeded
from torchreid_genext.generators.ipg import IPGDenoiser, IPGPipeline
from torchreid_genext.generators.ipg.sampler import weights_digest

SHIPPED = Path("pretrained/synthreid/ipg")


def draw(pipe: IPGPipeline, people: int = 1, **options: Any) -> Tensor:
    references, options = [picture(1), picture(2)][:people], SMALL | {"num_inference_steps": 3} | options
    return pipe(references, [picture(3), picture(4)], generator=seeded(6, 7), **options).images


def side_by_side(pipe: IPGPipeline, folder: Path) -> Path:
    """As pipelines were saved before they had a denoiser."""
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "denoiser")
    index = json.loads((folder / "model_index.json").read_text())
    del index["denoiser"], index["pose_style"]
    for part in ("reference_unet", "denoising_unet"):
        getattr(pipe, part).save_pretrained(folder / part)
        index[part] = ["diffusers", "UNet2DConditionModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def saved(pipe: IPGPipeline, folder: Path) -> Path:
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", (saved, side_by_side))
@pytest.mark.parametrize("place", (None, "balanced", get_device()))
def test_pipelines_are_read_in_either_layout_onto_any_device(tmp_path: Path, layout: Any, place: Any) -> None:
    pipe = pipeline()
    folder, wanted = layout(pipe, tmp_path / "pipe"), draw(pipe)
    again = IPGPipeline.from_pretrained(folder, **{"device_map": place} if place else {})
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again).cpu(), wanted) and again.config.pose_style == "bold"


def test_the_shipped_pipeline_has_the_weights_of_its_files() -> None:
    pipe = IPGPipeline.from_pretrained(SHIPPED)
    assert weights_digest(pipe) == "11e56758dad7e015", "stores know it by this"
    for part in ("reference_unet", "denoising_unet"):
        state = load_file(SHIPPED / part / "diffusion_pytorch_model.safetensors")
        found = getattr(pipe, part).state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], tensor.float()) for name, tensor in state.items())


@pytest.mark.parametrize(
    "made", [pipeline, *(pytest.param(each, marks=pytest.mark.slow) for each in (embedded, principal))]
)
def test_offloaded_models_draw_the_same(made: Any) -> None:
    wanted, networks = draw(made()), set(made().model_cpu_offload_seq.split("->"))
    with pretended_accelerator() as device:
        pipe = made()
        parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
        assert parts.keys() == networks
        pipe.enable_model_cpu_offload(device=str(device))
        for _ in range(2):
            found = draw(pipe)
            assert found.device == device and torch.equal(found.cpu(), wanted)
            assert {part.device.type for part in parts.values()} == {"cpu"}, "they are put away again"
        shown = pipe.look_at(picture(1), 16, 8)
        for _ in range(2):  # the second time nothing is encoded first
            options = SMALL | {"num_inference_steps": 3, "generator": seeded(6, 7)}
            assert torch.equal(pipe(shown, [picture(3), picture(4)], **options).images.cpu(), wanted)


def test_models_may_be_offloaded_onto_a_cpu() -> None:
    pipe = pipeline()
    wanted = draw(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(draw(pipe), wanted)


@pytest.mark.parametrize("made", (pipeline, embedded))
def test_weights_offloaded_one_by_one_draw_the_same(made: Any) -> None:
    """As `enable_sequential_cpu_offload` does it, which cannot be told of a CPU by its number."""
    pipe = made()
    wanted = draw(pipe)
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            cpu_offload(network, torch.device("cpu"), offload_buffers=len(network._parameters) > 0)
    assert {weight.device.type for weight in pipe.denoiser.parameters()} == {"meta"}
    assert torch.equal(draw(pipe), wanted)


def test_unets_may_have_hooks_of_their_own() -> None:
    """Which hand them copies of the dicts that they are given."""
    pipe = pipeline()
    wanted = draw(pipe)
    for network in (pipe.reference_unet, pipe.denoising_unet):
        add_hook_to_module(network, AlignDevicesHook(execution_device=torch.device("cpu")))
    assert torch.equal(draw(pipe), wanted)


@pytest.mark.parametrize("part", ("denoiser", pytest.param("denoising_unet", marks=pytest.mark.slow)))
def test_a_compiled_denoiser_is_run_and_compiled_once(part: str) -> None:
    torch._dynamo.reset()
    pipe = pipeline()
    wanted = draw(pipe, guidance_scale=1.0)
    setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager", dynamic=False))
    counters.clear()
    assert torch.equal(draw(pipe, guidance_scale=1.0), wanted)
    draw(pipe, guidance_scale=1.0, num_inference_steps=5)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def test_compiled_pipelines_are_saved_as_any(tmp_path: Path) -> None:
    pipe = pipeline()
    wanted = draw(pipe)
    pipe.denoiser = torch.compile(pipe.denoiser, backend="eager")
    pipe.save_pretrained(tmp_path)
    again = IPGPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(again), wanted)


@pytest.mark.parametrize("name", ("denoiser", "reference_unet", "denoising_unet", "pose_guider", "vae"))
def test_another_part_takes_effect(name: str) -> None:
    pipe, other = pipeline(), pipeline(5)
    wanted = draw(pipe)
    setattr(pipe, name, getattr(other, name))
    assert not torch.equal(draw(pipe), wanted) and getattr(pipe, name) is getattr(other, name)


def test_unets_of_another_shape_are_refused() -> None:
    pipe, other = pipeline(), unet()
    other.down_blocks[0].attentions = nn.ModuleList()
    with pytest.raises(ValueError, match="expected a reference_unet with the blocks of the other U-Net"):
        pipe.reference_unet = other
    with pytest.raises(ValueError, match="expected a UNet2DConditionModel as denoising_unet, got Linear"):
        pipe.denoising_unet = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="expected an IPGDenoiser, got UNet2DConditionModel"):
        pipe.denoiser = unet()


def slices_everywhere(pipe: IPGPipeline) -> None:
    pipe.enable_attention_slicing()


def slices_of_one_network(pipe: IPGPipeline) -> None:
    pipe.denoising_unet.set_attention_slice("max")


def fused(pipe: IPGPipeline) -> None:
    pipe.reference_unet.fuse_qkv_projections()


def groups(pipe: IPGPipeline) -> None:
    pipe.denoiser.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (slices_everywhere, "expected attention without slices, .*got auto"),
        (slices_of_one_network, "expected reference attention in denoising_unet, .*got SlicedAttnProcessor"),
        (fused, "expected reference attention in reference_unet, .*got FusedAttnProcessor2_0"),
        (groups, "IPGDenoiser does not support group offloading"),
    ),
)
def test_other_ways_of_attention_are_refused(change: Any, message: str) -> None:
    pipe = pipeline()
    wanted = draw(pipe)
    with pytest.raises(ValueError, match=message):
        change(pipe)
        draw(pipe)
    for part in ("reference_unet", "denoising_unet"):
        setattr(pipe, part, getattr(pipe, part))  # the cure
    pipe.disable_attention_slicing()
    assert torch.equal(draw(pipe), wanted)


def test_the_official_callback_ends_guidance_for_everyone() -> None:
    pipe = pipeline()
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    found = draw(pipe, people=2, callback_on_step_end=cutoff)
    assert pipe.guidance_scale == 0 and pipe.num_timesteps == 3
    assert torch.equal(found, draw(pipe, people=2, guidance_interval=(0.0, 0.0)))
    assert pipe.guidance_scale == 3.5


def test_callbacks_may_change_the_tokens() -> None:
    pipe, shapes = pipeline(), []

    def swap(_: Any, step: int, __: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        shapes.append(tuple(tensors["prompt_embeds"].shape))
        return {"prompt_embeds": tensors["prompt_embeds"].flip(0)}

    asked = {"callback_on_step_end": swap, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    assert not torch.equal(draw(pipe, people=2, **asked), draw(pipe, people=2))
    assert set(shapes) == {(2, 2, 3, 12)}


def test_an_interrupted_run_stops() -> None:
    pipe, seen = pipeline(), []

    def stop(pipe: IPGPipeline, step: int, _: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"])
        pipe._interrupt = step == 1
        return tensors

    found = draw(pipe, callback_on_step_end=stop, num_inference_steps=5, output_type="latent")
    assert len(seen) == 2 and torch.equal(found, seen[-1]) and pipe.interrupt
    draw(pipe)
    assert not pipe.interrupt


def test_there_is_one_generator_or_one_for_each_image() -> None:
    with pytest.raises(ValueError, match="expected one generator, or one for each of 2 images, got 3"):
        pipeline()(picture(1), [picture(3), picture(4)], generator=seeded(1, 2, 3), **SMALL)


@pytest.mark.parametrize("scale", (1.5, 4.0))
@pytest.mark.parametrize("rescale", (0.3, 1.0))
def test_rescaled_guidance_is_that_of_the_paper(scale: float, rescale: float) -> None:
    """Lin et al., equations 14 to 16, in NumPy."""
    pipe, predicted = pipeline(), {}
    pipe.denoising_unet.register_forward_hook(lambda _, __, output: predicted.update(all=output[0]))
    noise = torch.randn(2, 4, 8, 4, generator=seeded(1)[0])
    options = {"num_inference_steps": 1, "output_type": "latent", "latents": noise, "guidance_scale": scale}
    found = draw(pipe, guidance_rescale=rescale, **options)
    nobody, person = predicted["all"].double().numpy().reshape(2, 2, 4, 8, 4)
    for row in range(2):
        guided = nobody[row] + scale * (person[row] - nobody[row])
        scaled = guided * person[row].std() / guided.std()
        mixed = rescale * scaled + (1 - rescale) * guided
        # at t = 999 there is nothing but noise: x0 = -v, and the last step leaves x0
        assert np.abs(found[row].numpy() + mixed).max() < 1e-4
    with pytest.raises(ValueError, match="expected guidance_rescale in 0..1, got 1.5"):
        draw(pipe, guidance_rescale=1.5)


@pytest.mark.parametrize("made", (pipeline, embedded))
def test_the_host_waits_for_no_step_of_the_sampler(made: Any) -> None:
    with pretended_accelerator() as device:
        pipe, waits, places = made().to(device), [], set()
        pipe.denoiser.register_forward_pre_hook(lambda _, inputs: places.add(inputs[1].device))
        shown = pipe.look_at([picture(1)], 16, 8), pipe.look_at_poses([picture(3), picture(4)], 16, 8)
        for steps in (2, 6):
            options = SMALL | {"num_inference_steps": steps, "output_type": "latent"}
            with counting_syncs() as count:
                pipe(*shown, generator=seeded(6, 7), **options)
            waits.append(count.total())
    assert waits == [0, 0] and places == {device}


def test_autoencoders_see_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, rows = pipeline(), []
    wanted = draw(pipe, people=2)
    monkeypatch.setattr("torchreid_genext.generators.ipg.autoencoding._PIXELS", 16 * 8)
    pipe.vae.encoder.register_forward_pre_hook(lambda _, inputs: rows.append(("encode", len(inputs[0]))))
    pipe.vae.decoder.register_forward_pre_hook(lambda _, inputs: rows.append(("decode", len(inputs[0]))))
    torch.testing.assert_close(draw(pipe, people=2), wanted)
    assert rows == [("encode", 1), ("encode", 1), ("decode", 1), ("decode", 1)]


@pytest.mark.parametrize("precision", (torch.float32, torch.bfloat16))
def test_a_picture_hardly_depends_on_its_batch(precision: torch.dtype) -> None:
    pipe = pipeline().to(precision)
    poses, seeds = [picture(3 + row) for row in range(8)], range(8)
    together = pipe(picture(1), poses, generator=seeded(*seeds), **SMALL).images
    alone = torch.cat([pipe(picture(1), poses[row], generator=seeded(row), **SMALL).images for row in seeds])
    assert (together - alone).abs().max() <= (1e-5 if precision == torch.float32 else 0.1)
    assert (together - alone).abs().mean() <= (1e-6 if precision == torch.float32 else 0.01)


def test_a_saved_pipeline_says_how_it_is_read(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    assert "IPGPipeline.from_pretrained" in (tmp_path / "README.md").read_text()
    with pytest.raises(AttributeError, match="IPGPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    pipeline().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_style_of_poses_is_kept(tmp_path: Path) -> None:
    parts = pipeline().components
    IPGPipeline(**parts, pose_style="official").save_pretrained(tmp_path)
    assert IPGPipeline.from_pretrained(tmp_path).config.pose_style == "official"


def test_a_denoiser_is_a_model_of_its_own(tmp_path: Path) -> None:
    made = pipeline().denoiser
    made.save_pretrained(tmp_path)
    again = IPGDenoiser.from_pretrained(tmp_path)
    state = made.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert not any(name.startswith("reference_unet.conv_out") for name in state)
