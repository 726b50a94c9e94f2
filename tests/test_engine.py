"""The hook on one engine: the host's numbers without steps, the right ones with them, no global change."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from yacs.config import CfgNode

from torchreid_genext import compat, config
from torchreid_genext import engine as hooks
from torchreid_genext.engine import hook

NAMES = [(pid, camid, shot) for pid in range(8) for camid in (0, 1) for shot in (0, 1)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], str]:
    """(pid, camid, shot) -> file: noise around a colour of the identity, darker in the second camera."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    colours = random.integers(80, 170, (8, 1, 1, 3))
    paths = {}
    for pid, camid, shot in NAMES:
        pixels = colours[pid] - 40 * camid + random.normal(0, 60, (32, 16, 3))
        path = folder / f"{pid:04d}_c{camid + 1}s1_{shot:06d}_00.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        paths[pid, camid, shot] = str(path)
    return paths


@pytest.fixture
def tiny_datasets(pictures: dict[tuple[int, int, int], str]) -> None:
    """`tiny_image` and `tiny_video` in torchreid's registries, for one test."""
    host = compat.host()
    records = {name: (path, name[0], name[1]) for name, path in pictures.items()}
    train = [record for name, record in records.items() if name[0] < 4]
    query = [records[pid, 0, 0] for pid in range(4, 8)]
    gallery = [record for record in records.values() if record not in query]

    class TinyImages(host.data.ImageDataset):
        def __init__(self, root: str = "", **options: Any) -> None:
            super().__init__(train, query, gallery, **options)

    class TinyVideos(host.data.VideoDataset):
        def __init__(self, root: str = "", **options: Any) -> None:
            tracklets = (
                [((path,), pid, camid) for path, pid, camid in split] for split in (train, query, gallery)
            )
            super().__init__(*tracklets, **options)

    videos = vars(host.data.datasets)["__video_datasets"]
    compat.register_image_dataset("tiny_image", TinyImages)
    videos["tiny_video"] = TinyVideos
    yield
    compat.unregister_image_dataset("tiny_image", TinyImages)
    del videos["tiny_video"]


def tiny_config(*opts: str, data_type: str = "image", loss: str = "softmax") -> CfgNode:
    fixed = {
        "model.name": "osnet_x0_25", "model.pretrained": "False", "data.type": data_type, "loss.name": loss,
        "data.sources": f"['tiny_{data_type}']", "data.targets": f"['tiny_{data_type}']", "data.workers": "0",
        "data.height": "32", "data.width": "16", "video.seq_len": "2", "use_gpu": "False",
        "test.batch_size": "10",
    }  # fmt: skip
    return config.load_config(opts=[*(word for pair in fixed.items() for word in pair), *opts])


def build_engine(cfg: CfgNode) -> Any:
    compat.set_random_seed(0)
    data = hooks.build_datamanager(cfg)
    model = hooks.build_model(cfg, data.num_train_pids)
    optimizer = compat.build_optimizer(model, **config.optimizer_kwargs(cfg))
    scheduler = compat.build_lr_scheduler(optimizer, **config.lr_scheduler_kwargs(cfg))
    return hooks.build_engine(cfg, data, model, optimizer, scheduler)


@pytest.fixture
def engine(tiny_datasets: None) -> Any:
    return build_engine(tiny_config())


NFC = ("genext.nfc.enabled", "True")
EVALUATOR = ("genext.evaluation.enabled", "True")


def measure(engine: Any, name: str = "tiny_image", **options: Any) -> tuple[float, float]:
    """(rank-1, mAP) through the method that ``Engine.test`` calls, with that method's keywords."""
    engine.set_model_mode("eval")
    loaders = {f"{split}_loader": engine.test_loader[name][split] for split in ("query", "gallery")}
    return engine._evaluate(dataset_name=name, **loaders, **options)


def extracted(engine: Any) -> dict[str, tuple[torch.Tensor, np.ndarray, np.ndarray]]:
    engine.set_model_mode("eval")
    splits = {}
    for split in ("query", "gallery"):
        batches = list(engine.test_loader["tiny_image"][split])
        with torch.no_grad():
            features = torch.cat([engine.model(batch["img"]) for batch in batches])
        splits[split] = (
            features,
            *(torch.cat([b[key] for b in batches]).numpy() for key in ("pid", "camid")),
        )
    return splits


def naive_nfc(features: torch.Tensor, k1: int = 2, k2: int = 2) -> torch.Tensor:
    """Each row plus those that it ranks in its first k1 and that rank it in their first k2."""
    distances = torch.cdist(features.double(), features.double())
    order = [[j for j in row.argsort().tolist() if j != i] for i, row in enumerate(distances)]
    mutual = [[j for j in order[i][:k1] if i in order[j][:k2]] for i in range(len(features))]
    return torch.stack([features[i] + sum(features[j] for j in near) for i, near in enumerate(mutual)])


def centralized(features: torch.Tensor) -> torch.Tensor:
    return functional.normalize(naive_nfc(functional.normalize(features)))


def host_figures(query: tuple, gallery: tuple, distances: np.ndarray | None = None) -> tuple[float, float]:
    metrics = compat.host().metrics
    if distances is None:
        distances = metrics.compute_distance_matrix(query[0], gallery[0]).numpy()
    cmc, mean_ap = metrics.evaluate_rank(
        distances, query[1], gallery[1], query[2], gallery[2], use_cython=False
    )
    return cmc[0], mean_ap


def test_engine_is_left_as_it_is_when_every_switch_is_off(engine: Any) -> None:
    before = dict(vars(engine))
    assert hooks.attach(engine, tiny_config()) is engine
    assert vars(engine) == before


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
@pytest.mark.parametrize("data_type", ["image", "video"])
@pytest.mark.parametrize(
    "options",
    [{}, {"dist_metric": "cosine"}, {"normalize_feature": True}, {"rerank": True}],
    ids=["plain", "cosine", "normalized", "reranked"],
)
def test_evaluator_without_steps_equals_torchreid(
    tiny_datasets: None, data_type: str, loss: str, options: dict[str, Any]
) -> None:
    engine = build_engine(tiny_config(data_type=data_type, loss=loss))
    theirs = measure(engine, f"tiny_{data_type}", **options)
    hooks.attach(engine, tiny_config(*EVALUATOR))
    assert measure(engine, f"tiny_{data_type}", **options) == pytest.approx(theirs, abs=1e-6)


def test_evaluator_without_steps_equals_torchreid_by_the_cuhk03_protocol(engine: Any) -> None:
    np.random.seed(3)
    theirs = measure(engine, use_metric_cuhk03=True, ranks=[1, 5])
    np.random.seed(3)
    ours = measure(hooks.attach(engine, tiny_config(*EVALUATOR)), use_metric_cuhk03=True, ranks=[1, 5])
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_centralization_gives_what_a_naive_one_and_torchreids_metric_give(engine: Any) -> None:
    splits = extracted(engine)
    query, gallery = ((centralized(split[0]), *split[1:]) for split in splits.values())
    ours = measure(hooks.attach(engine, tiny_config(*NFC)))
    assert ours == pytest.approx(host_figures(query, gallery), abs=1e-6)
    assert ours != pytest.approx(host_figures(*splits.values()), abs=1e-6)


def test_centralization_comes_before_reranking(engine: Any, tmp_path: Path) -> None:
    query, gallery = ((centralized(split[0]), *split[1:]) for split in extracted(engine).values())
    pairs = [(query, gallery), (query, query), (gallery, gallery)]
    distances = [compat.compute_distance_matrix(a[0], b[0]).numpy() for a, b in pairs]
    expected = host_figures(query, gallery, compat.host().utils.re_ranking(*distances))
    ours = measure(hooks.attach(engine, tiny_config(*NFC)), rerank=True, save_dir=str(tmp_path))
    assert ours == pytest.approx(expected, abs=1e-6)
    report = json.loads((tmp_path / "genext_report_tiny_image.json").read_text())
    assert (report["rerank"]["cmc"][0], report["rerank"]["mAP"]) == ours
    assert report["mAP"] != report["rerank"]["mAP"]


def test_attaching_again_replaces_the_steps_and_off_restores_the_host(engine: Any) -> None:
    plain = measure(engine)
    with_steps = measure(hooks.attach(engine, tiny_config(*NFC)))
    again = measure(hooks.attach(engine, tiny_config(*NFC)))
    hooks.attach(engine, tiny_config())
    assert with_steps == again != plain
    assert "_evaluate" not in vars(engine)
    assert measure(engine) == plain


def test_detaching_restores_what_the_user_had_put_there(engine: Any) -> None:
    def mine(**options: Any) -> tuple[float, float]:
        return 0.25, 0.125

    engine._evaluate = mine
    hooks.attach(engine, tiny_config(*NFC))
    assert measure(engine) != (0.25, 0.125)
    assert hooks.detach(engine) is engine
    assert hooks.detach(engine)._evaluate is mine


def test_other_engines_and_the_class_stay_the_hosts(engine: Any) -> None:
    other, method = build_engine(tiny_config()), type(engine)._evaluate
    hooks.attach(engine, tiny_config(*NFC))
    assert type(engine)._evaluate is method
    assert "_evaluate" not in vars(other)


def test_node_alone_is_enough(engine: Any, tmp_path: Path) -> None:
    whole = measure(hooks.attach(engine, tiny_config(*NFC)))
    node = tiny_config(*NFC).genext
    assert measure(hooks.attach(engine, node), save_dir=str(tmp_path)) == whole
    assert config.load_config(tmp_path / "config.yaml").genext == node


def test_run_writes_report_and_config_beside_its_results(engine: Any, tmp_path: Path) -> None:
    cfg = tiny_config(*NFC, "genext.nfc.side", "gallery")
    hooks.attach(engine, cfg).run(save_dir=str(tmp_path), test_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "genext_report_tiny_image.json",
    ]
    report = json.loads((tmp_path / "genext_report_tiny_image.json").read_text())
    assert "gallery" in report["chain"]
    assert (report["num_query"], report["num_gallery"]) == (4, 28)
    assert config.load_config(tmp_path / "config.yaml") == cfg


def test_nothing_is_written_without_a_folder(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hooks.attach(engine, tiny_config(*NFC)).test()
    assert list(tmp_path.iterdir()) == []


def test_results_are_logged_in_the_form_of_torchreid(
    engine: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    measure(engine)
    printed = capsys.readouterr().out
    results = printed[printed.index("** Results **") :].strip()
    with caplog.at_level(logging.INFO, "torchreid_genext"):
        measure(hooks.attach(engine, tiny_config(*EVALUATOR)))
    assert capsys.readouterr().out == ""
    assert results in caplog.text


def test_results_reach_the_console_of_a_script_that_never_set_up_logging(
    engine: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("torchreid_genext")
    monkeypatch.setattr(logger, "propagate", False)  # as if no handler stood above it
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    measure(hooks.attach(engine, tiny_config(*NFC)))
    assert "** Results **" in capsys.readouterr().out
    hooks.attach(engine, tiny_config(*NFC))
    assert len(logger.handlers) == 1


def test_ranks_beyond_the_gallery_do_not_stop_the_run(engine: Any) -> None:
    rank1, _ = measure(hooks.attach(engine, tiny_config(*EVALUATOR)), ranks=[1, 5, 100])
    assert 0 <= rank1 <= 1


def test_ranks_above_fifty_are_told_where_the_gallery_has_them(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine.test_loader["tiny_image"]["gallery"].dataset.data *= 3  # of 84 images
    with caplog.at_level(logging.INFO, "torchreid_genext"):
        measure(hooks.attach(engine, tiny_config(*EVALUATOR)), ranks=[1, 60, 84])
    assert "Rank-60" in caplog.text and "Rank-84" in caplog.text


def test_ranked_pictures_are_drawn(engine: Any, tmp_path: Path) -> None:
    hooks.attach(engine, tiny_config(*NFC)).run(
        save_dir=str(tmp_path), test_only=True, visrank=True, visrank_topk=3
    )
    assert len(list((tmp_path / "visrank_tiny_image").iterdir())) == 4


def test_mixing_the_sets_is_marked_as_transductive(engine: Any, tmp_path: Path) -> None:
    for side in ("both", "joint"):
        hooks.attach(engine, tiny_config(*NFC, "genext.nfc.side", side))
        measure(engine, save_dir=str(tmp_path / side))
        report = json.loads((tmp_path / side / "genext_report_tiny_image.json").read_text())
        assert ("transductive" in report["protocol"]) == (side == "joint")


@pytest.mark.parametrize(("key", "value"), [("k1", "0"), ("side", "left")])
def test_key_out_of_range_is_refused_when_attaching(engine: Any, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key}.*{value}|{value}.*query"):
        hooks.attach(engine, tiny_config(*NFC, f"genext.nfc.{key}", value))
    assert "_evaluate" not in vars(engine)


def test_more_neighbours_than_images_are_all_there_are(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    measured = [
        measure(hooks.attach(engine, tiny_config(*NFC, "genext.nfc.side", "query", "genext.nfc.k1", k1)))
        for k1 in ("3", "4")
    ]
    assert measured[0] == measured[1] and "4" in caplog.text


def test_features_that_are_not_finite_are_refused_naming_the_rows(engine: Any) -> None:
    hooks.attach(engine, tiny_config(*EVALUATOR))
    extract = engine.extract_features
    engine.extract_features = lambda images: extract(images).index_fill_(0, torch.tensor([2]), float("nan"))
    with pytest.raises(ValueError, match="finite.*2"):
        measure(engine)


def test_empty_split_is_refused_by_name(engine: Any) -> None:
    hooks.attach(engine, tiny_config(*EVALUATOR))
    with pytest.raises(ValueError, match="expected at least one readable image in market gallery, got none"):
        engine._evaluate("market", engine.test_loader["tiny_image"]["query"], [])


def test_evaluation_draws_the_random_numbers_of_the_hosts_and_no_more(engine: Any) -> None:
    states = []
    for cfg in (tiny_config(), tiny_config(*NFC)):
        torch.manual_seed(5)
        measure(hooks.attach(engine, cfg))
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()))
    assert states[0] == states[1]


def test_features_carry_no_gradients_and_paths_come_along(engine: Any) -> None:
    engine.set_model_mode("eval")
    with torch.no_grad():
        loader = engine.test_loader["tiny_image"]["query"]
        query = hook._extract(engine, loader, "query", torch.device("cpu"))[0]
    assert query.paths == [record[0] for record in engine.datamanager.test_dataset["tiny_image"]["query"]]
    assert not query.features.requires_grad


def test_steps_stand_in_the_chain_in_the_order_in_which_they_apply() -> None:
    assert hooks.build_chain(tiny_config().genext).is_identity
    assert hooks.build_chain(tiny_config().genext, normalize=True).name == "l2"
    chain = hooks.build_chain(tiny_config(*NFC, "genext.nfc.k2", "3").genext, normalize=True)
    assert chain.name.startswith("l2+nfc(")
    assert "k2=3" in chain.name


def test_memory_limit_is_obeyed_changes_no_figure_and_is_no_part_of_the_chain(
    engine: Any, tmp_path: Path
) -> None:
    expected = measure(hooks.attach(engine, tiny_config(*NFC)))
    limited = hooks.attach(engine, tiny_config(*NFC, "genext.evaluation.memory_limit", "1"))
    assert measure(limited, save_dir=str(tmp_path)) == expected
    assert json.loads((tmp_path / "genext_report_tiny_image.json").read_text())["chain"] == "nfc"
    with pytest.raises(ValueError, match="expected memory_limit >= 1 byte, got -5"):
        measure(hooks.attach(engine, tiny_config(*NFC, "genext.evaluation.memory_limit", "-5")))


def test_console_copy_holds_prints_and_logs_and_gives_the_console_back(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    logger, console = logging.getLogger("torchreid_genext"), sys.stdout
    handlers, level = list(logger.handlers), logger.level
    with hooks.console_copied_to(tmp_path / "new" / "run.log"):
        print("printed")
        logging.getLogger("torchreid_genext.engine").info("logged")
    assert (tmp_path / "new" / "run.log").read_text() == "printed\nlogged\n" == capsys.readouterr().out
    assert sys.stdout is console and not console.closed
    assert (logger.handlers, logger.level) == (handlers, level)


def test_log_file_keeps_the_traceback_of_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError), hooks.console_copied_to(tmp_path / "run.log"):
        raise ValueError("expected this")
    text = (tmp_path / "run.log").read_text()
    assert text.startswith("Traceback") and text.endswith("ValueError: expected this\n")


def test_names_of_kind_and_loss_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown data.type 'audio'; choose from image, video"):
        hooks.build_datamanager(tiny_config("data.type", "audio"))
    with pytest.raises(ValueError, match="unknown engine image \\+ centre"):
        hooks.build_engine(tiny_config("loss.name", "centre"), SimpleNamespace(), None, None, None)
