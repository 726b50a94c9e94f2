"""IPG's small parts: the autoencoder that only rearranges, and torchreid models as identity encoders."""

from __future__ import annotations

import pytest
import torch

from torchreid_genext import compat
from torchreid_genext.generators.ipg import PatchAutoencoder, TorchreidEncoder


def test_patches_are_channels_and_nothing_is_lost() -> None:
    images = torch.rand(2, 3, 8, 4)
    autoencoder = PatchAutoencoder(patch=4)
    latents = autoencoder.encode(images).latent_dist.mode()
    assert latents.shape == (2, autoencoder.config.latent_channels, 2, 1)
    torch.testing.assert_close(latents[1, :16, 1, 0], images[1, 0, 4:].flatten())
    assert torch.equal(autoencoder.decode(latents).sample, images)
    assert torch.equal(autoencoder.decode(latents, return_dict=False)[0], images)


def test_patches_are_powers_of_two() -> None:
    with pytest.raises(ValueError, match="expected a patch that is a power of 2, got 3"):
        PatchAutoencoder(patch=3)


def test_an_encoder_gives_the_features_of_its_model_even_while_others_train() -> None:
    encoder = TorchreidEncoder("osnet_x0_25", (64, 32)).train()
    model = compat.build_model("osnet_x0_25", 1).eval()
    model.load_state_dict(encoder.network.state_dict())
    images = torch.rand(2, 3, 64, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model((images - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(encoder(2 * images - 1), expected)
    assert expected.shape == (2, 512)
