"""The benchmark: right numbers, nothing done twice, every mistake told before the work."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from tests.conftest import shared_data
from torchreid_genext import benchmark, checkpoints, compat, config
from torchreid_genext.benchmark.settings import Backbone, build_encoder, open_dataset
from torchreid_genext.extraction import extract
from torchreid_genext.retrieval.folds import folds
from torchreid_genext.retrieval.protocol import RetrievalSet, bootstrap_difference, compare, evaluate

pytestmark = pytest.mark.usefixtures("registered")
CHAINS = ["base", "l2", "nfc(k1=1|2)"]


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of features for all tests that do not measure the cache itself."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def cfg(reid_data: Path, tmp_path: Path, features: Path) -> CfgNode:
    cfg = config.get_default_config()
    cfg.use_gpu = False
    cfg.model.name, cfg.model.pretrained = "osnet_x0_25", False
    cfg.data.root, cfg.data.targets = str(reid_data), ["synthreid_tiny"]
    cfg.data.height, cfg.data.width, cfg.data.workers = 32, 16, 0
    cfg.data.save_dir = str(tmp_path / "run")
    cfg.genext.benchmark.chains = list(CHAINS)
    cfg.genext.benchmark.bootstrap = 50
    cfg.genext.benchmark.pictures = False
    cfg.genext.benchmark.cache_dir = str(features)
    return cfg


def sets(cfg: CfgNode) -> list[RetrievalSet]:
    """Query and gallery, extracted on a way that shares nothing with the benchmark but the encoder."""
    encoder = build_encoder(cfg, Backbone("x", cfg.model.name, cfg.model.load_weights))
    return [
        RetrievalSet(
            extract(encoder, split.paths, workers=0, progress=False).features, split.pids, split.camids
        )
        for split in open_dataset(cfg)
    ]


# What comes out


def test_rates_and_differences_are_those_of_the_protocol(cfg: CfgNode) -> None:
    (measurement,) = benchmark.run(cfg).measurements
    expected = [evaluate(*sets(cfg), chain) for chain in ("base", "l2", "nfc(k1=1)", "nfc")]
    assert [report.chain for report in measurement.reports] == [report.chain for report in expected]
    for found, report in zip(measurement.reports, expected):
        assert found.mAP == pytest.approx(report.mAP, abs=1e-6)
        assert found.cmc == pytest.approx(report.cmc)
    assert measurement.differences[0] is None
    for found, report in zip(measurement.differences[1:], expected[1:]):
        interval = bootstrap_difference(expected[0], report, samples=50, seed=0)
        assert all(found[name] == pytest.approx(interval[name], abs=1e-6) for name in ("mAP", "rank1"))


def test_reports_have_the_open_set_and_breakdowns(cfg: CfgNode) -> None:
    cfg.genext.benchmark.chains = ["base", "lda"]
    result = benchmark.run(cfg)
    (model,) = json.loads((result.folder / "report.json").read_text())["models"]
    markdown = (result.folder / "report.md").read_text()
    query, gallery = sets(cfg)
    comparison = compare(query, gallery)
    expected = comparison.open_set(comparison.rank())
    query, gallery, others = next(folds(result.measurements[0].train, 2))
    base, learnt = (chain["open_set"] for chain in model["chains"])
    assert base["eer"] == pytest.approx(expected.eer, abs=1e-6)
    assert base["dir_at_far"]["0.1"] == pytest.approx(expected.identification[0.1], abs=1e-6)
    for found, chain in ((base, "base"), (learnt, "lda")):
        unseen = compare(query, gallery, chain, train=others)
        point = unseen.open_set(unseen.rank()).verification[0.01]
        threshold = pytest.approx(point.threshold, rel=1e-5) if point.tpr else None
        assert found["given"]["0.01"]["threshold"] == threshold
    chain = model["chains"][0]
    assert len(chain["hard_queries"]) == 10 and chain["hard_queries"][0]["image"].endswith((".jpg", ".png"))
    values = [query["average_precision"] for query in chain["hard_queries"] + chain["easy_queries"][::-1]]
    assert values == sorted(values)
    assert len(chain["camera_pairs"]["cameras"]) == len(chain["camera_pairs"]["mAP"][0]) > 1
    for text in ("| chain | EER | TPR at FPR 1 |", "| camera | 1 |", "Hard queries of", "Easy queries of"):
        assert text in markdown


def test_the_open_set_is_left_out_where_nobody_asks(cfg: CfgNode) -> None:
    cfg.genext.benchmark.open_set = False
    cfg.genext.benchmark.chains = ["base"]
    result = benchmark.run(cfg)
    assert result.to_json()["models"][0]["chains"][0]["open_set"] is None
    assert "EER" not in (result.folder / "report.md").read_text()


def test_reports_say_the_same_in_three_formats(cfg: CfgNode) -> None:
    result = benchmark.run(cfg)
    saved = json.loads((result.folder / "report.json").read_text())
    rows = list(csv.DictReader((result.folder / "report.csv").open()))
    markdown = (result.folder / "report.md").read_text()
    (model,) = saved["models"]
    assert [chain["chain"] for chain in model["chains"]] == [row["chain"] for row in rows]
    for chain, row, report in zip(model["chains"], rows, result.measurements[0].reports):
        assert chain["mAP"] == float(row["mAP"]) == report.mAP
        assert f"| {report.chain} | {report.mAP * 100:.2f} |" in markdown
        assert chain["protocol"] == row["protocol"] == report.protocol
    assert model["chains"][2]["difference"]["mAP"][1] == float(rows[2]["mAP_change_low"])


def test_table_has_a_line_for_each_chain(cfg: CfgNode) -> None:
    result = benchmark.run(cfg)
    text = benchmark.table(result)
    for report in result.measurements[0].reports:
        assert any(
            line.startswith(report.chain) and f"{report.mAP * 100:.2f}" in line for line in text.splitlines()
        )
    assert text.startswith("synthreid_tiny: ") and "osnet_x0_25 (random weights): " in text


def test_merged_configuration_repeats_the_run(cfg: CfgNode) -> None:
    first = benchmark.run(cfg)
    second = benchmark.run(config.load_config(first.folder / "config.yaml"))
    assert [r.mAP for r in second.measurements[0].reports] == [r.mAP for r in first.measurements[0].reports]


def test_without_bootstrap_a_change_has_no_interval(cfg: CfgNode) -> None:
    cfg.genext.benchmark.bootstrap = 0
    result = benchmark.run(cfg)
    (measurement,) = result.measurements
    change = measurement.reports[1].mAP - measurement.reports[0].mAP
    assert measurement.differences[1]["mAP"] == (change, change, change)
    assert "[" not in benchmark.table(result)


def test_metric_and_protocol_are_those_of_the_configuration(cfg: CfgNode) -> None:
    cfg.test.dist_metric, cfg.genext.benchmark.chains = "cosine", ["base", "l2"]
    base, normalised = benchmark.run(cfg).measurements[0].reports
    assert base.metric == "cosine"
    assert base.mAP == pytest.approx(normalised.mAP, abs=1e-6), "the cosine does not see lengths"


def test_pictures_show_bars_densities_embedding_and_changed_queries(cfg: CfgNode) -> None:
    cfg.genext.benchmark.pictures = True
    result = benchmark.run(cfg)
    assert result.pictures[:3] == ("chains.png", "density-osnet_x0_25.png", "embedding-osnet_x0_25.png")
    changed = {"repaired-osnet_x0_25.png", "broken-osnet_x0_25.png"}
    first, *others = result.measurements[0].reports
    if ((first.first_match_rank == 1) != (others[-1].first_match_rank == 1)).any():
        assert changed & set(result.pictures)
    markdown = (result.folder / "report.md").read_text()
    assert all((result.folder / name).is_file() and name in markdown for name in result.pictures)


def test_a_single_chain_has_bars_alone(cfg: CfgNode) -> None:
    cfg.genext.benchmark.pictures, cfg.genext.benchmark.chains = True, ["nfc"]
    assert benchmark.run(cfg).pictures == ("chains.png",)


# What is done only once


def test_second_run_extracts_nothing(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.genext.benchmark.cache_dir = ""
    first = benchmark.run(cfg).measurements[0]
    cfg.genext.benchmark.chains = ["l2", "nfc(side=joint)"]
    second = benchmark.run(cfg).measurements[0]
    assert first.computed == len(first.query) + len(first.gallery) and second.computed == 0
    assert torch.equal(first.gallery.features, second.gallery.features)
    assert (tmp_path / "run" / "features").is_dir()


def test_two_weights_of_one_model_are_two_measurements(cfg: CfgNode, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        checkpoints.save_backbone(tmp_path / f"{name}.safetensors", compat.build_model("osnet_x0_25", 5), {})
    cfg.genext.benchmark.models = [
        f"osnet_x0_25@{tmp_path}/a.safetensors",
        f"second=osnet_x0_25@{tmp_path}/b.safetensors",
    ]
    cfg.genext.benchmark.chains = ["base"]
    first, second = benchmark.run(cfg).measurements
    assert [first.backbone.label, second.backbone.label] == ["osnet_x0_25@a", "second"]
    assert not torch.equal(first.query.features, second.query.features)


def test_a_model_may_see_images_of_its_own_size(cfg: CfgNode) -> None:
    own = f"{cfg.model.name}@{cfg.data.height}x{cfg.data.width}"
    cfg.genext.benchmark.models = [cfg.model.name, f"other={own}", f"small={cfg.model.name}@48x24"]
    cfg.genext.benchmark.chains = ["base"]
    first, same, small = (measurement.query.features for measurement in benchmark.run(cfg).measurements)
    assert torch.equal(first, same) and not torch.equal(first, small)


@pytest.mark.parametrize(
    "text, label, weights, size",
    (
        ("osnet_x0_25", "osnet_x0_25", "", None),
        ("osnet_x0_25@64x32", "osnet_x0_25@64x32", "", (64, 32)),
        ("osnet_x0_25@a/b.pth@64x32", "osnet_x0_25@b@64x32", "a/b.pth", (64, 32)),
        ("mine=osnet_x0_25@64x32.pth", "mine", "64x32.pth", None),
    ),
)
def test_models_are_read(text: str, label: str, weights: str, size: tuple[int, int] | None) -> None:
    assert Backbone.parse(text) == Backbone(label, "osnet_x0_25", weights, size)


def test_description_does_nothing(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.genext.benchmark.cache_dir = ""
    images = sum(len(split.paths) for split in open_dataset(cfg))
    text = benchmark.describe(cfg)
    assert f"osnet_x0_25: {images} of {images} features to extract in fp32, about " in text
    assert "4 chains for each model: base, l2, nfc(k1=1), nfc" in text
    assert not (tmp_path / "run").exists()


def test_description_knows_what_is_cached(cfg: CfgNode) -> None:
    benchmark.run(cfg)
    assert "features are cached" in benchmark.describe(cfg)


def test_description_does_not_draw_the_embedded_world(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.data.root = str(tmp_path)
    assert benchmark.describe(cfg).startswith(f"synthreid_tiny will first be drawn below {tmp_path}")
    assert not list(tmp_path.iterdir())


# What a faster precision changed


def test_effect_of_bf16_is_unknown_without_exact_features(cfg: CfgNode) -> None:
    cfg.genext.benchmark.cache_dir, cfg.genext.inference.precision = "", "bf16"
    assert benchmark.run(cfg).measurements[0].precision_effect is None


def test_effect_of_bf16_is_told_when_exact_features_are_cached(cfg: CfgNode) -> None:
    exact = benchmark.run(cfg).measurements[0].reports[0]
    cfg.genext.inference.precision = "bf16"
    result = benchmark.run(cfg)
    effect, rounded = result.measurements[0].precision_effect, result.measurements[0].reports[0]
    assert (effect.exact_mAP, effect.mAP) == (exact.mAP, rounded.mAP)
    assert effect.mAP == pytest.approx(effect.exact_mAP, abs=0.05)
    assert "bf16 changes mAP of the first chain by" in benchmark.table(result)
    assert "bf16 changes mAP of the first chain by" in (result.folder / "report.md").read_text()


def test_effect_of_bf16_is_measured_on_request(cfg: CfgNode) -> None:
    cfg.genext.benchmark.cache_dir, cfg.genext.inference.precision = "", "bf16"
    cfg.genext.benchmark.compare_precision = True
    assert benchmark.run(cfg).measurements[0].precision_effect is not None


# What can be wrong


def test_unreadable_images_are_left_out_and_listed(cfg: CfgNode, reid_data: Path, tmp_path: Path) -> None:
    shutil.copytree(reid_data / "synthreid_tiny", tmp_path / "synthreid_tiny")
    cfg.data.root = str(tmp_path)
    victim = Path(open_dataset(cfg)[1].paths[5])
    victim.write_bytes(victim.read_bytes()[:-200])
    result = benchmark.run(cfg)
    (measurement,) = result.measurements
    assert list(measurement.unreadable) == [str(victim)]
    assert len(measurement.gallery) == len(open_dataset(cfg)[1].paths) - 1
    assert str(victim) not in measurement.gallery.paths
    assert str(victim) in (result.folder / "report.md").read_text()
    assert "left out, since they cannot be read: 1 (" in benchmark.table(result)
    cfg.genext.benchmark.strict = True
    with pytest.raises(ValueError, match=f"expected only readable images, got .*{victim.name}: .*truncated"):
        benchmark.run(cfg)


def expect_error(cfg: CfgNode, message: str) -> None:
    """The run ends with this message, before it has extracted or reported anything."""
    cfg.genext.benchmark.cache_dir = ""
    with pytest.raises((ValueError, OSError), match=message):
        benchmark.run(cfg)
    folder = Path(cfg.data.save_dir)
    assert not folder.is_dir() or {path.name for path in folder.iterdir()} <= {"config.yaml"}


def test_unknown_model_lists_the_choices(cfg: CfgNode) -> None:
    cfg.genext.benchmark.models = ["osnet_x9"]
    expect_error(cfg, "unknown model 'osnet_x9'; choose from .*osnet_x0_25")


@pytest.mark.parametrize("text", ["=osnet_x0_25", "osnet_x0_25@", "@weights.pth", "a=@weights.pth"])
def test_model_without_one_of_its_parts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a model as \[label=\]name\[@weights\]\[@HEIGHTxWIDTH\]"):
        Backbone.parse(text)


def test_repeated_labels_are_refused(cfg: CfgNode) -> None:
    cfg.genext.benchmark.models = ["osnet_x0_25", "osnet_x0_25"]
    expect_error(cfg, "expected different labels for the models, got osnet_x0_25, osnet_x0_25")


def test_weights_of_another_model_list_what_does_not_fit(cfg: CfgNode, tmp_path: Path) -> None:
    checkpoints.save_backbone(tmp_path / "resnet18.safetensors", compat.build_model("resnet18", 5), {})
    cfg.model.load_weights = str(tmp_path / "resnet18.safetensors")
    expect_error(cfg, "expected weights of OSNet, got .*resnet18.* missing .* unexpected")


def test_missing_weights_are_named(cfg: CfgNode) -> None:
    cfg.model.load_weights = "nowhere.pth"
    expect_error(cfg, "expected a file, got nowhere.pth")


def test_unknown_step_lists_the_choices(cfg: CfgNode) -> None:
    cfg.genext.benchmark.chains = ["base", "magic"]
    expect_error(cfg, "unknown step 'magic'; choose from base, .*nfc")


def test_no_chain_is_refused(cfg: CfgNode) -> None:
    cfg.genext.benchmark.chains = []
    expect_error(cfg, "expected at least one chain")


def test_unknown_dataset_lists_the_choices(cfg: CfgNode) -> None:
    cfg.genext.benchmark.dataset = "market1502"
    expect_error(cfg, "unknown image data set 'market1502'; choose from .*market1501.*synthreid")


def test_missing_data_root_says_how_to_lay_data_out(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.genext.benchmark.dataset, cfg.data.root = "market1501", str(tmp_path / "nowhere")
    expect_error(
        cfg, "expected market1501 in '.*nowhere.*', got no such folder; lay it out as .*Market-1501-v15.09.15"
    )
    assert not (tmp_path / "nowhere").exists()


def test_missing_dataset_folder_is_named_and_nothing_is_downloaded(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    cfg.genext.benchmark.dataset, cfg.data.root = "market1501", str(tmp_path / "data")
    expect_error(cfg, "expected market1501 in '.*data.market1501', got no such folder")
    assert list((tmp_path / "data").iterdir()) == []


def test_empty_split_is_refused(cfg: CfgNode, tmp_path: Path) -> None:
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (tmp_path / "market1501" / "Market-1501-v15.09.15" / folder).mkdir(parents=True)
    cfg.genext.benchmark.dataset, cfg.data.root = "market1501", str(tmp_path)
    expect_error(cfg, "expected data of market1501 in .*, got a split without images")


def test_videos_are_out_of_scope(cfg: CfgNode) -> None:
    cfg.data.type = "video"
    expect_error(cfg, "expected data.type image, since features are of single images, got 'video'")


def test_folder_that_cannot_be_written_is_told_before_the_work(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cfg.data.save_dir = str(tmp_path / "file" / "run")
    expect_error(cfg, "expected a folder that can be written")


# Real input


@pytest.mark.slow
def test_market1501_numbers_are_reproduced(tmp_path: Path) -> None:
    data = shared_data()
    if data is None or not (data / "market1501.zip").is_file():
        pytest.skip("needs Market-1501 in $GENEXT_DATA")
    with zipfile.ZipFile(data / "market1501.zip") as archive:
        archive.extractall(tmp_path)
    cfg = config.load_config("configs/market1501_osnet_x0_25.yaml")
    cfg.use_gpu, cfg.data.root, cfg.data.save_dir = False, str(tmp_path), str(tmp_path / "run")
    cfg.model.load_weights = str(data / "weights" / "osnet_x0_25_msmt17_a.pth")
    cfg.genext.benchmark.chains, cfg.genext.benchmark.pictures = cfg.genext.benchmark.chains[:4], False
    base, normalised, centralized, bare = benchmark.run(cfg).measurements[0].reports
    for report, *rates in ((base, 31.01, 59.77, 76.90), (normalised, 33.63, 59.83, 77.49)):
        assert [100 * r for r in (report.mAP, report.rank(1), report.rank(5))] == pytest.approx(
            rates, abs=0.05
        )
    for report, *rates in ((centralized, 38.69, 60.33, 72.62), (bare, 24.36, 51.69, 66.27)):
        assert [100 * r for r in (report.mAP, report.rank(1), report.rank(5))] == pytest.approx(
            rates, abs=0.5
        )
    assert (base.id2_query, base.id2_gallery) == pytest.approx((0.2174, 0.3011), abs=5e-4)
    assert (centralized.id2_query, centralized.id2_gallery) == pytest.approx((0.1698, 0.2603), abs=5e-4)
