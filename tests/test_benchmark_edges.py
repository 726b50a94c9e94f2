"""Benchmark and tuning: told before the work, one line a failure, nothing that was measured is lost."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from yacs.config import CfgNode

from tests.test_benchmark import cfg, features  # noqa: F401 (fixtures)
from torchreid_genext import benchmark, checkpoints
from torchreid_genext.benchmark import tuning
from torchreid_genext.benchmark.settings import Backbone, Images, build_encoder
from torchreid_genext.extraction import Encoder
from torchreid_genext.retrieval.protocol import STEPS, Comparison, Step

pytestmark = pytest.mark.usefixtures("registered")


@dataclass(frozen=True)
class Failing(Step):
    """A step that is found to fail when it is applied, and says so in two lines."""

    name = "failing"

    def __call__(self, comparison: Comparison) -> Comparison:
        raise RuntimeError("out of\nmemory")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "failing", Failing)


@pytest.mark.parametrize(
    ("node", "key", "value"),
    (
        ("test", "dist_metric", "x"),
        ("genext.evaluation", "protocol", "x"),
        ("genext.evaluation", "index", "x"),
        ("genext.evaluation", "memory_limit", -5),
        ("genext.evaluation", "device", "gpu0"),
        ("genext.benchmark", "bootstrap", -1),
        ("genext.benchmark", "seed", -1),
        ("genext.benchmark", "rank_list_queries", 0),
        ("genext.benchmark", "rank_list_depth", 0),
    ),
)
@pytest.mark.parametrize("act", (benchmark.run, benchmark.describe, tuning.tune))
def test_keys_out_of_range_are_told_before_the_work(
    cfg: CfgNode,  # noqa: F811
    act: Any,
    node: str,
    key: str,
    value: Any,
) -> None:
    place = cfg
    for name in node.split("."):
        place = place[name]
    place[key] = value
    with pytest.raises(ValueError, match="expected|unknown"):
        act(cfg)
    assert not Path(cfg.data.save_dir).exists()


def test_a_failure_is_one_line_in_every_report(cfg: CfgNode, failing: None) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["base", "failing"]
    result = benchmark.run(cfg)
    assert result.measurements[0].failures == {"failing": "RuntimeError: out of memory"}
    for text in (benchmark.table(result), (result.folder / "report.md").read_text()):
        (line,) = [line for line in text.splitlines() if "failing" in line]
        assert "failed: RuntimeError: out of memory" in line


def test_nothing_is_drawn_where_all_chains_failed(cfg: CfgNode, failing: None) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["failing"]
    cfg.genext.benchmark.pictures = cfg.genext.benchmark.rank_lists = True
    result = benchmark.run(cfg)
    assert (result.pictures, result.rank_lists) == ((), ())
    assert (result.folder / "report.md").is_file()


def test_random_weights_are_called_so_in_every_report(cfg: CfgNode, tmp_path: Path) -> None:  # noqa: F811
    model = build_encoder(cfg, Backbone("x", cfg.model.name, "")).network
    weights = checkpoints.save(tmp_path / "some.safetensors", model.state_dict())
    cfg.genext.benchmark.models = [f"known={cfg.model.name}@{weights}", f"unknown={cfg.model.name}"]
    cfg.genext.benchmark.chains = ["base"]
    result = benchmark.run(cfg)
    rows = list(csv.DictReader((result.folder / "report.csv").open()))
    models = json.loads((result.folder / "report.json").read_text())["models"]
    for found in ([row["weights"] for row in rows], [model["weights"] for model in models]):
        assert found == [str(weights), "random weights"]
    for text in (benchmark.table(result), (result.folder / "report.md").read_text()):
        assert text.count("unknown (random weights)") == text.count("(random weights)") == 1
    assert Backbone("x", "osnet_x0_25", "").title == "x"


def test_features_are_compared_where_the_configuration_says(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.evaluation.device = "meta"
    with pytest.raises(NotImplementedError, match="meta"):
        benchmark.run(cfg)


def test_an_encoder_is_in_single_precision_whatever_the_default() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 2, 5))
    images = torch.randint(0, 255, (2, 4, 2, 3), dtype=torch.uint8)
    expected = Encoder(network, height=4, width=2)(images)
    torch.set_default_dtype(torch.float64)
    try:
        found = Encoder(network.double(), height=4, width=2)(images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_an_interrupted_tuning_keeps_the_trials_of_the_last(
    cfg: CfgNode,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg.genext.tune.folds = 2
    cfg.genext.tune.chains = ["base", "l2"]
    tuning.tune(cfg)
    cfg.genext.tune.chains = ["interrupted", "base", "l2"]

    @dataclass(frozen=True)
    class Interrupted(Step):
        name = "interrupted"

        def __call__(self, comparison: Comparison) -> Comparison:
            raise KeyboardInterrupt

    monkeypatch.setitem(STEPS, "interrupted", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(cfg)
    saved = json.loads(Path(cfg.data.save_dir, "tuning.json").read_text())
    assert {trial["chain"] for trial in saved["trials"]} == {"base", "l2"}


@pytest.mark.parametrize("text", ("{", "[]", "\ufeff"))
def test_a_damaged_file_of_trials_costs_only_itself(cfg: CfgNode, text: str) -> None:  # noqa: F811
    cfg.genext.tune.folds, cfg.genext.tune.chains = 2, ["base"]
    path = Path(cfg.data.save_dir, "tuning.json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert [trial.chain for trial in tuning.tune(cfg).trials] == ["base"]


def test_features_of_no_width_are_named() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 2, 0))
    with pytest.raises(ValueError, match=r"expected features \(B, D\) .* got float32 \(2, 0\)"):
        Encoder(network, height=4, width=2).probe()


def test_images_stand_in_the_order_of_their_paths() -> None:
    found = Images.of([("b.jpg", 1, 0), ("a.jpg", 2, 3)], "any")
    assert (found.paths, found.pids, found.camids) == (["a.jpg", "b.jpg"], [2, 1], [3, 0])
