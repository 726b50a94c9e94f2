"""The inverter among torchreid's own tools: engines, weights, extractors, the command line, the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.generators.networks import generator, inverter, prior, rand, randn, same, snapshot
from tools.benchmark import main as benchmark
from tools.main import main as train_and_test
from torchreid_genext import checkpoints, compat, config, engine
from torchreid_genext.backbones.identity import IdentityBackbone, RefinedIdentityBackbone
from torchreid_genext.extraction import Encoder, extract
from torchreid_genext.generators.inverter import Inverter

pytestmark = pytest.mark.usefixtures("registered")
SIZE, CODE, CLASSES = (16, 8), 5, 12
KINDS = {"genid": IdentityBackbone, "genid_refined": RefinedIdentityBackbone}
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny inverter, whose codes all have one length, with generator and prior."""
    folder = tmp_path_factory.mktemp("weights")
    inverter(image_size=SIZE, unit=True).save(folder / "inverter.safetensors")
    generator(image_size=SIZE).save(folder / "generator.safetensors")
    prior().save(folder / "prior.safetensors")
    whole = (folder / "inverter.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    return folder


def trained(files: Path, kind: str = "genid", **options: Any) -> IdentityBackbone:
    """With the weights of the files, in evaluation mode."""
    network = checkpoints.read_metadata(files / "inverter.safetensors")["network"]
    model = KINDS[kind](CLASSES, **options, **network)
    checkpoints.load_weights(model, files / "inverter.safetensors")
    if kind == "genid_refined":
        model.use(generator(image_size=SIZE), steps=3)
    return model.eval()


def pixels(count: int) -> Tensor:
    """(count, 16, 8, 3) uint8."""
    return (255 * rand(count, *SIZE, 3)).byte()


def words(folder: Path, **more: Any) -> list[str]:
    """Keys of a short run without GPU and loading processes."""
    fixed = {"data.height": 16, "data.width": 8, "data.workers": 0, "use_gpu": False, "train.max_epoch": 1}
    run = {"train.batch_size": 16, "data.save_dir": folder, "model.name": "genid"}
    named = {name.replace("__", "."): value for name, value in more.items()}
    return [str(word) for pair in (fixed | run | named).items() for word in pair]


def arguments(root: Path, folder: Path, **more: Any) -> list[str]:
    return ["-t", "synthreid_tiny", "--root", str(root), *words(folder, **more)]


# Engines


def run_engine(root: Path, folder: Path, model: nn.Module, **more: Any) -> None:
    data = {"sources": ["synthreid_tiny"], "targets": ["synthreid_tiny"], "root": str(root)}
    cfg = config.load_config(opts=words(folder, train__print_freq=1, train__lr=0.03, **more), **data)
    compat.set_random_seed(0)
    images = engine.build_datamanager(cfg)
    optimizer = compat.build_optimizer(model, **config.optimizer_kwargs(cfg))
    schedule = compat.build_lr_scheduler(optimizer, **config.lr_scheduler_kwargs(cfg))
    engine.build_engine(cfg, images, model, optimizer, schedule).run(**config.run_kwargs(cfg))


TRIPLET = {"loss__triplet__weight_x": 1.0, "sampler__train_sampler": "RandomIdentitySampler"}


@pytest.mark.parametrize(
    ("loss", "terms", "more"), [("softmax", ["loss"], {}), ("triplet", ["loss_t", "loss_x"], TRIPLET)]
)
def test_torchreids_engines_train_and_test_it(
    files: Path,
    reid_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    loss: str,
    terms: list[str],
    more: dict[str, Any],
) -> None:
    model = trained(files, loss=loss)
    before = snapshot(model)
    run_engine(reid_data, tmp_path, model, train__max_epoch=8, loss__name=loss, **more)
    printed = capsys.readouterr().out
    for term in terms:
        values = [float(value) for value in re.findall(rf"\b{term} ([\d.]+)", printed)]
        quarter = len(values) // 4
        assert np.mean(values[-quarter:]) < 0.95 * np.mean(values[:quarter])
    assert not any(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert "obtained 39-by-5 matrix" in printed and "Rank-1" in printed


def test_while_torchreid_holds_the_base_only_the_classifier_learns(
    files: Path, reid_data: Path, tmp_path: Path
) -> None:
    model = trained(files)
    before = snapshot(model)
    run_engine(reid_data, tmp_path, model, train__fixbase_epoch=1)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert {name.split(".")[0] for name in changed} == {"classifier"}


def test_the_network_behind_dataparallel_trains_and_its_checkpoint_fits_one_without(
    files: Path, reid_data: Path, tmp_path: Path
) -> None:
    model = nn.DataParallel(trained(files))
    run_engine(reid_data, tmp_path, model)
    alone = IdentityBackbone(3, widths=(4, 6), image_size=(8, 4)).eval()
    checkpoints.load_weights(alone, tmp_path / "model" / "model.pth.tar-1")
    x = randn(2, 3, *SIZE)
    torch.testing.assert_close(alone(x), model(x))
    checkpoints.load_weights(model, files / "inverter.safetensors")
    torch.testing.assert_close(model(x), trained(files)(x))


# Weights


def hosts_checkpoint(model: nn.Module, folder: Path) -> str:
    """What torchreid's engines write, with a number that torch reads back since 2.6."""
    state = {"state_dict": model.state_dict(), "epoch": 1, "rank1": 0.5, "optimizer": {}, "scheduler": {}}
    compat.host().utils.save_checkpoint(state, str(folder))
    return str(folder / "model.pth.tar-1")


def test_weights_go_through_torchreids_own_functions(files: Path, tmp_path: Path) -> None:
    model = trained(files)
    again = IdentityBackbone(3, **model.config).eval()
    compat.host().utils.load_pretrained_weights(again, hosts_checkpoint(model, tmp_path))
    x = randn(2, 3, *SIZE)
    assert torch.equal(again(x), model(x)) and again.classifier[-1].out_features == 3


def test_torchreid_does_not_go_on_with_half_of_the_weights(files: Path, tmp_path: Path) -> None:
    model = trained(files)
    file = hosts_checkpoint(model, tmp_path)
    for other in ({"widths": [4, 6, 10]}, {"unit": False}):
        again = IdentityBackbone(3, **{**model.config, **other})
        before = snapshot(again)
        with pytest.raises(ValueError, match=r"expected weights of .*checkpoints\.load_weights takes the si"):
            compat.host().utils.load_pretrained_weights(again, file)
        assert same(again, before)


def test_torchreids_checkpoint_decides_on_the_size_and_the_length_of_codes(
    files: Path, tmp_path: Path
) -> None:
    model = trained(files)
    again = compat.build_model("genid", 3).double().eval()
    left_out = checkpoints.load_weights(again, hosts_checkpoint(model, tmp_path))
    assert again.config == model.config and all(name.startswith("classifier") for name in left_out)
    x = randn(2, 3, *SIZE)
    torch.testing.assert_close(again(x.double()), model(x), rtol=1e-4, atol=1e-4)
    assert again.stem.weight.dtype == torch.float64 and again.classifier[-1].out_features == 3


def test_a_file_of_weights_is_a_model(files: Path) -> None:
    x = randn(2, 3, *SIZE)
    model = IdentityBackbone.load(files / "inverter.safetensors")
    assert torch.equal(model(x), trained(files)(x))


@pytest.mark.parametrize("kind", ["generator", "prior"])
def test_weights_of_another_kind_are_named(files: Path, kind: str) -> None:
    model = trained(files)
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"expected weights of kind 'inverter', got .*{kind}\.safetensors"):
        checkpoints.load_weights(model, files / f"{kind}.safetensors")
    assert same(model, before)


def test_truncated_weights_are_named_and_change_nothing(files: Path) -> None:
    model = trained(files)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"expected a whole file of tensors, got .*truncated\.safetensors"):
        checkpoints.load_weights(model, files / "truncated.safetensors")
    assert same(model, before)


# Extractors


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Three PNGs of 30 x 20 pixels."""
    arrays = (255 * rand(3, 30, 20, 3)).byte().numpy()
    paths = [str(tmp_path / f"{i}.png") for i in range(len(arrays))]
    for path, array in zip(paths, arrays):
        Image.fromarray(array).save(path)
    return paths


def resized(paths: list[str], size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) in [0, 1]."""
    opened = [Image.open(path).resize(size[::-1], Image.Resampling.BILINEAR) for path in paths]
    return torch.from_numpy(np.stack(opened)).permute(0, 3, 1, 2) / 255


def extractor(size: tuple[int, int], path: str = "", **options: Any) -> Any:
    build = compat.host().utils.FeatureExtractor
    return build(model_name="genid", model_path=path, image_size=size, device="cpu", **options)


def test_torchreids_extractor_gives_codes_of_image_files(
    tmp_path: Path, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    official = IdentityBackbone(2).eval()
    codes = extractor((64, 32), hosts_checkpoint(official, tmp_path))(images)
    assert "params: 12,641,600" in capsys.readouterr().out
    with torch.no_grad():
        torch.testing.assert_close(codes, official.code(resized(images, (64, 32))))


def test_torchreids_extractor_takes_weights_of_any_size(files: Path, images: list[str]) -> None:
    found = extractor(SIZE, verbose=False)
    checkpoints.load_weights(found.model, files / "inverter.safetensors")
    free = Inverter.load(files / "inverter.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found(images), free(resized(images, SIZE)), rtol=1e-4, atol=1e-5)


def test_complexity_is_that_of_the_path_to_the_code(files: Path) -> None:
    layers = {name: p for name, p in trained(files).named_parameters() if "classifier" not in name}
    size = (1, 3, *SIZE)
    found = [compat.compute_model_complexity(trained(files, kind), size) for kind in KINDS]
    assert found[0] == found[1] and found[0][0] == sum(p.numel() for p in layers.values())
    assert found[0][1] > sum(p.numel() for name, p in layers.items() if name.startswith("dense"))


@pytest.mark.parametrize("kind", KINDS)
def test_faster_extraction_stays_close_to_the_exact_one(files: Path, kind: str) -> None:
    model, x = trained(files, kind), pixels(5)
    size = {"height": 16, "width": 8}
    exact = Encoder(model, kind, **size)(x)
    torch.testing.assert_close(exact, model((x.permute(0, 3, 1, 2) / 255 - MEAN) / STD).detach())
    torch.testing.assert_close(Encoder(model, kind, channels_last=True, **size)(x), exact)
    for channels_last in (False, True):
        fast = Encoder(model, kind, precision="bf16", channels_last=channels_last, **size)(x)
        assert 0 < (fast - exact).norm() < 0.03 * exact.norm()


def test_compilers_meet_the_descent_only_once() -> None:
    small = {"widths": (4, 6), "depth": 1, "image_size": (4, 2), "code_width": CODE}
    model = RefinedIdentityBackbone(CLASSES, generator=generator(**small), **small).eval()
    x = randn(2, 3, 4, 2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = torch.compile(model, backend="eager", dynamic=False)
        found = [compiled(x), compiled(x)]
    for codes in found:
        torch.testing.assert_close(codes, model(x))


def test_the_callers_generator_is_left_alone(files: Path) -> None:
    model, mine = trained(files, "genid_refined"), generator(image_size=SIZE).train()
    model.use(mine, steps=2)
    x = randn(2, 3, *SIZE)
    first = model(x)
    assert mine.training and all(p.requires_grad for p in mine.parameters())
    nn.init.zeros_(mine.denoiser.unet.down[0][0].conv1.weight)
    assert torch.equal(model(x), first)


def test_the_generator_follows_images_to_their_device_even_where_no_gradients_are_meant(files: Path) -> None:
    model, x = trained(files, "genid_refined").to("meta"), randn(2, 3, *SIZE).to("meta")
    with torch.inference_mode():
        assert model(x).shape == (2, CODE) and model(x).device == x.device


def test_cached_codes_are_told_apart_by_all_they_depend_on(
    files: Path, images: list[str], tmp_path: Path
) -> None:
    def computed(model: nn.Module) -> int:
        encoder = Encoder(model, "same", height=16, width=8)
        return extract(encoder, images, cache_dir=tmp_path / "cache", workers=0, progress=False).computed

    refined, plain = trained(files, "genid_refined"), trained(files)
    longer = IdentityBackbone(CLASSES, **{**plain.config, "unit": False})
    super(IdentityBackbone, longer).load_state_dict(plain.state_dict())
    assert [computed(model) for model in (plain, longer, plain)] == [3, 3, 0]
    for norm in ({"norm_mean": [0.4, 0.5, 0.5]}, {"norm_std": [0.2, 0.3, 0.3]}):
        normal = IdentityBackbone(CLASSES, **plain.config, **norm)
        super(IdentityBackbone, normal).load_state_dict(plain.state_dict())
        assert [computed(model) for model in (normal, normal, plain)] == [3, 0, 0]
        assert normal.fingerprint != plain.fingerprint
    v, noise = (generator(image_size=SIZE, prediction=prediction) for prediction in ("v", "eps"))
    noise.load_state_dict(v.state_dict())
    turned = generator(image_size=SIZE)
    turned.load_state_dict({name: t.flip(0) if t.ndim else t for name, t in v.state_dict().items()})
    for made, options in ((v, {}), (noise, {}), (turned, {}), (v, {"steps": 2}), (v, {"times": [0.4]})):
        refined.use(made, **{"steps": 1, **options})
        assert (computed(refined), computed(refined)) == (3, 0)


# Command lines


def results(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith(("mAP", "Rank"))]


def test_what_the_command_line_trained_is_tested_and_resumed_from_its_files_alone(
    files: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = files / "inverter.safetensors"
    train_and_test(arguments(reid_data, tmp_path / "train", model__load_weights=weights))
    printed = capsys.readouterr().out
    free = Inverter.load(weights)
    assert f"Model genid: {sum(p.numel() for p in free.parameters()):,} parameters" in printed
    for name in ("model.safetensors", "model/model.pth.tar-1"):
        file = tmp_path / "train" / name
        options = {"model__load_weights": file, "test__evaluate": True}
        train_and_test(arguments(reid_data, tmp_path / "test", **options))
        assert results(capsys.readouterr().out) == results(printed) != []
    train_and_test(arguments(reid_data, tmp_path / "more", model__resume=file, train__max_epoch=2))
    last = tmp_path / "more" / "model" / "model.pth.tar-2"
    assert float(torch.load(last, weights_only=False)["optimizer"]["state"][0]["step"]) == 2 * 5
    before, after = checkpoints.safe_load(file), checkpoints.safe_load(last)
    assert not any(torch.equal(before[name], after[name]) for name, _ in free.named_parameters())


def test_resuming_leaves_the_parameters_to_their_optimizer(
    files: Path, reid_data: Path, tmp_path: Path
) -> None:
    model = trained(files)
    run_engine(reid_data, tmp_path, model)
    other = IdentityBackbone(CLASSES, **{**model.config, "widths": [4, 6, 10]})
    optimizer = compat.build_optimizer(other)
    schedule = compat.build_lr_scheduler(optimizer)
    with pytest.raises(ValueError, match=r"expected weights of IdentityBackbone, got .*of another shape"):
        checkpoints.resume_training(tmp_path / "model" / "model.pth.tar-1", other, optimizer, schedule)


@pytest.mark.parametrize(
    ("message", "keys"),
    [
        ("set data.height 16 and data.width 8", {"data__height": 32}),
        ("genext.inverter.refine.generator, a trained generator, got none", {"model__name": "genid_refined"}),
    ],
)
def test_the_command_line_refuses_before_training(
    files: Path, reid_data: Path, tmp_path: Path, message: str, keys: dict[str, Any]
) -> None:
    options = {"model__load_weights": files / "inverter.safetensors", **keys}
    with pytest.raises(ValueError, match=message):
        train_and_test(arguments(reid_data, tmp_path, **options))
    assert not (tmp_path / "model").exists()


def test_the_benchmark_measures_both_and_reuses_what_it_extracted(
    files: Path, reid_data: Path, tmp_path: Path
) -> None:
    weights = files / "inverter.safetensors"
    models = [f"plain=genid@{weights}", f"refined=genid_refined@{weights}"]
    options = {
        "genext__benchmark__models": models, "genext__benchmark__chains": ["base"],
        "genext__benchmark__bootstrap": 0, "genext__benchmark__pictures": False,
        "genext__inverter__refine__generator": files / "generator.safetensors",
        "genext__inverter__refine__steps": 1,
    }  # fmt: skip
    found = []
    for step_size in (0.05, 0.5):
        options["genext__inverter__refine__step_size"] = step_size
        benchmark(arguments(reid_data, tmp_path, **options))
        report = json.loads((tmp_path / "report.json").read_text())
        found.append({model["label"]: model for model in report["models"]})
    plain, refined = ([run[label] for run in found] for label in ("plain", "refined"))
    assert [len(model["chains"]) for model in (*plain, *refined)] == [1] * 4
    assert plain[0]["chains"][0]["mAP"] == plain[1]["chains"][0]["mAP"]
    assert refined[0]["chains"][0]["mAP"] != refined[1]["chains"][0]["mAP"]
    assert len({model["chains"][0]["mAP"] for model in (plain[0], *refined)}) == 3


def test_the_benchmark_names_the_size_that_weights_ask_for(
    files: Path, reid_data: Path, tmp_path: Path
) -> None:
    options = {"model__load_weights": files / "inverter.safetensors", "data__height": 64, "data__workers": 2}
    with pytest.raises(ValueError, match=r"expected data\.height 16 and data\.width 8.*got 64 and 8$"):
        benchmark(arguments(reid_data, tmp_path, **options))


# Generators that do not fit


def test_generators_that_do_not_fit_are_refused(files: Path) -> None:
    model = trained(files, "genid_refined")
    with pytest.raises(ValueError, match=r"expected genext\.inverter\.refine\.generator.*got none"):
        model.configure((0, 0, 0), (1, 1, 1), steps=3)
    with pytest.raises(ValueError, match=r"expected a file of kind 'identity', got .* of 'inverter'"):
        model.configure((0, 0, 0), (1, 1, 1), generator=str(files / "inverter.safetensors"))
    with pytest.raises(ValueError, match=r"expected times in 0\.\.1, got \[2\]"):
        model.use(generator(image_size=SIZE), times=[2])
    for other, told in (({"code_width": 7}, "16 x 8 from 7"), ({"image_size": (8, 4)}, "8 x 4 from 5")):
        model.use(generator(**{"image_size": SIZE, **other}))
        with pytest.raises(ValueError, match=f"a generator of images 16 x 8 from codes of 5.*got {told}"):
            model(randn(2, 3, *SIZE))


def test_a_network_without_weights_has_the_size_that_the_configuration_says() -> None:
    cfg = config.get_default_config()
    cfg.genext.training.image_size, cfg.genext.inverter.hidden = [16, 8], [9]
    cfg.genext.identity.widths, cfg.genext.identity.code_width = [4, 6, 8], 5
    model = config.configure_model(compat.build_model("genid", 7, loss="triplet", pretrained=False), cfg)
    assert model.config == {
        "widths": [4, 6, 8], "depth": 2, "code_width": 5, "hidden": [9], "image_size": [16, 8], "unit": False,
    }  # fmt: skip
    logits, code = model.train()(torch.rand(3, 3, 16, 8))
    assert logits.shape == (3, 7) and code.shape == (3, 5)
