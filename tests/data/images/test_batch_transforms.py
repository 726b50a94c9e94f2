from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchreid_genext.data.images.batch_transforms import Augmentation, crop, erase, flip, jitter


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(40, 3, 12, 8, generator=seeded(0))


def test_each_image_is_mirrored_or_not(images: Tensor) -> None:
    draws = torch.rand(1, 40, generator=seeded())[0]
    found = flip(images, seeded(), probability=0.3)
    for image, draw, result in zip(images, draws, found):
        expected = np.ascontiguousarray(image.numpy()[:, :, ::-1]) if draw < 0.3 else image.numpy()
        np.testing.assert_array_equal(result, expected)
    assert 0 < (found != images).flatten(1).any(1).sum() < 40


def test_each_image_is_cut_at_its_own_place(images: Tensor) -> None:
    places = torch.randint(7, (2, 40), generator=seeded())
    found = crop(images, seeded(), padding=3, fill=0.5)
    for image, down, right, result in zip(images, *places.tolist(), found):
        framed = np.pad(image.numpy(), ((0, 0), (3, 3), (3, 3)), constant_values=0.5)
        np.testing.assert_array_equal(result, framed[:, down : down + 12, right : right + 8])
    assert len({tuple(place) for place in places.T.tolist()}) > 20


def rectangle(draws: list[float], area: tuple, aspect: tuple) -> tuple[slice, slice]:
    """Rows and columns of 12 x 8 pixels, from the four draws of an image."""
    pixels = (area[0] + draws[0] * (area[1] - area[0])) * 12 * 8
    ratio = math.exp(math.log(aspect[0]) + draws[1] * (math.log(aspect[1]) - math.log(aspect[0])))
    height = min(max(round(math.sqrt(pixels * ratio)), 1), 12)
    width = min(max(round(math.sqrt(pixels / ratio)), 1), 8)
    top, left = int(draws[2] * (12 - height + 1)), int(draws[3] * (8 - width + 1))
    return slice(top, top + height), slice(left, left + width)


@pytest.mark.parametrize("fill", (0.25, (0.1, 0.2, 0.3), None))
@pytest.mark.parametrize("aspect", ((0.3, 1 / 0.3), (0.01, 100.0)))
def test_each_chosen_image_loses_one_rectangle(images: Tensor, fill, aspect: tuple) -> None:
    area = (0.05, 0.5)
    found = erase(images, seeded(), probability=0.6, area=area, aspect=aspect, fill=fill)
    generator = seeded()
    chosen = torch.rand(1, 40, generator=generator)[0] < 0.6
    draws = torch.rand(4, 40, generator=generator).T.tolist()
    noise = torch.rand(images.shape, generator=generator)
    for row, expected in enumerate(images.clone()):
        rows, columns = rectangle(draws[row], area, aspect)
        new = noise[row] if fill is None else torch.tensor(fill).reshape(-1, 1, 1).expand(3, 12, 8)
        if chosen[row]:
            expected[:, rows, columns] = new[:, rows, columns]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=0)
    assert 0 < chosen.sum() < 40


def test_the_smallest_rectangle_is_a_pixel(images: Tensor) -> None:
    found = erase(images, seeded(), probability=1, area=(0, 0), fill=-1)
    assert ((found == -1).sum((1, 2, 3)) == 3).all()


def grey(pixel: np.ndarray) -> float:
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def jittered(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """The three factors applied to one image (3, H, W), pixel by pixel."""
    image = np.clip(image * brightness, 0, 1)
    mean = np.mean([grey(pixel) for pixel in image.reshape(3, -1).T])
    image = np.clip(mean + contrast * (image - mean), 0, 1)
    shades = np.array([grey(pixel) for pixel in image.reshape(3, -1).T]).reshape(image.shape[1:])
    return np.clip(shades + saturation * (image - shades), 0, 1)


def test_brightness_contrast_and_saturation_follow_their_formulas(images: Tensor) -> None:
    found = jitter(images, seeded(), brightness=0.5, contrast=0.7, saturation=1.0)
    generator = seeded()
    draws = [torch.rand(1, 40, generator=generator)[0].double() for _ in range(3)]
    factors = zip(*(1 + amount * (2 * draw - 1) for amount, draw in zip((0.5, 0.7, 1.0), draws)))
    for image, factor, result in zip(images, factors, found):
        expected = jittered(image.double().numpy(), *(value.item() for value in factor))
        np.testing.assert_allclose(result, expected, atol=2e-6)
    assert found.min() >= 0 and found.max() <= 1


EVERYTHING = Augmentation(flip=0.5, padding=2, erase=0.5, brightness=0.2, contrast=0.2, saturation=0.2)


def test_the_same_generator_gives_the_same_images_and_leaves_the_originals(images: Tensor) -> None:
    original = images.clone()
    first, second = EVERYTHING(images, seeded()), EVERYTHING(images, seeded())
    assert torch.equal(first, second) and torch.equal(images, original)
    assert not torch.equal(first, EVERYTHING(images, seeded(4)))
    assert first.shape == images.shape and first.dtype == images.dtype


def test_the_order_is_jitter_flip_crop_erase(images: Tensor) -> None:
    generator = seeded()
    expected = jitter(images, generator, brightness=0.2, contrast=0.2, saturation=0.2)
    expected = crop(flip(expected, generator), generator, padding=2)
    assert torch.equal(EVERYTHING(images, seeded()), erase(expected, generator))


def test_what_is_switched_off_changes_nothing_and_draws_nothing(images: Tensor) -> None:
    generator = seeded()
    state = generator.get_state()
    found = Augmentation(flip=0)(images, generator)
    assert torch.equal(found, images) and torch.equal(generator.get_state(), state)


def test_pixels_in_bytes_can_be_mirrored_and_cropped(images: Tensor) -> None:
    pixels = (images * 255).to(torch.uint8)
    found = crop(flip(pixels, seeded()), seeded(), padding=2)
    expected = crop(flip(pixels.float(), seeded()), seeded(), padding=2)
    assert found.dtype == torch.uint8 and torch.equal(found.float(), expected)


def test_half_precision_stays(images: Tensor) -> None:
    assert EVERYTHING(images.half(), seeded()).dtype == torch.half


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"flip": 1.5}, "expected flip in 0..1, got 1.5"),
        ({"erase": -1}, "expected erase in 0..1, got -1"),
        ({"saturation": 2}, "expected saturation in 0..1, got 2"),
        ({"padding": -1}, "expected padding >= 0 pixels, got -1"),
        ({"area": (0.5, 0.1)}, r"expected area as a smaller and a larger share in 0..1, got \(0.5, 0.1\)"),
        ({"aspect": (0, 1)}, r"expected aspect as a smaller and a larger ratio above 0, got \(0, 1\)"),
    ),
)
def test_bad_settings_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_noise_and_jitter_refuse_bytes(images: Tensor) -> None:
    for change in (erase, lambda *given: jitter(*given, contrast=0.1)):
        with pytest.raises(ValueError, match=r"expected float images in \[0, 1\], got torch.uint8"):
            change(images.to(torch.uint8), seeded())
