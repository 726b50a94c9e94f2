"""Reference attention: rows that see a reference and rows that do not, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from tests.generators.ipg.networks import CHANNELS, SIZE, TOKENS, WIDTH, denoiser, random, unet
from torchreid_genext.generators.ipg import Seen, TransReID, without_head


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        random(rows, 4, *SIZE, seed=1),
        random(rows, TOKENS, WIDTH, seed=2),
        random(rows, CHANNELS[0], *SIZE, seed=3),
    )


@pytest.mark.parametrize("seeing", (0, 1, 3))
def test_rows_do_not_depend_on_the_batch(seeing: int) -> None:
    network, (noisy, tokens, pose) = denoiser(), inputs(3)
    with torch.no_grad():
        seen = network.see([random(3, 4, *SIZE, seed=4)], tokens)
        chosen = seen[torch.arange(3 - seeing, 3)] if seeing else None
        together = network(noisy, 7, tokens, pose=pose, seen=chosen)
        for row in range(3):
            own = seen[torch.tensor([row])] if row >= 3 - seeing else None
            part = slice(row, row + 1)
            alone = network(noisy[part], 7, tokens[part], pose=pose[part], seen=own)
            torch.testing.assert_close(together[part], alone)


def test_without_a_reference_the_denoiser_is_diffusers_own() -> None:
    network, (noisy, tokens, _) = denoiser(), inputs(2)
    plain = unet()
    plain.load_state_dict(network.denoising_unet.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(noisy, 7, tokens), plain(noisy, 7, tokens).sample)


def test_references_are_chosen_repeated_and_joined_by_row() -> None:
    network, (noisy, tokens, _) = denoiser(), inputs(2)
    with torch.no_grad():
        latents = random(2, 4, *SIZE, seed=4)
        seen = network.see([latents], tokens)
        singles = [network.see([latents[row : row + 1]], tokens[row : row + 1]) for row in (0, 1)]
        assert len(seen) == len(Seen.cat(singles)) == 2
        expected = network(noisy, 7, tokens, seen=seen)
        torch.testing.assert_close(network(noisy, 7, tokens, seen=Seen.cat(singles)), expected)
        swapped = network(noisy.flip(0), 7, tokens.flip(0), seen=seen[torch.tensor([1, 0])])
        torch.testing.assert_close(swapped.flip(0), expected)


def test_a_reference_and_a_pose_matter() -> None:
    network, (noisy, tokens, pose) = denoiser(), inputs(2)
    with torch.no_grad():
        seen = network.see([random(2, 4, *SIZE, seed=4)], tokens)
        found = [
            network(noisy, 7, tokens),
            network(noisy, 7, tokens, seen=seen),
            network(noisy, 7, tokens, pose=pose),
        ]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_gradients_reach_the_reference_network_and_checkpointing_changes_none_of_them() -> None:
    gradients = []
    for checkpointing in (False, True):
        network, (noisy, tokens, pose) = denoiser(), inputs(2)
        for part in (network.reference_unet, network.denoising_unet):
            part.train()
            if checkpointing:
                part.enable_gradient_checkpointing()
        seen = network.see([random(2, 4, *SIZE, seed=4)], tokens)
        network(noisy, torch.tensor([7, 9]), tokens, pose=pose, seen=seen).square().mean().backward()
        gradients.append(
            {name: p.grad for name, p in network.reference_unet.named_parameters() if p.grad is not None}
        )
    assert "conv_in.weight" in gradients[0] and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_rounding_is_that_of_the_bank() -> None:
    network, tokens = denoiser(), inputs(2)[1]
    with torch.no_grad():
        latents = [random(2, 4, *SIZE, seed=4)]
        bank, _ = network.write(latents[0], tokens)
        rounded, exact = (network.see(latents, tokens, dtype=dtype) for dtype in (torch.float16, None))
        for block, features in bank.items():
            attention = network.denoising_unet.get_submodule(block).attn1
            keys = attention.to_k(features.half().float())
            torch.testing.assert_close(rounded.projected[block][0].transpose(1, 2).flatten(2), keys)
            assert not torch.equal(rounded.projected[block][0], exact.projected[block][0])


def test_a_network_without_head_has_fewer_weights_and_can_be_run() -> None:
    whole = unet()
    names = {name.split(".")[0] for name in whole.state_dict()} - {
        name.split(".")[0] for name in without_head(whole).state_dict()
    }
    assert names == {"conv_norm_out", "conv_out"}
    noisy, tokens, _ = inputs(1)
    assert whole(noisy, 0, tokens).sample.shape == (1, CHANNELS[0], *SIZE)


def test_identity_encoder_names_the_size_that_it_wants() -> None:
    encoder = TransReID((64, 32), width=8, depth=1, heads=2)
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 64, 32\), got \(1, 3, 32, 32\)"):
        encoder(torch.zeros(1, 3, 32, 32))
