"""The command line: torchreid's numbers with every switch off, our files and errors with them on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from torchreid_genext import checkpoints, compat, config
from torchreid_genext.cli.main import main, parse_arguments
from torchreid_genext.cli.parsing import configuration
from torchreid_genext.data.filenames import parse

pytestmark = pytest.mark.usefixtures("registered")

# Images of 32 x 16 make an epoch a matter of seconds.
SMALL = {
    "model.name": "osnet_x0_25", "model.pretrained": False, "use_gpu": False,
    "data.height": 32, "data.width": 16, "data.workers": 0,
    "train.batch_size": 16, "train.max_epoch": 1, "train.lr": 0.001,
}  # fmt: skip


def run_main(root: Path, folder: Path, name: str = "synthreid_tiny", **keys: Any) -> None:
    options = {
        **SMALL,
        "data.save_dir": folder,
        **{key.replace("__", "."): value for key, value in keys.items()},
    }
    words = [str(word) for pair in options.items() for word in pair]
    main(["-s", name, "-t", name, "--transforms", "random_flip", "random_crop", "--root", str(root), *words])


def run_torchreid_alone(root: Path, folder: Path, name: str, kind: str, loss: str, sampler: str) -> None:
    """The same run in nothing but torchreid's interface, in the order of its own script."""
    host = compat.host()
    host.utils.set_random_seed(1)
    manager = {"image": host.data.ImageDataManager, "video": host.data.VideoDataManager}[kind]
    special = {"seq_len": 2} if kind == "video" else {}
    data = manager(
        root=str(root), sources=[name], targets=[name], height=32, width=16, batch_size_train=16,
        transforms=["random_flip", "random_crop"], use_gpu=False, batch_size_test=100, workers=0,
        train_sampler=sampler, **special,
    )  # fmt: skip
    model = host.models.build_model(
        "osnet_x0_25", data.num_train_pids, loss=loss, pretrained=False, use_gpu=False
    )
    host.utils.compute_model_complexity(model, (1, 3, 32, 16))
    optimizer = host.optim.build_optimizer(model, optim="adam", lr=0.001, adam_beta2=0.999)
    scheduler = host.optim.build_lr_scheduler(
        optimizer, lr_scheduler="single_step", stepsize=[20], max_epoch=1
    )
    special = {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0} if loss == "triplet" else {}
    build = getattr(host.engine, f"{kind.title()}{loss.title()}Engine")
    engine = build(data, model, optimizer, scheduler=scheduler, use_gpu=False, label_smooth=True, **special)
    engine.run(save_dir=str(folder), max_epoch=1, print_freq=20, open_layers=["classifier"])


def results(printed: str) -> str:
    """From the heading of the results to the last rank."""
    lines = printed[printed.index("** Results **") :].splitlines()
    return "\n".join(line for line in lines if line.startswith(("mAP", "Rank")))


@pytest.fixture
def tracklets(reid_data: Path) -> str:
    """SynthReID's images as a video data set: a tracklet is two images of one person, camera and sequence."""
    host = compat.host()

    def gathered(folder: Path) -> list[tuple[tuple[str, ...], int, int]]:
        groups: dict[tuple[int, int, int], list[str]] = {}
        for path in sorted(folder.glob("*.jpg")):
            record = parse(path)
            groups.setdefault((record.pid, record.camid, record.sequence), []).append(str(path))
        pairs = [(paths[i : i + 2], *key) for key, paths in groups.items() for i in range(0, len(paths), 2)]
        return [(tuple(paths), pid, camid) for paths, pid, camid, _ in pairs if pid >= 0]

    class Tracklets(host.data.VideoDataset):
        def __init__(self, root: str = "", **options: Any) -> None:
            folder = Path(root) / "synthreid_tiny"
            train, query, gallery = (
                gathered(folder / name) for name in ("bounding_box_train", "query", "bounding_box_test")
            )
            labels = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in train}))}
            super().__init__([(p, labels[pid], cam) for p, pid, cam in train], query, gallery, **options)

    registry = vars(host.data.datasets)["__video_datasets"]
    registry["tracklets"] = Tracklets
    yield "tracklets"
    del registry["tracklets"]


@pytest.mark.parametrize(
    ("kind", "loss", "sampler"),
    [
        ("image", "softmax", "RandomSampler"),
        ("image", "triplet", "RandomIdentitySampler"),
        ("video", "softmax", "RandomSampler"),
    ],
)
def test_with_every_switch_off_numbers_are_torchreids_own_bit_by_bit(
    reid_data: Path,
    tracklets: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    kind: str,
    loss: str,
    sampler: str,
) -> None:
    name = tracklets if kind == "video" else "synthreid_tiny"
    run_torchreid_alone(reid_data, tmp_path / "host", name, kind, loss, sampler)
    theirs = capsys.readouterr().out
    keys = {"data__type": kind, "loss__name": loss, "sampler__train_sampler": sampler, "video__seq_len": 2}
    run_main(reid_data, tmp_path / "ours", name, **keys)
    assert results(capsys.readouterr().out) == results(theirs)

    host, ours = (saved(tmp_path / run) for run in ("host", "ours"))
    assert ours["rank1"] == host["rank1"]
    for name in host["state_dict"]:
        assert torch.equal(ours["state_dict"][name], host["state_dict"][name]), name
    for index, state in host["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][index][key], value) for key, value in state.items())


def saved(folder: Path, epoch: int = 1) -> dict[str, Any]:
    """torchreid's own checkpoint of a run."""
    return torch.load(folder / "model" / f"model.pth.tar-{epoch}", weights_only=False)


@pytest.fixture(scope="module")
def plain(reid_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with every switch off."""
    folder = tmp_path_factory.mktemp("plain")
    run_main(reid_data, folder)
    return folder


def test_hook_leaves_training_as_it_is_and_writes_beside_it(
    reid_data: Path, plain: Path, tmp_path: Path
) -> None:
    run_main(reid_data, tmp_path / "on", genext__evaluation__enabled=True)
    off, on = saved(plain), saved(tmp_path / "on")
    assert all(torch.equal(off["state_dict"][name], on["state_dict"][name]) for name in off["state_dict"])
    assert on["rank1"] == pytest.approx(float(off["rank1"]), abs=1e-6)

    names = {
        path.name for path in (tmp_path / "on").iterdir() if not path.name.startswith(("events", "train.log"))
    }
    assert names == {"config.yaml", "genext_report_synthreid_tiny.json", "model", "model.safetensors"}
    report = json.loads((tmp_path / "on" / "genext_report_synthreid_tiny.json").read_text())
    (log,) = (tmp_path / "on").glob("train.log-*")
    assert f"mAP: {report['mAP']:.1%}" in log.read_text()


def test_smoke_recipe_trains_and_its_backbone_tests_the_same(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = ["--config-file", str(ROOT / "configs" / "smoke.yaml"), "--root", str(reid_data)]
    small = ["data.height", "32", "data.width", "16", "use_gpu", "False"]
    main([*recipe, *small, "data.save_dir", str(tmp_path / "train")])
    trained = capsys.readouterr().out
    weights = tmp_path / "train" / "model.safetensors"
    test_only = [
        "model.load_weights",
        str(weights),
        "test.evaluate",
        "True",
        "data.save_dir",
        str(tmp_path / "test"),
    ]
    main([*recipe, *small, *test_only])
    tested = capsys.readouterr().out
    assert results(tested) == results(trained)
    assert "classifier.weight" in tested
    assert not (tmp_path / "test" / "model.safetensors").exists()

    metadata = checkpoints.read_metadata(weights)
    assert config.load_config(tmp_path / "train" / "config.yaml").dump() == metadata["config"]
    assert not any(name.startswith("classifier") for name in checkpoints.safe_load(weights))


def test_interrupted_training_goes_on_from_torchreids_checkpoint(
    reid_data: Path, plain: Path, tmp_path: Path
) -> None:
    checkpoint = plain / "model" / "model.pth.tar-1"
    run_main(reid_data, tmp_path / "second", model__resume=checkpoint, train__max_epoch=2)
    first, second = saved(plain), saved(tmp_path / "second", epoch=2)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    steps = [float(run["optimizer"]["state"][0]["step"]) for run in (first, second)]
    assert steps[1] == 2 * steps[0] > 0


def test_command_line_overrides_the_file(reid_data: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "data:\n  root: there\n  sources: ['a']\n  targets: ['a']\n  height: 96\n"
    )
    words = f"--config-file {tmp_path}/a.yaml -s b c -t d --transforms random_erase --root here data.width 48"
    cfg = configuration(parse_arguments(words.split()))
    assert (cfg.data.sources, cfg.data.targets) == (["b", "c"], ["d"])
    assert (cfg.data.root, cfg.data.transforms) == ("here", ["random_erase"])
    assert (cfg.data.height, cfg.data.width) == (96, 48)
    cfg = configuration(parse_arguments(["--config-file", f"{tmp_path}/a.yaml"]))
    assert (cfg.data.root, cfg.data.sources, cfg.data.transforms) == ("there", ["a"], ["random_flip"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"genext__ncf__enabled": True}, "genext.ncf.enabled"),
        ({"model__name": "osnet_x9"}, "unknown model 'osnet_x9'; choose from .*osnet_x0_25"),
        ({"model__load_weights": "nowhere.pth"}, "nowhere.pth, which does not exist"),
        ({"loss__name": "triplet", "train__fixbase_epoch": 1}, "train.fixbase_epoch"),
    ],
)
def test_mistakes_are_named(reid_data: Path, tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_main(reid_data, tmp_path, **keys)


def test_unknown_dataset_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown image data set 'market'; choose from .*synthreid"):
        run_main(tmp_path, tmp_path / "log", name="market")


def test_mistake_at_the_console_is_one_sentence(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools" / "main.py"),
        "--config-file",
        str(tmp_path / "nowhere.yaml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: expected a YAML file of known keys, got")
    assert len(result.stderr.splitlines()) == 1


def test_folder_that_cannot_be_written_stops_before_the_work(reid_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run_main(reid_data, tmp_path / "file" / "log")
