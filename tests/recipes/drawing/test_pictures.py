"""Pictures of generative identity: what stands where, and that people stay apart."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from torchreid_genext.data.images.in_memory import ImageTensor
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.drawing import pictures

SIZE = 16, 16


@pytest.fixture
def generator() -> IdentityGenerator:
    made = IdentityGenerator(9, image_size=SIZE, widths=[4, 6], depth=1, code_width=5).eval()
    torch.nn.init.normal_(made.denoiser.unet.head.weight)
    made.trained[7:] = False
    return made.requires_grad_(False)


@pytest.fixture
def images() -> ImageTensor:
    """People 1, 4, 6 and 8, two images of each."""
    pids = torch.tensor([1, 4, 6, 8]).repeat(2)
    pixels = torch.randint(0, 256, (8, 3, *SIZE), dtype=torch.uint8)
    return ImageTensor(pixels, pids, torch.arange(8) % 2, tuple("abcdefgh"))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def tiles(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """The pictures (rows, columns, H, W, 3) of a grid, as it was drawn: 3 pixels for one, 4 between."""
    page = np.asarray(figure.axes[0].images[0].get_array())
    tall, wide = 3 * SIZE[0], 3 * SIZE[1]
    return np.stack([
        np.stack([page[4 + r * (tall + 4) :, 4 + c * (wide + 4) :][:tall:3, :wide:3] for c in range(columns)])
        for r in range(rows)
    ])  # fmt: skip


def test_people_of_a_table_are_those_who_were_trained_and_are_there(
    generator: IdentityGenerator, images: ImageTensor
) -> None:
    people = pictures.people_of_table(generator, images)
    assert people.names == ("1", "4", "6") and len(people) == 3
    assert torch.equal(people.codes, generator.table.weight[[1, 4, 6]])
    assert torch.equal(people.examples, images.images[:3].float() / 255)
    torch.testing.assert_close(people.averages[1], (images.images[1].float() + images.images[5]) / 510)
    with pytest.raises(ValueError, match="expected images of people in the generator's table, got none"):
        pictures.people_of_table(generator, images.select(images.pids == 8))


def test_people_of_images_have_the_mean_of_their_codes(images: ImageTensor) -> None:
    options = {"depth": 1, "code_width": 5, "hidden": [6], "image_size": SIZE}
    for unit in (False, True):
        inverter = Inverter([4, 6], unit=unit, **options).eval().requires_grad_(False)
        people = pictures.people_of_images(inverter, images)
        codes = inverter(images.images[[0, 4]].float() / 255).mean(0)
        expected = codes / codes.norm() * 5**0.5 if unit else codes
        torch.testing.assert_close(people.codes[0], expected)
        assert people.names == ("1", "4", "6", "8")


def test_identities_show_a_real_image_and_the_person_under_each_noise(
    generator: IdentityGenerator, images: ImageTensor
) -> None:
    people = pictures.people_of_table(generator, images)
    figure = pictures.identities(generator, people, 2, torch.Generator().manual_seed(3))
    shown = tiles(figure, 3, 3)
    assert np.array_equal(shown[:, 0], images.images[:3].permute(0, 2, 3, 1).numpy())
    noise = generator.noise(2, torch.Generator().manual_seed(3))
    alone = generator(people.codes[1:2], noise[1:2])[0].permute(1, 2, 0).numpy()
    assert np.abs(shown[1, 2] - alone * 255).max() <= 0.6
    assert {"person 1", "person 4", "person 6", "real", "noise 2"} <= set(words(figure))


def test_imagined_people_are_those_of_the_prior(generator: IdentityGenerator) -> None:
    prior = CodePrior(5, width=8).eval().requires_grad_(False)
    figure = pictures.imagined(generator, prior, 2, 3, torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(3)
    codes, noise = prior(torch.randn(2, 5, generator=random)), generator.noise(3, random)
    alone = generator(codes[1:], noise[2:])[0].permute(1, 2, 0).numpy()
    assert np.abs(tiles(figure, 2, 3)[1, 2] - alone * 255).max() <= 0.6


def test_reconstructions_say_how_alike_they_are(generator: IdentityGenerator, images: ImageTensor) -> None:
    originals, codes = images.images[:3].float() / 255, torch.randn(3, 5)
    figure = pictures.reconstructions(generator, originals, lambda _: codes, steps=3)
    shown = tiles(figure, 4, 3)
    assert np.array_equal(shown[0], images.images[:3].permute(0, 2, 3, 1).numpy())
    noise = generator.invert(originals, codes, steps=3)
    again = generator(codes, noise, steps=3)
    assert np.abs(shown[2] - again.permute(0, 2, 3, 1).numpy() * 255).max() <= 0.6
    distance = (again - originals).abs().mean(dim=(1, 2, 3))
    captions = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert [caption.split("\n")[0] for caption in captions] == [f"L1 {d:.3f}" for d in distance.tolist()]
    without = pictures.reconstructions(generator, originals, lambda _: codes, steps=3, swap=False)
    assert "as the next" in words(figure) and "as the next" not in words(without)


def test_interpolations_go_from_one_person_to_the_next(
    generator: IdentityGenerator, images: ImageTensor
) -> None:
    people = pictures.people_of_table(generator, images)
    figure = pictures.interpolations(generator, people, 3, torch.Generator().manual_seed(3))
    shown = tiles(figure, 2, 3)
    noise = generator.noise(1, torch.Generator().manual_seed(3)).expand(2, -1, -1, -1)
    ends = generator(people.codes[:2], noise).permute(0, 2, 3, 1).numpy() * 255
    for way in shown:
        assert np.abs(way[[0, 2]] - ends).max() <= 0.6
    assert {"1 to 4, line", "1 to 4, arc"} <= set(words(figure)), "the third person has no partner"


def test_arithmetic_adds_what_tells_those_with_a_trait_from_those_without(
    generator: IdentityGenerator,
) -> None:
    codes = torch.randn(8, 5)
    averages = torch.full((8, 3, *SIZE), 0.5)
    averages[:, :, 4:7] = torch.linspace(0, 1, 8)[torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])][:, None, None, None]
    people = pictures.People(codes, averages, averages, tuple("abcdefgh"))
    expected = codes[[4, 5]].mean(0) - codes[[2, 1]].mean(0)
    torch.testing.assert_close(pictures.trait_direction(people, "brighter top"), expected)
    figure = pictures.arithmetic(generator, people, people, torch.Generator().manual_seed(3), columns=3)
    noise = generator.noise(1, torch.Generator().manual_seed(3))
    alone = generator(codes[:1] + 1.5 * expected, noise)[0].permute(1, 2, 0).numpy()
    assert np.abs(tiles(figure, 4, 3)[0, 2] - alone * 255).max() <= 0.6
    assert "a, brighter top" in words(figure)
