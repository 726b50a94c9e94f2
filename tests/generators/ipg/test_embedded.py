"""IPG's small parts: the autoencoder that only rearranges, and torchreid models as identity encoders."""

from __future__ import annotations

import pytest
import torch

from torchreid_genext import compat
from torchreid_genext.generators.ipg import PatchAutoencoder, PrincipalAutoencoder, TorchreidEncoder


def test_patches_are_channels_and_nothing_is_lost() -> None:
    images = torch.rand(2, 3, 8, 4)
    autoencoder = PatchAutoencoder(patch=4)
    latents = autoencoder.encode(images).latent_dist.mode()
    assert latents.shape == (2, autoencoder.latent_channels, 2, 1)
    torch.testing.assert_close(latents[1, :16, 1, 0], images[1, 0, 4:].flatten())
    assert torch.equal(autoencoder.decode(latents).sample, images)
    assert torch.equal(autoencoder.decode(latents, return_dict=False)[0], images)


@pytest.mark.parametrize("kind", (PatchAutoencoder, PrincipalAutoencoder))
def test_patches_are_powers_of_two(kind: type) -> None:
    with pytest.raises(ValueError, match="expected a patch that is a power of 2, got 3"):
        kind(patch=3)


def smooth_images(count: int = 40) -> torch.Tensor:
    """Images (N, 3, 16, 8) in [-1, 1] that vary slowly, and not around zero."""
    coarse = torch.rand(count, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    return 1.6 * torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") - 0.6


def test_all_principal_components_give_the_image_back() -> None:
    images = smooth_images()
    for whitening in (0.0, 0.7, 1.0):
        autoencoder = PrincipalAutoencoder(4, 48).fit(images, whitening=whitening)
        latents = autoencoder.encode(images).latent_dist.mode()
        assert latents.shape == (40, 48, 4, 2)
        torch.testing.assert_close(autoencoder.decode(latents).sample, images, atol=2e-3, rtol=0)


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    images, kept = smooth_images(), 5
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16)
    mean = patches.mean(dim=(0, 2))[:, None]
    flat = (patches - mean).flatten(1)
    basis = torch.linalg.svd(flat, full_matrices=False)[2][:kept]
    expected = (flat @ basis.T @ basis).reshape_as(patches) + mean
    autoencoder = PrincipalAutoencoder(4, kept).fit(images, whitening=1.0)
    latents = autoencoder.encode(images).latent_dist.mode()
    found = autoencoder.decode(latents, return_dict=False)[0]
    found = found.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    spread = latents.square().mean(dim=(0, 2, 3))
    torch.testing.assert_close(spread, torch.ones(kept), atol=1e-4, rtol=0)


def test_latents_have_a_mean_square_of_one_however_white() -> None:
    for whitening in (0.0, 0.5):
        autoencoder = PrincipalAutoencoder(4, 6).fit(smooth_images(), whitening=whitening)
        spread = autoencoder.encode(smooth_images()).latent_dist.mode().square().mean(dim=(0, 2, 3))
        torch.testing.assert_close(spread.mean(), torch.tensor(1.0))
        assert (spread.diff() < 0).all()


def test_principal_components_are_as_many_as_a_patch_has_at_most() -> None:
    with pytest.raises(ValueError, match=r"expected latent_channels in 1..12, got 13"):
        PrincipalAutoencoder(2, 13)


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
