"""What one chain's failure costs a benchmark and a tuning: its own row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from yacs.config import CfgNode

from tests.test_benchmark import cfg, features  # noqa: F401
from torchreid_genext import benchmark
from torchreid_genext.benchmark import settings, study, tuning, writing
from torchreid_genext.retrieval.steps import Rerank

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(self: Rerank, comparison: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Rerank, "__call__", out_of_memory)


@pytest.mark.usefixtures("failing")
def test_a_failing_chain_is_a_row_and_the_others_stand(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["base", "rerank", "l2"]
    result = benchmark.run(cfg)
    folder = Path(cfg.data.save_dir)
    (model,) = json.loads((folder / "report.json").read_text())["models"]
    assert [chain["chain"] for chain in model["chains"]] == ["base", "l2", "rerank"]
    assert model["chains"][-1]["failed"] == "MemoryError: no room"
    with open(folder / "report.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["failed"] for row in rows] == ["", "", "MemoryError: no room"]
    for text in (writing.table(result), (folder / "report.md").read_text()):
        assert "failed: MemoryError: no room" in text


@pytest.mark.usefixtures("failing")
def test_where_the_first_chain_fails_nothing_is_compared_with_it(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["rerank", "base", "l2"]
    (measurement,) = benchmark.run(cfg).measurements
    assert measurement.differences == [None, None] and list(measurement.failures) == ["rerank"]


@pytest.mark.usefixtures("failing")
def test_where_all_chains_fail_a_report_says_so(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["rerank"]
    result = benchmark.run(cfg)
    assert "failed: MemoryError" in writing.table(result) and not result.measurements[0].reports


def test_a_report_stands_after_each_backbone(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811

    cfg.genext.benchmark.models = ["a=osnet_x0_25", "b=osnet_x0_25"]
    measured = study._measure

    def interrupted(cfg: CfgNode, backbone: object, *rest: object) -> object:
        if backbone.label == "b":
            raise KeyboardInterrupt
        return measured(cfg, backbone, *rest)

    monkeypatch.setattr(study, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(cfg)
    saved = json.loads((Path(cfg.data.save_dir) / "report.json").read_text())
    assert [model["label"] for model in saved["models"]] == ["a"]


def test_needs_are_told_before_any_work(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811

    cfg.genext.benchmark.chains = ["base", "l2+st"]
    images = settings.open_dataset(cfg)
    bare = tuple(settings.Images(s.paths, s.pids, s.camids) for s in images)
    monkeypatch.setattr(settings, "open_dataset", lambda cfg: bare)
    with pytest.raises(ValueError, match="expected frames in both sets.*for the step st.*in the chain l2"):
        benchmark.run(cfg)
    assert not (Path(cfg.data.save_dir) / "report.json").exists()


@pytest.mark.usefixtures("failing")
def test_a_trial_that_fails_costs_no_other(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.tune.chains = ["base", "rerank"]
    found = tuning.tune(cfg)
    assert [trial.chain for trial in found.trials] == ["base"] and list(found.failures) == ["rerank"]
    assert "rerank: failed: MemoryError" in tuning.tuning_table(found)
