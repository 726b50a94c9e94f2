"""The models of GenerativePersonReID against recordings of the official code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.conformance.conftest import vectors
from torchreid_genext import checkpoints
from torchreid_genext.generators import _diffusion
from torchreid_genext.generators._diffusion import AngleSchedule, Normalizer
from torchreid_genext.generators.identity import (
    OFFICIAL_WIDTHS,
    IdentityDenoiser,
    IdentityGenerator,
    denoising_loss,
)
from torchreid_genext.generators.inverter import Inverter, NoiseInverter
from torchreid_genext.generators.prior import CodePrior

AUXILIARY = load_file(vectors("systems") / "genreid_aux.safetensors")
ARCHITECTURE = json.loads((vectors("systems") / "genreid_arch.json").read_text())
NETWORKS = vectors("systems") / "genreid_unet_small.safetensors"
OFFICIAL_PRIOR = Path(__file__).resolve().parents[3] / "shared" / "data" / "auxiliary_generator.hdf5"


def tolerances(file: str) -> dict[str, float]:
    """Every ``name: |d|<=number`` or ``name number`` of the manifest's sentence, by name."""
    text = json.loads((vectors("systems") / "MANIFEST.json").read_text())[file]["tolerance"]
    found = re.findall(r"([\w/*]+?):? (?:\|d\|<=|abs |relative )*(\d+e-\d+)", text)
    return {name: float(number) for name, number in found}


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert (found.double() - wanted.double()).abs().max() <= tolerance


def test_rates_over_time() -> None:
    rates = AngleSchedule()(AUXILIARY["sched/t"])
    tolerance = tolerances("genreid_aux.safetensors")["sched"]
    close(rates.signal, AUXILIARY["sched/signal_rate"], tolerance)
    close(rates.noise, AUXILIARY["sched/noise_rate"], tolerance)


@pytest.mark.parametrize("width", [int(name[7:]) for name in AUXILIARY if re.fullmatch(r"sin/emb\d+", name)])
def test_embedding_of_the_noise_variance(width: int) -> None:
    variance = AUXILIARY["sin/noise_variance"]
    exact = _diffusion.sinusoidal(variance.double(), width)
    close(exact, AUXILIARY[f"sin/emb{width}_float64"], 1e-9)
    rounded = _diffusion.sinusoidal(variance, width)
    close(rounded, AUXILIARY[f"sin/emb{width}"], 2e-3)  # what float32 phases leave of the official one


@pytest.fixture(scope="module")
def prior() -> CodePrior:
    if not OFFICIAL_PRIOR.is_file():
        pytest.skip("needs the official auxiliary_generator.hdf5 (2.4 MB, research use)")
    found = CodePrior.from_official(OFFICIAL_PRIOR)
    mean, variance = AUXILIARY["aux/normalizer_data_mean"], AUXILIARY["aux/normalizer_data_variance"]
    found.normalizer = Normalizer(mean, variance)
    return found


def test_official_prior_predicts_as_recorded(prior: CodePrior) -> None:
    variance = AUXILIARY["aux/noise_variance"].flatten()
    found = prior.predict(AUXILIARY["aux/x"], variance)
    close(found, AUXILIARY["aux/pred"], tolerances("genreid_aux.safetensors")["aux/pred"])


@pytest.mark.parametrize(
    ("name", "steps"), [(n, int(s)) for n in AUXILIARY for s in re.findall(r"reverse(\d+)_normalized", n)]
)
def test_official_prior_draws_the_recorded_codes(prior: CodePrior, name: str, steps: int) -> None:
    found = prior.generate_normalized(AUXILIARY["aux/z"], steps=steps)
    close(found, AUXILIARY[name], 5e-4)
    denormalized = name.replace("_normalized", "_denormalized")
    if denormalized in AUXILIARY:
        scale = AUXILIARY["aux/normalizer_data_variance"].sqrt().max()
        close(prior(AUXILIARY["aux/z"], steps=steps), AUXILIARY[denormalized], 5e-4 * max(1, float(scale)))


def count(network: nn.Module) -> int:
    """Parameters and statistics, as Keras counts them."""
    statistics = [b for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var"))]
    return sum(tensor.numel() for tensor in [*network.parameters(), *statistics])


def test_official_widths_have_the_official_number_of_parameters() -> None:
    assert count(IdentityDenoiser(OFFICIAL_WIDTHS)) == ARCHITECTURE["param_count_denoiser"]
    assert count(NoiseInverter(OFFICIAL_WIDTHS)) == ARCHITECTURE["param_count_unet"]
    assert count(Inverter(OFFICIAL_WIDTHS)) == ARCHITECTURE["param_count_embedder"]
    assert sum(p.numel() for p in CodePrior().parameters()) == 592_416


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    if not NETWORKS.is_file():
        pytest.skip("needs genreid_unet_small.safetensors (5 MB, no copy here)")
    return load_file(NETWORKS)


def widths() -> list[int]:
    with safe_open(NETWORKS, "pt") as file:
        return json.loads(file.metadata()["depths"])


def from_keras(network: nn.Module, recorded: dict[str, Tensor], prefix: str) -> None:
    """Fill a network of ours; names differ in their last part only."""
    parts = {"kernel": "weight", "bias": "bias"}
    parts |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    for name in recorded:
        if name.startswith(prefix):
            layer, part = name.removeprefix(prefix).rsplit(".", 1)
            layer = re.sub(r"^fc(\d)$", lambda match: f"dense.{int(match[1]) - 1}", layer)
            state[f"{layer}.{parts[part]}"] = ours(recorded[name])
    checkpoints.fill(network, state, prefix)


def ours(tensor: Tensor) -> Tensor:
    """Kernels (H, W, in, out) and (in, out) to torch's order."""
    orders = {4: (3, 2, 0, 1), 2: (1, 0)}
    return tensor.permute(orders.get(tensor.ndim, (0,))).contiguous()


def chw(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


@pytest.fixture
def generator(recorded: dict[str, Tensor]) -> IdentityGenerator:
    table = recorded["label_table_rows_0_32"]
    mean, variance = recorded["norm_mean"].tolist(), recorded["norm_var"].tolist()
    made = IdentityGenerator(len(table), widths=widths(), prediction="eps", mean=mean, variance=variance)
    from_keras(made.denoiser.unet, recorded, "denoiser/")
    made.table.weight.data.copy_(table)
    return made.eval()


def test_denoiser_answers_as_recorded(generator: IdentityGenerator, recorded: dict[str, Tensor]) -> None:
    arguments = chw(recorded["noisy"]), recorded["noise_variance"].flatten(), recorded["id_embedding"]
    tolerance = tolerances(NETWORKS.name)["out/loss"]
    close(generator.denoiser(*arguments), chw(recorded["out"]), tolerance)
    close(generator.denoiser.train()(*arguments), chw(recorded["out_training_mode"]), tolerance)


def test_table_gives_the_recorded_codes(generator: IdentityGenerator, recorded: dict[str, Tensor]) -> None:
    known = recorded["label_ids"] < generator.table.num_embeddings
    close(generator.table(recorded["label_ids"][known]), recorded["label_emb"][known], 0)


def test_generated_people_equal_the_recorded_ones(
    generator: IdentityGenerator, recorded: dict[str, Tensor]
) -> None:
    noise, code = chw(recorded["gen_noise"]), recorded["id_embedding"]
    relative = tolerances(NETWORKS.name)["gen_*"]
    found, wanted = generator.generate_normalized(code, noise, steps=10), chw(recorded["gen_normalized"])
    tolerance = relative * wanted.abs().max().item()
    close(found, wanted, tolerance)
    # Untrained networks answer with large values; what is left of them in [0, 1] has their error.
    contrast = generator.normalizer.variance.sqrt().max().item()
    close(generator(code, noise, steps=10), chw(recorded["gen_image"]), tolerance * contrast)
    wanted = chw(recorded["gen_from_label"])
    from_label = generator.generate_normalized(recorded["label_emb"], noise, steps=10)
    close(from_label, wanted, relative * wanted.abs().max().item())


def test_normalised_images_equal_the_recorded_ones(
    generator: IdentityGenerator, recorded: dict[str, Tensor]
) -> None:
    close(generator.normalizer(chw(recorded["norm_in"])), chw(recorded["norm_out"]), 1e-5)


def test_noise_inverter_and_inverter_answer_as_recorded(recorded: dict[str, Tensor]) -> None:
    unet, inverter = NoiseInverter(widths()), Inverter(widths())
    from_keras(unet.unet, recorded, "unet/")
    from_keras(inverter, recorded, "embedder/")
    images = chw(recorded["embedder_in"])
    close(inverter.eval()(images), recorded["embedder_out"], 1e-5)
    close(unet.eval()(images), chw(recorded["unet_out"]), 1e-5)


def test_loss_equals_the_recorded_one(generator: IdentityGenerator, recorded: dict[str, Tensor]) -> None:
    images, noise, t = chw(recorded["loss/images"]), chw(recorded["loss/noise"]), recorded["loss/t"].flatten()
    rates, tolerance = generator.schedule(t), tolerances(NETWORKS.name)["out/loss"]
    noisy = rates.mix(generator.normalizer(images), noise)
    close(noisy, chw(recorded["loss/noisy"]), 1e-5)
    code = recorded["id_embedding"]
    predicted = generator.denoiser(noisy, rates.noise**2, code)
    close(predicted, chw(recorded["loss/pred_noise"]), tolerance)
    ours = denoising_loss(generator, images, code, t, noise, loss="l1")
    close(ours, recorded["loss/noise_loss_map"].mean((1, 2)), tolerance)
    pixels = recorded["loss/noise_loss_map"][0].numel()
    pull = code.square().mean(1)
    close(ours + 0.5 * pull / pixels, recorded["loss/total_per_sample"] / pixels, tolerance)
    close(0.5 * pull, recorded["loss/reg_per_sample"], 1e-5)
