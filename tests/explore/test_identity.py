from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.generators import networks
from torchreid_genext.explore.identity import TRAITS, Coder
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


def test_a_code_is_what_the_inverter_finds(coder: Coder) -> None:
    images = [Image.new("RGB", (4, 8), colour) for colour in ("red", "blue")]
    expected = coder._inverter(torch.tensor(pixels(images)).float().permute(0, 3, 1, 2) / 255)
    assert torch.allclose(coder.codes(images), expected, atol=1e-5)
    assert not torch.allclose(coder.codes(images, sharpen=2), expected, atol=1e-3)


def test_noises_change_all_but_the_code(coder: Coder) -> None:
    code = networks.randn(networks.CODE)
    noise = coder._generator.noise(3, networks.seeded(5))
    made = pixels(coder.noises(code, 3, seed=5))
    assert np.abs(made - drawn(coder, code.expand(3, -1), noise)).max() <= 0.51


@pytest.mark.parametrize("arc", [False, True])
def test_a_way_leads_from_one_to_the_other_under_one_noise(coder: Coder, arc: bool) -> None:
    one, two = networks.randn(2, networks.CODE)
    codes = interpolate(one, two, torch.linspace(0, 1, 5), spherical=arc)
    noise = coder._generator.noise(1, networks.seeded(2)).expand(5, -1, -1, -1)
    assert np.abs(pixels(coder.way(one, two, 5, arc=arc, seed=2)) - drawn(coder, codes, noise)).max() <= 0.51


def test_a_trait_changes_a_person_and_nothing_of_it_leaves_them(coder: Coder) -> None:
    code = networks.randn(networks.CODE)
    for trait in TRAITS:
        made = pixels(coder.trait(code, trait, [-1.0, 0.0, 1.0], seed=2))
        assert np.array_equal(made[1], pixels(coder.noises(code, 1, seed=2))[0])
        assert not np.array_equal(made[0], made[2])


def test_people_who_do_not_exist_come_from_the_prior(coder: Coder) -> None:
    expected = coder._prior(torch.randn(1, networks.CODE, generator=networks.seeded(4)))[0]
    assert torch.allclose(coder.imagined(seed=4), expected, atol=1e-5)


def test_what_is_out_of_range_is_refused(coder: Coder) -> None:
    code = networks.randn(networks.CODE)
    with pytest.raises(ValueError, match=r"expected 1\.\.12 pictures, got 13"):
        coder.noises(code, 13)
    with pytest.raises(ValueError, match=r"expected 2\.\.12 pictures, got 1"):
        coder.way(code, code, 1)
    with pytest.raises(ValueError, match="unknown trait 'taller'; choose from brighter top"):
        coder.trait(code, "taller", [0.0])


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected generator\.safetensors of train-gen in"):
        Coder(tmp_path, [], []).codes([Image.new("RGB", (4, 8))])
