"""Choosing a chain on the training split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from tools.tune import main
from torchreid_genext import config
from torchreid_genext.benchmark import tuning
from torchreid_genext.extraction import files
from torchreid_genext.retrieval.protocol import RetrievalSet

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def images() -> RetrievalSet:
    """60 people, each seen by 3 of 4 cameras, 3 times by each."""
    pids = torch.arange(60).repeat_interleave(9)
    camids = (torch.arange(9) // 3).repeat(60).add_(pids) % 4
    frames = 100 * pids + 40 * camids + torch.randint(0, 9, (540,))
    features = torch.randn(60, 16)[pids] + torch.randn(540, 16)
    return RetrievalSet(features, pids, camids, frames=frames)


def settings(reid_data: Path, folder: Path, *options: str) -> CfgNode:
    keys = ["use_gpu", "False", "model.name", "osnet_x0_25", "model.pretrained", "False"]
    keys += ["data.height", "64", "data.width", "32", "data.workers", "0", "data.save_dir", str(folder)]
    return config.load_config("", [*keys, *options], targets=["synthreid_tiny"], root=str(reid_data))


def test_folds_share_no_person_and_leave_none_out(images: RetrievalSet) -> None:
    seen: list[int] = []
    for query, gallery, train in tuning.folds(images, 3):
        own = set(query.pids.tolist())
        assert own == set(gallery.pids.tolist()) and not own & set(train.pids.tolist())
        assert len(query) + len(gallery) + len(train) == len(images)
        seen += own
    assert sorted(seen) == list(range(60))


def test_queries_are_one_of_each_person_and_camera(images: RetrievalSet) -> None:
    query, gallery, _ = next(tuning.folds(images, 2))
    pairs = list(zip(query.pids.tolist(), query.camids.tolist()))
    assert len(pairs) == len(set(pairs)) == 90 and len(gallery) == 180


def test_folds_depend_on_the_seed_alone(images: RetrievalSet) -> None:
    first, again, other = (next(tuning.folds(images, 2, seed=seed))[0].features for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("number", (1, 61))
def test_number_of_folds_is_checked(number: int, images: RetrievalSet) -> None:
    with pytest.raises(ValueError, match=f"expected 2..60 folds, got {number}"):
        next(tuning.folds(images, number))


def test_people_under_one_camera_cannot_be_searched(images: RetrievalSet) -> None:
    rule = "expected training identities with several images under two cameras"
    with pytest.raises(ValueError, match=rule):
        next(tuning.folds(images.select(images.camids == 0), 2))


def test_best_chain_comes_first_and_no_test_image_is_opened(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    read = files._content

    def watched(path: str) -> bytes:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(files, "_content", watched)
    result = tuning.tune(settings(reid_data, tmp_path, "genext.tune.chains", "['base', 'camera_norm', 'st']"))
    assert opened and all("bounding_box_train" in path for path in opened)
    rates = [trial.mAP for trial in result.trials]
    assert rates == sorted(rates, reverse=True) and len(rates) == 3
    saved = json.loads((tmp_path / "tuning.json").read_text())
    assert [trial["chain"] for trial in saved["trials"]] == [trial.chain for trial in result.trials]
    assert saved["trials"][0]["mAP"] == pytest.approx(
        sum(fold["mAP"] for fold in saved["trials"][0]["folds"]) / 2
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target", "speed", "unknown genext.tune.target 'speed'; choose from mAP, rank1"),
        ("chains", "[]", "expected at least one chain in genext.tune.chains"),
        ("chains", "['fuse']", "expected chains without generated images, got fuse"),
    ],
)
def test_bad_keys_are_refused(key: str, value: str, message: str, reid_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tuning.tune(settings(reid_data, tmp_path, f"genext.tune.{key}", value))


def test_tool_lists_chains_and_prints_the_best(
    reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["use_gpu", "False", "model.name", "osnet_x0_25", "model.pretrained", "False", "data.workers", "0"]
    keys += ["data.height", "64", "data.width", "32", "data.save_dir", str(tmp_path)]
    arguments = ["-t", "synthreid_tiny", "--root", str(reid_data)]
    main([*arguments, "--dry-run", *keys])
    assert "camera_norm" in capsys.readouterr().out and not list(tmp_path.iterdir())
    main([*arguments, *keys, "genext.tune.chains", "['l2', 'camera_norm+st']"])
    output = capsys.readouterr().out
    assert "2 chains on 2 folds" in output and "Best:    " in output


def test_interrupted_run_goes_on_where_it_was(
    reid_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few, all_chains = (f"[{names}]" for names in ("'base', 'st'", "'base', 'st', 'camera_norm'"))
    tuning.tune(settings(reid_data, tmp_path, "genext.tune.chains", few))
    with caplog.at_level("INFO"):
        resumed = tuning.tune(settings(reid_data, tmp_path, "genext.tune.chains", all_chains))
    evaluated = [r.getMessage() for r in caplog.records if r.getMessage().startswith("  chain")]
    assert evaluated == ["  chain camera_norm"] * 2, "once a fold"
    whole = tuning.tune(settings(reid_data, tmp_path / "whole", "genext.tune.chains", all_chains))
    assert resumed.to_json() == whole.to_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [("test.dist_metric", "cosine"), ("genext.evaluation.index", "flat"), ("genext.tune.folds", "4")],
)
def test_trials_are_known_by_all_that_decides_on_them(
    key: str, value: str, reid_data: Path, tmp_path: Path
) -> None:
    keys = ["genext.tune.chains", "['base']"]
    first, again, other = (
        tuning.tune(settings(reid_data, tmp_path / "trials", *keys, *more)) for more in ([], [], [key, value])
    )
    assert first.key == again.key != other.key


def test_trials_of_other_settings_are_not_taken_over(reid_data: Path, tmp_path: Path) -> None:
    keys = ["genext.tune.chains", "['base']"]
    first = tuning.tune(settings(reid_data, tmp_path, *keys))
    other = tuning.tune(settings(reid_data, tmp_path, *keys, "genext.tune.seed", "5"))
    assert first.key != other.key and first.best.mAP != other.best.mAP


def test_trials_of_other_times_are_not_taken_over(
    images: RetrievalSet, reid_data: Path, tmp_path: Path
) -> None:
    cfg = settings(reid_data, tmp_path)
    changed = [{name: getattr(images, name) + 1} for name in ("features", "pids", "camids", "frames")]
    keys = [tuning._key(cfg, replace(images, **change)) for change in ({}, *changed)]
    assert len({*keys}) == 5


def test_the_best_chain_is_that_of_the_target(reid_data: Path, tmp_path: Path) -> None:
    keys, path = ["genext.tune.chains", "['base', 'camera_norm']"], tmp_path / "tuning.json"
    tuning.tune(settings(reid_data, tmp_path, *keys))
    saved = json.loads(path.read_text())
    for trial, rank1 in zip(saved["trials"], (0.1, 0.9)):
        trial["rank1"] = rank1
    path.write_text(json.dumps(saved))
    found = tuning.tune(settings(reid_data, tmp_path, *keys, "genext.tune.target", "rank1"))
    assert [trial.chain for trial in found.trials] == [trial["chain"] for trial in saved["trials"][::-1]]
