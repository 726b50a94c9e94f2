from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import reference
from tests.generators.networks import CODE, arrays, prior, rand, randn
from torchreid_genext.generators.identity import IdentityTable
from torchreid_genext.generators.prior import CodePrior, prior_loss


def naive(made: CodePrior):
    """The prior's answer to one normalised code, in NumPy."""
    state, width, last = arrays(made), made.embedding_width, len(made.layers) - 1

    def predict(noisy: np.ndarray, noise: float) -> np.ndarray:
        x = noisy
        for i in range(last + 1):
            x = state[f"layers.{i}.weight"] @ x + state[f"layers.{i}.bias"]
            if i < last:
                x = np.concatenate([x / (1 + np.exp(-x)), reference.sinusoidal(noise**2, width)])
        return x

    def denoise(noisy: np.ndarray, signal: float, noise: float):
        return reference.taken_apart("signal", predict(noisy, noise), noisy, signal, noise)

    return predict, denoise


@pytest.mark.parametrize("layers", (1, 3))
def test_codes_equal_those_drawn_one_by_one_in_numpy(layers: int) -> None:
    made, noise = prior(layers=layers, max_signal_rate=0.9, min_signal_rate=0.1), randn(3, CODE, seed=1)
    made.fit_normalizer(2 + 3 * randn(30, CODE))
    ends = {"max_signal_rate": 0.9, "min_signal_rate": 0.1}
    wanted = np.array([reference.sampled(naive(made)[1], z, 6, **ends) for z in noise.double().numpy()])
    found = made.generate_normalized(noise, steps=6).detach()
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)
    state = arrays(made)
    wanted = state["normalizer.mean"] + np.sqrt(state["normalizer.variance"]) * wanted
    np.testing.assert_allclose(made(noise, steps=6).detach(), wanted, atol=1e-3, rtol=1e-3)


def test_loss_equals_its_formula_code_by_code() -> None:
    made, codes, noise, t = prior(), 2 + randn(3, CODE), randn(3, CODE, seed=1), torch.tensor([0.0, 0.4, 1.0])
    made.fit_normalizer(2 + 3 * randn(30, CODE, seed=2))
    mean, variance = arrays(made)["normalizer.mean"], arrays(made)["normalizer.variance"]
    wanted = []
    for code, e, time in zip(codes.double().numpy(), noise.double().numpy(), t.tolist()):
        x, (s, n) = (code - mean) / np.sqrt(variance), reference.diffusion_rates(time)
        wanted.append(np.mean(np.abs(naive(made)[0](s * x + n * e, n) - x)))
    np.testing.assert_allclose(prior_loss(made, codes, t, noise).detach(), wanted, rtol=1e-4)


def test_statistics_are_of_each_dimension_over_all_codes_and_travel_with_the_file(tmp_path: Path) -> None:
    made, codes = prior(), 2 + 3 * rand(30, CODE)
    made.fit_normalizer(codes)
    np.testing.assert_allclose(made.normalizer.mean, codes.double().numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(made.normalizer.variance, codes.double().numpy().var(0), rtol=1e-5)
    loaded = CodePrior.load(made.save(tmp_path / "prior.safetensors", half=True))
    assert torch.equal(loaded.normalizer.mean, made.normalizer.mean)
    assert torch.equal(loaded.normalizer.variance, made.normalizer.variance)


def test_statistics_of_parameters_have_no_graph_and_stay_where_the_prior_is() -> None:
    made = prior()
    made.fit_normalizer(IdentityTable(6, CODE).weight)
    assert not made.normalizer.mean.requires_grad
    elsewhere = made.to("meta")
    elsewhere.fit_normalizer(randn(6, CODE))
    assert elsewhere.normalizer.mean.device.type == elsewhere.normalizer.variance.device.type == "meta"


@pytest.mark.parametrize("shape", ((0, CODE), (4, CODE + 1), (CODE,)))
def test_codes_that_cannot_be_fitted_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected one or more codes \(N, 5\), got \("):
        prior().fit_normalizer(torch.zeros(shape))


def test_fresh_prior_does_not_change_units() -> None:
    made, noise = prior(), randn(3, CODE)
    assert torch.equal(made(noise, steps=4), made.generate_normalized(noise, steps=4))


def test_codes_do_not_depend_on_the_batch_and_no_step_is_refused() -> None:
    made, noise = prior(), randn(4, CODE)
    alone = [made(z[None]) for z in noise]
    torch.testing.assert_close(made(noise), torch.cat(alone), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        made(noise, steps=0)


def as_keras(made: CodePrior) -> dict[str, np.ndarray]:
    arrays = {}
    for i, layer in enumerate(made.layers):
        name = f"dense_{i}" if i else "dense"
        arrays[f"{name}/{name}/kernel:0"] = layer.weight.detach().numpy().T
        arrays[f"{name}/{name}/bias:0"] = layer.bias.detach().numpy()
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_file_as_keras_writes_it_is_read_layer_by_layer(tmp_path: Path) -> None:
    made = CodePrior()
    found = CodePrior.from_official(write(tmp_path / "prior.hdf5", as_keras(made)))
    for ours, theirs in zip(found.layers, made.layers):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
    assert not found.training
    assert not found.normalizer.mean.any() and (found.normalizer.variance == 1).all()


def test_another_hdf5_file_is_told_what_it_lacks(tmp_path: Path) -> None:
    arrays = as_keras(CodePrior())
    arrays["dense_1/dense_1/gain:0"] = arrays.pop("dense_1/dense_1/bias:0")
    arrays["dense_3/dense_3/kernel:0"] = arrays["dense_3/dense_3/kernel:0"][:, :7]
    path = write(tmp_path / "wrong.hdf5", arrays)
    with pytest.raises(ValueError, match="expected weights of CodePrior, got .*wrong.hdf5") as error:
        CodePrior.from_official(path)
    assert "1 missing (layers.1.bias)" in str(error.value)
    assert "1 unexpected (dense_1/dense_1/gain:0)" in str(error.value)
    assert "layers.3.weight (7, 544) instead of (32, 544)" in str(error.value)


def test_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    (tmp_path / "text.hdf5").write_text("not HDF5")
    with pytest.raises(ValueError, match="text.hdf5"):
        CodePrior.from_official(tmp_path / "text.hdf5")
    with pytest.raises(FileNotFoundError, match="nowhere.hdf5"):
        CodePrior.from_official(tmp_path / "nowhere.hdf5")


def test_without_h5py_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        CodePrior.from_official(tmp_path / "prior.hdf5")


def test_codes_drawn_under_bfloat16_stay_float32() -> None:
    made, noise = prior(), randn(3, CODE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = made(noise, steps=3)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, made(noise, steps=3), atol=0.1, rtol=0.05)
