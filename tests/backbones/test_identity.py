"""The inverter as a torchreid model: what comes in, what comes out, whose weights fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generators.networks import CODE, SIZE, WIDTHS, awake, generator, inverter, rand, randn
from torchreid_genext import checkpoints, compat, config
from torchreid_genext.backbones.identity import IdentityBackbone, RefinedIdentityBackbone
from torchreid_genext.generators.inverter import refine

TINY = {"widths": WIDTHS, "image_size": SIZE, "code_width": CODE, "hidden": (9, 7)}
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def backbone(kind: type[IdentityBackbone] = IdentityBackbone, **options: Any) -> IdentityBackbone:
    return awake(kind(6, **TINY, **options))


def hosts(images: Tensor) -> Tensor:
    """As torchreid's transforms give them."""
    return (images - MEAN) / STD


def test_codes_are_those_of_the_inverter_for_images_that_the_host_has_normalised() -> None:
    images, model = rand(3, 3, *SIZE), backbone()
    free = inverter()
    free.load_state_dict({name: t for name, t in model.state_dict().items() if "classifier" not in name})
    torch.testing.assert_close(model(hosts(images)), free(images))
    plain = backbone(norm_mean=(0, 0, 0), norm_std=(1, 1, 1))
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(images), free(images))


def test_training_gives_what_the_engines_of_torchreid_ask_for() -> None:
    x = randn(3, 3, *SIZE)
    logits = backbone(loss="softmax").train()(x)
    assert logits.shape == (3, 6)
    logits, codes = backbone(loss="triplet").train()(x)
    assert logits.shape == (3, 6) and codes.shape == (3, CODE)
    assert backbone(loss="triplet")(x).shape == (3, CODE)


def test_weights_of_a_trained_inverter_fit_but_for_the_classifier(tmp_path: Path) -> None:
    trained, model = inverter(), backbone()
    left_out = checkpoints.load_weights(model, trained.save(tmp_path / "inverter.safetensors"))
    assert left_out and all(name.startswith("classifier") for name in left_out)
    images = rand(3, 3, *SIZE)
    torch.testing.assert_close(model(hosts(images)), trained(images))


@pytest.mark.usefixtures("registered")
def test_torchreid_builds_it_at_the_official_size() -> None:
    model = compat.build_model("genid", 3, loss="triplet")
    refined = compat.build_model("genid_refined", 3, loss="triplet")
    assert refined.state_dict().keys() == model.state_dict().keys()
    assert compat.compute_model_complexity(model, (1, 3, 64, 32))[0] > 12_000_000
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 64, 32\), got \(1, 3, 256, 128\)"):
        model.eval()(torch.zeros(1, 3, 256, 128))


def test_refined_codes_are_those_of_refine_and_training_leaves_them_alone() -> None:
    images, options = rand(3, 3, *SIZE), {"steps": 3, "step_size": 0.1}
    model, plain = backbone(RefinedIdentityBackbone), backbone()
    model.load_state_dict(plain.state_dict())
    model.use(made := generator(), **options)
    first = plain(hosts(images)).detach()
    torch.testing.assert_close(model(hosts(images)), refine(made, images, first, **options))
    assert not torch.allclose(model(hosts(images)), first)
    torch.testing.assert_close(model.train()(hosts(images)), plain.train()(hosts(images)))


def test_the_generator_is_no_part_of_the_weights() -> None:
    model = backbone(RefinedIdentityBackbone, generator=generator())
    assert model.state_dict().keys() == backbone().state_dict().keys()
    assert len(list(model.parameters())) == len(list(backbone().parameters()))


def test_refining_without_a_generator_names_the_key() -> None:
    with pytest.raises(ValueError, match=r"expected genext\.inverter\.refine\.generator"):
        backbone(RefinedIdentityBackbone)(randn(1, 3, *SIZE))


def test_weights_decide_on_the_size_of_the_network(tmp_path: Path) -> None:
    trained, images = inverter(unit=True), rand(2, 3, *SIZE)
    for kind in (IdentityBackbone, RefinedIdentityBackbone):
        model = kind(6, widths=(4, 8), image_size=(16, 8)).eval()
        checkpoints.load_weights(model, trained.save(tmp_path / "inverter.safetensors"))
        assert isinstance(model, kind) and model.config == trained.config and not model.training
        torch.testing.assert_close(IdentityBackbone.code(model, images), trained(images))


def test_what_the_host_saves_of_it_comes_back(tmp_path: Path) -> None:
    model, again = backbone(), IdentityBackbone(2, widths=(4, 8), image_size=(16, 8)).eval()
    path = checkpoints.save_backbone(tmp_path / "model.safetensors", model, {"config": "a: 1"})
    checkpoints.load_weights(again, path)
    x = randn(2, 3, *SIZE)
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.usefixtures("registered")
def test_keys_reach_the_model_and_tell_cached_codes_apart(tmp_path: Path) -> None:
    cfg = config.get_default_config()
    cfg.data.norm_mean, cfg.data.norm_std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    cfg.genext.training.image_size, cfg.genext.inverter.hidden = list(SIZE), list(TINY["hidden"])
    cfg.genext.identity.widths, cfg.genext.identity.code_width = list(WIDTHS), CODE
    cfg.genext.inverter.refine.generator = str(generator().save(tmp_path / "generator.safetensors"))
    found = []
    for steps in (2, 3):
        cfg.genext.inverter.refine.steps = steps
        found.append(config.configure_model(backbone(RefinedIdentityBackbone), cfg))
    images = rand(2, 3, *SIZE)
    torch.testing.assert_close(IdentityBackbone.code(found[0], images), plain_of(found[0])(images))
    assert found[0].fingerprint != found[1].fingerprint
    assert not torch.equal(found[0](images), plain_of(found[0])(images))


def plain_of(model: IdentityBackbone) -> IdentityBackbone:
    """The same without refinement, for images in [0, 1]."""
    plain = backbone(norm_mean=(0, 0, 0), norm_std=(1, 1, 1))
    plain.load_state_dict(model.state_dict())
    return plain


def test_unknown_loss_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown loss 'circle'; choose from softmax, triplet"):
        backbone(loss="circle")
