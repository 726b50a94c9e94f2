"""What goes into a pipeline: pictures of every kind, and networks of every kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.generators.ipg.networks import embedded, pipeline
from tests.generators.ipg.test_as_of_diffusers import draw
from tests.generators.ipg.test_pipeline import SMALL, picture, seeded
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.generators.ipg.inputs import pictures

Image_ = Image.Image


def array(image: Image_) -> np.ndarray:
    return np.asarray(image)


def shares(image: Image_) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def tensor(image: Image_) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def tensor_of_shares(image: Image_) -> Tensor:
    return tensor(image) / 255


KINDS = (array, shares, tensor, tensor_of_shares)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", (False, True))
def test_arrays_and_tensors_are_pictures(kind: Any, together: bool) -> None:
    pipe, people, poses = pipeline(), [picture(1), picture(2)], [picture(3), picture(4)]
    wanted = pipe(people, poses, generator=seeded(6, 7), **SMALL).images
    given = [[kind(image) for image in images] for images in (people, poses)]
    if together:
        given = [(np if kind in (array, shares) else torch).stack(images) for images in given]
    assert torch.equal(pipe(*given, generator=seeded(6, 7), **SMALL).images, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_one_picture_needs_no_list(kind: Any) -> None:
    pipe = pipeline()
    wanted = pipe(picture(1), picture(3), generator=seeded(6), **SMALL).images
    found = pipe(kind(picture(1)), kind(picture(3)), generator=seeded(6), **SMALL).images
    assert torch.equal(found, wanted)


def test_shares_are_rounded_to_the_nearest_level() -> None:
    (found,) = pictures(np.full((2, 2, 3), 0.7 / 255))
    assert np.asarray(found).min() == 1


def test_what_was_drawn_may_be_a_reference() -> None:
    pipe = pipeline()
    for output in ("pil", "np", "pt"):
        made = draw(pipe, output_type=output)
        assert pipe(made, [picture(3), picture(4)], generator=seeded(6, 7), **SMALL).images.isfinite().all()


@pytest.mark.parametrize(
    ("image", "message"),
    (
        ([], "expected at least one picture, got none"),
        (np.zeros((16, 8)), r"expected a PIL image, an array .*, got ndarray \(16, 8\)"),
        (torch.zeros(16, 8, 3), r"expected a PIL image, .* a tensor \(3, H, W\), got ndarray \(8, 3, 16\)"),
        (["a.jpg"], "expected a PIL image, .*, got str"),
        (torch.full((3, 16, 8), -1.0), r"expected pictures of numbers in 0..1, or of uint8, got -1..-1"),
        (np.full((16, 8, 3), np.nan), "expected pictures of numbers in 0..1, or of uint8, got nan..nan"),
    ),
)
def test_what_is_no_picture_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline()(image, picture(3), **SMALL)
    with pytest.raises(ValueError, match=message):
        pipeline()(picture(1), image, **SMALL)


def test_poses_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected pictures of numbers in 0..1, or of uint8, got 0..2"):
        pipeline()(picture(1), torch.tensor([0.0, 2.0]).repeat(1, 3, 16, 4), **SMALL)


class Encoder(nn.Module):
    """Not one of diffusers."""

    def __init__(self, image_size: Any = (32, 16)) -> None:
        super().__init__()
        self.layer, self.image_size = nn.Linear(3 * 32 * 16, 40), image_size

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


class Means(nn.Module):
    """Without weights."""

    image_size = (32, 16)

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).repeat(1, 14)[:, :40]


class Patches(nn.Module):
    """Pixels as latents."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.shrink = SimpleNamespace(scaling_factor=2.0), 2

    def encode(self, images: Tensor) -> Any:
        latents = nn.functional.pixel_unshuffle(images, 2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (nn.functional.pixel_shuffle(latents, 2),)


def assembled(**changes: Any) -> IPGPipeline:
    made = IPGPipeline(**pipeline().components | changes)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("encoder", (Encoder, Means))
def test_any_module_may_be_the_identity_encoder(encoder: Any) -> None:
    torch.manual_seed(0)
    network = encoder()
    pipe = assembled(reid_encoder=network)
    wanted = draw(pipe)
    replaced = pipeline()
    replaced.reid_encoder = network
    assert torch.equal(draw(replaced), wanted)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(draw(pipe), wanted) and not torch.equal(wanted, draw(pipeline()))
    assert draw(assembled(reid_encoder=encoder()).to(torch.bfloat16)).isfinite().all()


def test_any_module_may_be_the_autoencoder() -> None:
    pipe = embedded()
    wanted = draw(pipe)
    pipe.vae = Patches()
    assert torch.equal(draw(pipe), wanted)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(draw(pipe), wanted)


def test_what_cannot_be_saved_is_told_before_anything_is_written(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="expected a reid_encoder of diffusers' ModelMixin .*, got Encoder"):
        assembled(reid_encoder=Encoder()).save_pretrained(tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"reid_encoder": nn.Flatten()}, "expected a reid_encoder .*, got Flatten with image_size None"),
        ({"reid_encoder": Encoder(32)}, "expected a reid_encoder .*, got Encoder with image_size 32"),
        ({"reid_encoder": lambda x: x}, "expected a reid_encoder that is a module .*, got function"),
        (
            {"vae": nn.Flatten()},
            "expected a vae .*, got Flatten without encode, decode, config.scaling_factor, shrink",
        ),
        ({"denoiser": nn.Flatten()}, "expected an IPGDenoiser, got Flatten; IPGDenoiser.from_unets"),
    ),
)
def test_networks_that_will_not_do_are_refused_at_the_door(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assembled(**change)
    pipe = pipeline()
    with pytest.raises(ValueError, match=message):
        setattr(pipe, *next(iter(change.items())))
