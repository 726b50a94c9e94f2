from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.generators import networks
from torchreid_genext import checkpoints
from torchreid_genext.generators._saving import Saved
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, NoiseInverter
from torchreid_genext.generators.prior import CodePrior


def generator() -> IdentityGenerator:
    settings = {"prediction": "eps", "mean": (0.1, 0.2, 0.3), "variance": (0.4, 0.5, 0.6)}
    made = networks.generator(**settings, max_signal_rate=0.9, min_signal_rate=0.1)
    made.trained[2] = False
    return made


def prior() -> CodePrior:
    made = networks.prior(layers=2, max_signal_rate=0.9, min_signal_rate=0.1)
    made.fit_normalizer(networks.randn(20, networks.CODE))
    return made


def noise_inverter() -> NoiseInverter:
    return networks.awake(NoiseInverter(networks.WIDTHS, depth=1, image_size=networks.SIZE))


NETWORKS = (generator, prior, networks.inverter, noise_inverter)


@pytest.mark.parametrize("make", NETWORKS)
def test_network_comes_back_to_the_last_bit(make: Callable[[], Saved], tmp_path: Path) -> None:
    network = make()
    assert network.save(tmp_path / "network.safetensors") == tmp_path / "network.safetensors"
    loaded = type(network).load(tmp_path / "network.safetensors")
    assert networks.same(loaded, network.state_dict())
    assert loaded.config == network.config and not loaded.training
    assert getattr(loaded, "schedule", None) == getattr(network, "schedule", None)
    assert getattr(loaded, "image_size", None) == getattr(network, "image_size", None)


@pytest.mark.parametrize("make", NETWORKS)
def test_half_of_the_size_keeps_statistics_and_biases_exact(
    make: Callable[[], Saved], tmp_path: Path
) -> None:
    network = make()
    whole = network.save(tmp_path / "whole.safetensors")
    half = network.save(tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < whole.stat().st_size
    for name, tensor in type(network).load(half).state_dict().items():
        wanted = network.state_dict()[name]
        assert tensor.dtype == wanted.dtype
        rounding = 2**-11 if wanted.is_floating_point() and wanted.ndim > 1 else 0.0
        torch.testing.assert_close(tensor, wanted, rtol=rounding, atol=2**-24 if rounding else 0.0)
        assert torch.equal(tensor, wanted) == (not rounding)


@pytest.mark.parametrize("make", NETWORKS)
def test_configuration_is_what_the_constructor_takes_after_json(make: Callable[[], Saved]) -> None:
    network = make()
    config = json.loads(json.dumps(network.config))
    assert config.keys() == inspect.signature(type(network)).parameters.keys()
    again = type(network)(**config)
    assert again.config == network.config == config
    shapes = [{name: t.shape for name, t in n.state_dict().items()} for n in (network, again)]
    assert shapes[0] == shapes[1]


def test_saving_changes_nothing_in_memory(tmp_path: Path) -> None:
    network = generator()
    before = networks.snapshot(network)
    network.save(tmp_path / "a.safetensors", half=True)
    assert networks.same(network, before)


def test_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    path = prior().save(tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match=r"of kind 'inverter', got .*prior\.safetensors of 'prior'"):
        Inverter.load(path)


def test_file_from_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path / "foreign.safetensors", {"weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"expected a file of kind 'prior', got .*foreign.* of None"):
        CodePrior.load(path)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    network = prior()
    metadata = {"kind": "prior", "network": {**network.config, "width": 10}}
    path = checkpoints.save(tmp_path / "other.safetensors", network.state_dict(), metadata)
    with pytest.raises(ValueError, match=r"expected weights of CodePrior.* of another shape"):
        CodePrior.load(path)


@pytest.mark.parametrize("kept", (0.0, 0.1, 0.9))
def test_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = prior().save(tmp_path / "prior.safetensors")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match="expected a whole file of tensors, got .*prior.safetensors"):
        CodePrior.load(path)


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CodePrior.load(tmp_path / "nowhere.safetensors")
