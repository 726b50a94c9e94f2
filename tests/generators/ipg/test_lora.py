"""Changes of low rank: what a changed U-Net computes, and files of changes on the pipeline they are of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.generators.ipg.networks import TOKENS, WIDTH, embedded, random, unet
from torchreid_genext import checkpoints
from torchreid_genext.generators.ipg import IPGPipeline, lora
from torchreid_genext.generators.ipg.lora import LowRank


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(changes: LowRank) -> LowRank:
    """With a B that is not zero."""
    for parameter in changes.parameters():
        nn.init.normal_(parameter, std=0.2, generator=seeded(1))
    return changes


def predicted(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(random(2, 4, 8, 4), 7, random(2, TOKENS, WIDTH, seed=1), return_dict=False)[0]


def test_a_network_computes_as_before_until_something_is_learnt() -> None:
    network = unet()
    before = predicted(network)
    changes = LowRank(network, 2, seeded()).attach()
    assert torch.equal(predicted(network), before)
    assert not torch.equal(predicted(network), predicted_by_products(network, changed(changes)))


def predicted_by_products(network: nn.Module, changes: LowRank) -> torch.Tensor:
    """By weights W + B A, put together from the names alone."""
    state, own = network.state_dict(), changes.state_dict()
    for name in [name for name in own if name.endswith("lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        state[f"{layer}.weight"] = state[f"{layer}.weight"] + own[f"{layer}.lora_B.weight"] @ own[name]
    other = unet()
    other.load_state_dict(state)
    return predicted(other)


def test_changes_are_those_of_the_weights_of_every_projection() -> None:
    network = unet()
    before = predicted(network)
    changes = changed(LowRank(network, 2, seeded()))
    assert torch.equal(predicted(network), before)
    layers = {name.rpartition(".lora")[0] for name in changes.state_dict()}
    attentions = [name.removesuffix(".processor") for name in network.attn_processors]
    assert layers == {
        f"{name}.{layer}" for name in attentions for layer in ("to_q", "to_k", "to_v", "to_out.0")
    }
    wanted = predicted_by_products(network, changes)
    torch.testing.assert_close(predicted(changes.attach() and network), wanted)
    changes.attach().merge()
    torch.testing.assert_close(predicted(network), wanted)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_changes_are_drawn_by_their_own_generator() -> None:
    first, again = (LowRank(unet(), 2, seeded(3)).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def learnt(folder: Path) -> tuple[IPGPipeline, Path]:
    """The same pipeline after training, and the file of what it learnt."""
    pipe = embedded()
    changes = changed(LowRank(pipe.denoising_unet, 2))
    nn.init.normal_(pipe.pose_guider.conv_in.weight)
    path = lora.save(
        folder / "lora.safetensors", {"denoising_unet": changes, "pose_guider": pipe.pose_guider}
    )
    changes.merge()
    return pipe, path


def test_a_file_makes_of_the_first_pipeline_exactly_the_trained_one(tmp_path: Path) -> None:
    wanted, path = learnt(tmp_path)
    pipe = lora.load(embedded(), path)
    for name in ("denoising_unet", "reference_unet", "pose_guider"):
        found = getattr(pipe, name).state_dict()
        trained = getattr(wanted, name).state_dict()
        assert all(torch.equal(tensor, found[key]) for key, tensor in trained.items()), name
    layer = "denoising_unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoints.safe_load(path).items()}
    assert shapes[f"{layer}.lora_A.weight"] == (2, WIDTH) and shapes[f"{layer}.lora_B.weight"] == (8, 2)
    assert not any(name.startswith("reference_unet") for name in shapes)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path / "a.safetensors", {"text_encoder.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected changes to networks of IPGPipeline, got text_encoder in"):
        lora.load(embedded(), path)
    path = checkpoints.save(
        tmp_path / "b.safetensors", {"denoising_unet.to_q.lora_A.weight": torch.zeros(2, 3)}
    )
    pipe = embedded()
    with pytest.raises(ValueError, match=r"expected weights of LowRank, got .*b.safetensors: .* missing"):
        lora.load(pipe, path)
    assert not any(layer._forward_hooks for layer in pipe.denoising_unet.modules())


def test_ranks_and_networks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a rank of at least 1, got 0"):
        LowRank(unet(), 0)
    with pytest.raises(ValueError, match="expected a network with attention, got Linear without"):
        LowRank(nn.Linear(2, 2), 1)
