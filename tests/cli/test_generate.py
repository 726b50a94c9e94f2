"""Generating from the command line: a store of a data set, the authors' strips, plans and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.poses.test_detecting import tiny_keypoint_rcnn
from tests.generators.ipg.networks import embedded
from tests.generators.ipg.test_pipeline import picture
from torchreid_genext import checkpoints, compat
from torchreid_genext.cli import generate, judge_generated
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.judgements import Mark
from torchreid_genext.generation import picture_seed

pytestmark = pytest.mark.usefixtures("registered")

KEYS = ["genext.sampling.steps", "1", "genext.sampling.batch_size", "6"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    embedded().save_pretrained(folder)
    return folder


def fill(pipeline: Path, root: Path, store: Path, *words: str) -> None:
    keys = [*KEYS, "genext.sampling.pipeline", str(pipeline)]
    generate.main([
        "--dataset", "synthreid_tiny", "--root", str(root), "--out_dir", str(store), "--limit", "2",
        *words, *keys,
    ])  # fmt: skip


def test_a_store_is_filled_in_standard_poses_and_then_complete(
    pipeline: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fill(pipeline, reid_data, tmp_path / "store")
    told = capsys.readouterr().out
    assert "8 poses of each image: 32 pictures to make" in told and "32 pictures made, 0 there alr" in told
    assert "GFLOP" not in told  # of six batches, drawing two for a plan would not pay
    store = ImageStore(tmp_path / "store")
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False)
    for split in ("query", "gallery"):
        files = store.files(split)
        assert [*files] == [str(pose) for pose in range(1, 9)]
        names = {Path(item[0]).name for item in getattr(dataset, split)[:2]}
        assert all(set(found) == names for found in files.values())
    (path, *_) = store.files("query")["1"].values()
    assert Image.open(path).size == (8, 16)
    entry = next(store.entries("query"))
    assert entry.provenance["sampling"]["steps"] == 1 and len(entry.provenance["weights"]) == 16
    fill(pipeline, reid_data, tmp_path / "store")
    assert "holds all 32 pictures" in capsys.readouterr().out


def test_two_shards_fill_what_one_process_fills(pipeline: Path, reid_data: Path, tmp_path: Path) -> None:
    fill(pipeline, reid_data, tmp_path / "whole", "--split", "query", "--poses", "2", "random")
    for index in ("1", "0"):
        fill(
            pipeline, reid_data, tmp_path / "parts", "--split", "query", "--poses", "2", "random",
            "--shard", index, "2",
        )  # fmt: skip
    whole, parts = (ImageStore(tmp_path / name) for name in ("whole", "parts"))
    assert [*whole.entries("query")] == [*parts.entries("query")] and len(whole.poses("query")) == 2
    for entry in whole.entries("query"):
        images = [np.asarray(Image.open(store.path(entry)), int) for store in (whole, parts)]
        assert abs(images[0] - images[1]).max() <= 1  # one grey level, where rounding turns


def test_a_plan_costs_no_file(
    pipeline: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fill(pipeline, reid_data, tmp_path / "store", "--plan", "--poses", "dataset")
    told = capsys.readouterr().out
    for what in (
        "8 poses of each image",
        "32 to make",
        "GFLOP an image",
        "images/s",
        "KiB an image",
        "MiB at most",
    ):
        assert what in told
    assert not (tmp_path / "store").exists()


def test_a_store_keeps_to_one_way_of_making(pipeline: Path, reid_data: Path, tmp_path: Path) -> None:
    fill(pipeline, reid_data, tmp_path / "store", "--split", "query", "--poses", "1", "random")
    with pytest.raises(
        ValueError, match="query pictures have sampling.guidance 1.0, got .*guidance 3.5 .* choose another"
    ):
        fill(
            pipeline, reid_data, tmp_path / "store", "--split", "query", "genext.sampling.guidance", "1.0"
        )


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for kind, names in (("ref", ("b.jpg", "a.png")), ("pose", ("10.jpg", "2.jpg"))):
        (tmp_path / kind).mkdir()
        for seed, name in enumerate(names):
            picture(seed, size=(8, 16)).save(tmp_path / kind / name, quality=100)
    (tmp_path / "pose" / "notes.txt").write_text("no picture")
    return ["--pose_dir", str(tmp_path / "pose"), "--ref_dir", str(tmp_path / "ref")]


@pytest.mark.parametrize("official", ([], ["--official"]))
def test_the_authors_command_line_writes_a_strip_for_each_reference(
    pipeline: Path, folders: list[str], tmp_path: Path, official: list[str]
) -> None:
    generate.main(
        ["--ckpt_dir", str(pipeline), *folders, "--out_dir", str(tmp_path / "out"), *official, *KEYS[:2]]
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    strip = Image.open(tmp_path / "out" / "a.png")
    assert strip.size == (5 * 128, 256)
    cells = [strip.crop((128 * i, 0, 128 * (i + 1), 256)) for i in range(5)]
    for cell, name in ((cells[0], "ref/a.png"), (cells[1], "pose/2.jpg"), (cells[3], "pose/10.jpg")):
        expected = Image.open(tmp_path / name).convert("RGB").resize((128, 256), Image.Resampling.BICUBIC)
        assert np.array_equal(cell, expected)
    assert not np.array_equal(cells[2], cells[4])


def test_a_reference_that_cannot_be_read_is_left_out(
    pipeline: Path, folders: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ref" / "c.jpg").write_bytes(b"no picture")
    generate.main(["--ckpt_dir", str(pipeline), *folders, "--out_dir", str(tmp_path / "out"), *KEYS[:2]])
    assert len([*(tmp_path / "out").iterdir()]) == 2 and "c.jpg" in caplog.text


def test_mistakes_are_told(
    pipeline: Path, reid_data: Path, folders: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected images in .*empty.*, got none that can be read"):
        generate.main(["--ckpt_dir", str(pipeline), *folders[:2], "--ref_dir", str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match="expected a folder of images, got no folder"):
        generate.main(["--ckpt_dir", str(pipeline), *folders[:2], "--ref_dir", str(tmp_path / "nowhere")])
    (tmp_path / "black").mkdir()
    Image.new("RGB", (8, 16)).save(tmp_path / "black" / "1.png")
    with pytest.raises(ValueError, match="expected a drawn skeleton in 1.png, got a black picture"):
        generate.main(["--ckpt_dir", str(pipeline), "--pose_dir", str(tmp_path / "black"), *folders[2:]])
    for words in (("2", "typical"), ("all",)):
        with pytest.raises(ValueError, match=f"expected poses 'standard', .*, got '{' '.join(words)}'"):
            fill(pipeline, reid_data, tmp_path / "store", "--poses", *words)
    with pytest.raises(FileNotFoundError, match="expected .*reference_unet.pth"):
        generate.main(["--ckpt_dir", str(tmp_path / "empty"), *folders])


def test_the_manifest_tells_what_is_there(pipeline: Path, reid_data: Path, tmp_path: Path) -> None:
    fill(pipeline, reid_data, tmp_path / "store", "--split", "query", "--poses", "1", "random")
    told = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert "query" in json.dumps(told)


def test_pictures_are_judged_and_sheets_drawn(
    pipeline: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fill(pipeline, reid_data, tmp_path / "store", "--split", "query", "--poses", "standard", "1", "5")
    judge_generated.main([
        "--dataset", "synthreid_tiny", "--root", str(reid_data), "--store", str(tmp_path / "store"),
        "--split", "query", "--similarity", "0.99",
    ])  # fmt: skip
    assert "query: 0 pictures kept, 4 dropped" in capsys.readouterr().out
    drawn = {path.name for path in (tmp_path / "store/sheets").iterdir()}
    assert drawn == {"query.png", "query-doubtful.png"}
    store = ImageStore(tmp_path / "store")
    assert not [*store.entries("query")] and len([*store.entries("query", dropped=True)]) == 4


def test_pictures_in_other_poses_than_asked_for_are_dropped(
    pipeline: Path,
    reid_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    build = "torchvision.models.detection.keypointrcnn_resnet50_fpn"
    monkeypatch.setattr(build, lambda **_: tiny_keypoint_rcnn(box_score_thresh=0.99))  # sees nobody
    weights = checkpoints.save(tmp_path / "weights.safetensors", tiny_keypoint_rcnn().state_dict())
    fill(pipeline, reid_data, tmp_path / "store", "--split", "query", "--poses", "standard", "1", "5")
    command = [
        "--dataset", "synthreid_tiny", "--root", str(reid_data), "--store", str(tmp_path / "store"),
        "--split", "query", "gallery", "--similarity", "-1", "--keypoints", str(weights),
    ]  # fmt: skip
    judge_generated.main([*command, "--poses", "standard", "5", "1"])
    told = capsys.readouterr().out
    assert "query: 0 pictures kept, 4 dropped" in told and "dropped as other pose: 4" in told
    assert f"gallery: no pictures in {tmp_path / 'store'}" in told
    judge_generated.main([*command, "--agreement", "0"])
    assert "query: 4 pictures kept, 0 dropped" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected --poses with '5' of .*store, got 1, 2"):
        judge_generated.main([*command, "--poses", "standard", "1", "2"])


def test_what_the_file_says_holds_and_zero_is_a_seed(
    pipeline: Path, reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root and poses of the file, seed of the command line, from a folder that has nothing."""
    sampling = {"seed": 5, "poses": "standard 5", "steps": 1, "pipeline": str(pipeline)}
    tree = {"data": {"root": str(reid_data)}, "genext": {"sampling": sampling}}
    (tmp_path / "some.yaml").write_text(json.dumps(tree))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    command = ["--dataset", "synthreid_tiny", "--split", "query", "--limit", "1"]
    command += ["--config-file", "../some.yaml"]
    seeds = {}
    for seed, words in ((5, []), (0, ["--seed", "0"])):
        generate.main(["--output", str(tmp_path / f"store{seed}"), *words, *command])
        entries = [*ImageStore(tmp_path / f"store{seed}").entries("query")]
        assert [entry.pose for entry in entries] == ["5"]
        seeds[seed] = entries[0].provenance["seed"]
    assert not [*(tmp_path / "work").iterdir()]
    generate.main(["--output", str(tmp_path / "key"), "genext.sampling.seed", "0", *command])
    (entry,) = ImageStore(tmp_path / "key").entries("query")
    assert entry.provenance["seed"] == seeds[0] != seeds[5]


def test_the_shipped_pipeline_is_found_from_any_folder(
    reid_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--split", "query", "--limit", "1", "--poses", "standard", "5", "--plan"]
    words += ["genext.sampling.steps", "1", "--root", str(reid_data), "--output", "store"]
    generate.main(["--dataset", "synthreid_tiny", *words])
    assert "1 to make" in capsys.readouterr().out and not [*tmp_path.iterdir()]


def test_judging_refuses_what_it_would_ignore() -> None:
    for words in (["--poses", "standard", "5"], ["--agreement", "0.5"]):
        with pytest.raises(ValueError, match=f"expected no {words[0]} without --keypoints"):
            judge_generated.main(["--dataset", "synthreid_tiny", *words])
    with pytest.raises(ValueError, match="expected --weights FILE of model.name osnet_x0_5, got none"):
        judge_generated.main(["--dataset", "synthreid_tiny", "model.name", "osnet_x0_5"])


def test_a_seed_from_the_command_line_decides_and_a_second_one_is_refused(
    pipeline: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ("--split", "query", "--poses", "standard", "1", "--seed")
    fill(pipeline, reid_data, tmp_path / "store", *words, "77")
    store = ImageStore(tmp_path / "store")
    for entry in store.entries():
        assert entry.provenance["seed"] == picture_seed(77, entry.reference, entry.pose)
    with pytest.raises(ValueError, match="seed 5, got seed 77 in 2 of 2"):
        fill(pipeline, reid_data, tmp_path / "store", *words, "5")
    dropped, kept = store.entries()
    store.mark(dropped, Mark(("blank",)))
    capsys.readouterr()
    fill(pipeline, reid_data, tmp_path / "store", *words, "5")
    assert "1 pictures made, 1 there already" in capsys.readouterr().out and kept in [*store.entries()]


def test_a_damaged_image_costs_its_pictures_only_and_stops_no_plan(
    pipeline: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = shutil.copytree(reid_data, tmp_path / "data")
    dataset = compat.init_image_dataset("synthreid_tiny", root=str(root), verbose=False)
    Path(dataset.query[0][0]).write_bytes(b"")
    fill(pipeline, root, tmp_path / "store", "--split", "query", "--plan")
    assert "16 to make" in capsys.readouterr().out
    fill(pipeline, root, tmp_path / "store", "--split", "query")
    assert "8 pictures made, 0 there already, 1 references failed" in capsys.readouterr().out


def test_a_plan_is_of_the_shard(
    pipeline: Path, reid_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fill(pipeline, reid_data, tmp_path / "store", "--plan", "--shard", "1", "4")
    assert "images: 8 to make, 0 are there" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_told_before_the_network_is_loaded(
    reid_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="expected a folder that can be written"):
        fill(tmp_path / "no pipeline", reid_data, tmp_path / "file" / "store")


def test_a_saved_pipeline_has_its_own_parts(pipeline: Path, reid_data: Path, folders: list[str]) -> None:
    for words in (folders, ["--dataset", "synthreid_tiny", "--root", str(reid_data), "--plan"]):
        with pytest.raises(ValueError, match="expected no --vae with the saved pipeline in "):
            generate.main([*words, "--ckpt_dir", str(pipeline), "--vae", "x"])
