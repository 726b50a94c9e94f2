"""The hook where things go wrong: damaged files, faults told before a training, what stays as it was."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.test_engine import (  # noqa: F401
    NFC,
    build_engine,
    measure,
    pictures,
    tiny_config,
    tiny_datasets,
)
from torchreid_genext import compat
from torchreid_genext import engine as hooks
from torchreid_genext.engine.reading import Pictures, tolerant_loader
from torchreid_genext.retrieval.protocol import Comparison

pytestmark = pytest.mark.usefixtures("tiny_datasets")


@pytest.fixture
def damaged(pictures: dict, tmp_path: Path) -> Any:  # noqa: F811
    """An engine of which one gallery file holds nothing and one query file lacks its end."""
    paths = {name: shutil.copy(path, tmp_path / Path(path).name) for name, path in pictures.items()}
    Path(paths[5, 1, 1]).write_bytes(b"")
    content = Path(paths[4, 0, 0]).read_bytes()
    Path(paths[4, 0, 0]).write_bytes(content[: len(content) // 2])
    engine = build_engine(tiny_config())
    for split in ("query", "gallery"):
        data = engine.test_loader["tiny_image"][split].dataset
        moved = [(str(tmp_path / Path(record[0]).name), *record[1:]) for record in data.data]
        data.data = moved
        engine.datamanager.test_dataset["tiny_image"][split] = moved
    return engine


def test_damaged_files_are_left_out_and_listed(
    damaged: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks.attach(damaged, tiny_config(*NFC))
    measure(damaged, save_dir=str(tmp_path / "log"), visrank=True, rerank=True)
    report = json.loads((tmp_path / "log" / "genext_report_tiny_image.json").read_text())
    assert (report["num_query"], report["num_gallery"]) == (3, 27)
    assert {Path(path).name for path in report["unreadable"]} == {"0005_c2s1_000001_00.png", "0004_c1s1_000000_00.png"}
    assert "0005_c2s1_000001_00.png is left out" in caplog.text
    assert len(list((tmp_path / "log" / "visrank_tiny_image").iterdir())) == 3


def test_a_damaged_training_file_is_named_and_ends_the_training(damaged: Any) -> None:
    dataset = damaged.datamanager.train_loader.dataset
    broken = Path(dataset.data[0][0]).with_name("broken.png")
    broken.write_text("no picture")
    dataset.data[0] = (str(broken), *dataset.data[0][1:])
    with pytest.raises(ValueError, match="expected an image in .*broken.png"):
        dataset[0]


def test_reading_by_name_changes_no_pixel() -> None:
    engine = build_engine(tiny_config())
    dataset = engine.datamanager.train_loader.dataset
    engine.set_model_mode("eval")
    dataset.transform = engine.datamanager.transform_te
    item, host = dataset[3], compat.ImageDataset.__getitem__(dataset, 3)
    assert item.keys() == host.keys() and (item["img"] == host["img"]).all()


@pytest.mark.parametrize("method", ("fork", pytest.param("spawn", marks=pytest.mark.slow), "forkserver"))
def test_every_kind_of_process_reads_by_name(
    pictures: dict, tmp_path: Path, method: str  # noqa: F811
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    records = [(path, 0, 0) for path in [*list(pictures.values())[:3], str(tmp_path / "broken.png")]]
    _, transform = compat.build_transforms(32, 16)
    options = {"mode": "gallery", "transform": transform, "verbose": False}
    dataset = compat.ImageDataset(records, records, records, **options)
    loader = DataLoader(dataset, 2, num_workers=1, multiprocessing_context=method)
    found = list(tolerant_loader(loader))
    assert [len(batch["pid"]) for batch, _ in found] == [2, 1]
    assert [list(faults) for _, faults in found] == [[], [str(tmp_path / "broken.png")]]
    pixels = next(iter(tolerant_loader(loader, Pictures([records[0][0]], transform))))[0]["img"]
    assert (pixels[0] == found[0][0]["img"][0]).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    (
        (("genext.evaluation.chain", "st"), "expected frames in both sets and times of the training split"),
        (("genext.evaluation.chain", "rerank(k1=0)"), "expected rerank k1 to be an integer >= 1"),
        (("genext.rerank.lambda_value", "7.0"), "expected rerank lambda_value"),
        (("genext.evaluation.chain", "fuse+l2"), "expected genext.ipg.root, a folder of generated images"),
        (("genext.evaluation.protocol", "duke"), "unknown protocol 'duke'"),
        (("genext.evaluation.chain", "l2", "genext.nfc.enabled", "True"), "expected the step nfc in genext.eval"),
    ),
)
def test_what_would_cost_a_training_is_told_when_attaching(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hooks.attach(build_engine(tiny_config()), tiny_config(*keys))


def test_two_engines_of_one_configuration_share_nothing() -> None:
    cfg, first, second = tiny_config(*NFC), build_engine(tiny_config()), build_engine(tiny_config())
    hooks.attach(first, cfg)
    before = measure(first)
    cfg.genext.nfc.k1 = 9
    hooks.attach(second, cfg)
    assert measure(first) == before


def test_a_chain_is_applied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    applied = []
    after = Comparison.after
    monkeypatch.setattr(Comparison, "after", lambda self, step: applied.append(step.name) or after(self, step))
    engine = hooks.attach(build_engine(tiny_config()), tiny_config(*NFC))
    measure(engine, save_dir=str(tmp_path), rerank=True, visrank=True)
    assert applied == ["nfc", "rerank"]


def test_normalisation_of_the_host_joins_a_chain_that_is_written() -> None:
    cfg = tiny_config("genext.evaluation.chain", "camera_norm(normalize_before=false)")
    assert hooks.build_chain(cfg.genext, normalize=True).name == "l2+camera_norm(normalize_before=False)"
    written = tiny_config("genext.evaluation.chain", "l2")
    assert hooks.build_chain(written.genext, normalize=True).name == "l2"


def test_detaching_leaves_the_logger_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    root, logger = logging.getLogger(), logging.getLogger("torchreid_genext")
    monkeypatch.setattr(root, "handlers", [])
    before = list(logger.handlers), logger.level
    engines = [hooks.attach(build_engine(tiny_config()), tiny_config(*NFC)) for _ in range(2)]
    assert len(logger.handlers) == len(before[0]) + 1
    hooks.detach(engines[0])
    assert logger.level == logging.INFO
    hooks.detach(engines[1])
    assert (list(logger.handlers), logger.level) == before


def test_no_rank_may_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    engine = hooks.attach(build_engine(tiny_config()), tiny_config(*NFC))
    assert np.isfinite(measure(engine, ranks=[])).all()
