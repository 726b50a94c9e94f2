from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.generators import networks
from torchreid_genext.explore.identity import TRAITS, Coder, Person
from torchreid_genext.generators.identity import interpolate


@pytest.fixture
def coder(tmp_path: Path) -> Coder:
    for name in ("generator", "inverter", "prior"):
        getattr(networks, name)().save(tmp_path / f"{name}.safetensors")
    paths = [str(tmp_path / f"{row}.png") for row in range(8)]
    for row, path in enumerate(paths):
        Image.new("RGB", (20, 40), (30 * row, 200 - 20 * row, 90)).save(path)
    (tmp_path / "0.png").write_text("not a picture")  # is left out
    return Coder(tmp_path, paths, [row // 2 for row in range(8)])


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.array(image) for image in images]).astype(float)


def drawn(coder: Coder, code: torch.Tensor, noise: torch.Tensor) -> np.ndarray:
    return coder._generator(code, noise, steps=10).detach().permute(0, 2, 3, 1).numpy() * 255


def someone(coder: Coder) -> Person:
    return coder.person(Image.effect_noise((20, 40), 90).convert("RGB"))


def test_code_and_noise_are_what_inverter_and_generator_find(coder: Coder) -> None:
    image = Image.new("RGB", (4, 8), "red")
    read = torch.tensor(pixels([image])).float().permute(0, 3, 1, 2) / 255
    code = coder._inverter(read)
    plain, long = coder.person(image, stretched=False), coder.person(image)
    assert torch.allclose(plain.code, code[0], atol=1e-5)
    trained = coder._generator.trained_codes().norm(dim=1).mean()
    assert torch.allclose(long.code, code[0] / code[0].norm() * trained, atol=1e-5)
    noise = coder._generator.invert(read, long.code[None], steps=10)
    assert torch.allclose(long.noise, noise[0], atol=1e-4)


def test_noises_change_all_but_the_code_and_the_first_is_the_pictures_own(coder: Coder) -> None:
    person = someone(coder)
    noise = torch.cat([person.noise[None], coder._generator.noise(3, networks.seeded(5))])
    made = pixels(coder.noises(person, 3, seed=5))
    assert np.abs(made - drawn(coder, person.code.expand(4, -1), noise)).max() <= 0.51


@pytest.mark.parametrize("arc", [False, True])
def test_a_way_leads_from_one_to_the_other_under_the_noise_of_the_first(coder: Coder, arc: bool) -> None:
    one, two = someone(coder), coder.imagined(seed=3)
    codes = interpolate(one.code, two.code, torch.linspace(0, 1, 5), spherical=arc)
    made = pixels(coder.way(one, two, 5, arc=arc))
    assert np.abs(made - drawn(coder, codes, one.noise.expand(5, -1, -1, -1))).max() <= 0.51


def test_a_trait_changes_a_person_and_nothing_of_it_leaves_them(coder: Coder) -> None:
    person = someone(coder)
    for trait in TRAITS:
        made = pixels(coder.trait(person, trait, [-1.0, 0.0, 1.0]))
        assert np.abs(made[1] - pixels(coder.noises(person, 1))[0]).max() <= 1
        assert not np.array_equal(made[0], made[2])


def test_people_who_do_not_exist_come_from_the_prior(coder: Coder) -> None:
    expected = coder._prior(torch.randn(1, networks.CODE, generator=networks.seeded(4)))[0]
    assert torch.allclose(coder.imagined(seed=4).code, expected, atol=1e-5)
    assert not torch.equal(coder.imagined(seed=4).noise, coder.imagined(seed=5).noise)


def test_what_is_out_of_range_is_refused(coder: Coder) -> None:
    person = someone(coder)
    with pytest.raises(ValueError, match=r"expected 1\.\.12 pictures, got 13"):
        coder.noises(person, 13)
    with pytest.raises(ValueError, match=r"expected 2\.\.12 pictures, got 1"):
        coder.way(person, person, 1)
    with pytest.raises(ValueError, match="unknown trait 'taller'; choose from brighter top"):
        coder.trait(person, "taller", [0.0])


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected generator\.safetensors of train-gen in"):
        Coder(tmp_path, [], []).person(Image.new("RGB", (4, 8)))
