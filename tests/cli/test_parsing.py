"""One command line for all tools: keys anywhere, nothing ignored, and who wins."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from torchreid_genext import checkpoints, compat
from torchreid_genext.backbones.card import read_card
from torchreid_genext.checkpoints import shipped
from torchreid_genext.cli import benchmark, generate, train_gan
from torchreid_genext.cli.parsing import Parser, configuration, from_zero, positive, set_up
from torchreid_genext.config import load_config
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.ipg import IPGPipeline, load_any

KEY = ["genext.nfc.k1", "7"]
OPTIONS = (["-t", "market1501"], ["--root", "here"], ["--plan"], ["--size", "3", "4"])


def parser() -> Parser:
    found = Parser("tools.some_tool", "Some tool.")
    found.add_key("-t", "--targets", "--dataset", key="data.targets", nargs="+")
    found.add_root()
    found.add_key("--poses", key="genext.sampling.poses", nargs="+")
    found.add_key("--seed", key="genext.sampling.seed", type=from_zero)
    found.add_key("--strict", key="genext.benchmark.strict", action="store_true")
    found.add_argument("--plan", action="store_true")
    found.add_argument("--size", type=positive, nargs=2)
    found.add_argument("--file")
    found.add_argument("--many", action="append")
    return found


@pytest.mark.parametrize("place", range(len(OPTIONS) + 1))
def test_a_key_may_stand_anywhere(place: int) -> None:
    words = [*OPTIONS[:place], KEY, *OPTIONS[place:]]
    arguments = parser().parse_args([word for part in words for word in part])
    cfg = configuration(arguments)
    assert cfg.genext.nfc.k1 == 7 and cfg.data.targets == ["market1501"] and cfg.data.root == "here"
    assert arguments.plan and arguments.size == [3, 4]
    assert arguments.given == {"targets", "root", "plan", "size"}


def test_words_that_an_option_waits_for_are_no_keys() -> None:
    arguments = parser().parse_args(["--file", "data.csv", "--many", "model.name", "use_gpu", "False"])
    assert (arguments.file, arguments.many, arguments.keys) == (
        "data.csv",
        ["model.name"],
        {"use_gpu": "False"},
    )
    assert parser().parse_args(["--file=data.csv", *KEY]).file == "data.csv"
    assert configuration(parser().parse_args(["test.eval_freq", "-1"])).test.eval_freq == -1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["genext.nfc.k1"], "expected a value after genext.nfc.k1, got the end of the line"),
        (["genext.nfc.k1", "--root", "a"], "expected a value after genext.nfc.k1, got --root"),
        (["genext.nfc.k1=4"], "expected a key and its value as two words, got genext.nfc.k1=4"),
        (["--rooot", "a"], "unknown option --rooot of torchreid-genext some-tool; choose from --root, "),
        (["-x"], "unknown option -x"),
        (["market1501"], "expected an option or a key with its value, got 'market1501'"),
        (["-t", "a", *KEY, "b"], "expected an option or a key with its value, got 'b'"),
        (["--plan", "b"], "expected an option or a key with its value, got 'b'"),
        (["--root", "a", "--root", "b"], "expected --root once, got it twice"),
        (["-t", "a", "--dataset", "b"], "expected --dataset once, got it twice"),
        ([*KEY, "genext.nfc.k1", "8"], "expected one genext.nfc.k1, got '7' and '8'"),
        (["--root", "a", "data.root", "b"], "expected one data.root, got 'b' and 'a'"),
        (["--seed", "0", "genext.sampling.seed", "1"], "expected one .*seed, got '1' and 0"),
        (["-t", "a", "data.targets", "['b']"], r"expected one data.targets, got .*'b'.* and \['a'\]"),
    ],
)  # fmt: skip
def test_nothing_given_is_ignored(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parser().parse_args(words)


@pytest.mark.parametrize("word", ["genext.nfc.k", "gnext.nfc.k1", "genext.bechmark.chains", "data.sav_dir"])
def test_a_mistyped_key_is_no_data_set(word: str) -> None:
    with pytest.raises(ValueError, match=word):
        configuration(parser().parse_args(["-t", "market1501", word, "1"]))


def test_what_is_said_twice_alike_holds() -> None:
    words = ["-t", "a", "data.targets", "['a']", "--poses", "standard", "5", "genext.sampling.poses"]
    cfg = configuration(parser().parse_args([*words, "standard 5", *KEY, *KEY]))
    assert (cfg.data.targets, cfg.genext.sampling.poses) == (["a"], "standard 5")


@pytest.fixture
def yaml(tmp_path: Path) -> list[str]:
    (tmp_path / "some.yaml").write_text(
        "data: {root: there}\n"
        "genext: {sampling: {seed: 5, poses: standard 5}, benchmark: {strict: true}}\n"
    )
    return ["--config-file", str(tmp_path / "some.yaml")]


def test_defaults_of_options_leave_the_file_as_it_is(yaml: list[str]) -> None:
    cfg = configuration(parser().parse_args(yaml))
    assert (cfg.data.root, cfg.genext.sampling.seed, cfg.genext.sampling.poses) == (
        "there",
        5,
        "standard 5",
    )
    assert cfg.genext.benchmark.strict


@pytest.mark.parametrize("words", (["--seed", "0"], ["genext.sampling.seed", "0"]))
def test_zero_is_a_value(yaml: list[str], words: list[str]) -> None:
    assert configuration(parser().parse_args([*words, *yaml])).genext.sampling.seed == 0


def test_options_and_keys_win_over_the_file(yaml: list[str]) -> None:
    for words in (["--root", "2024"], ["data.root", "'2024'"]):
        assert configuration(parser().parse_args([*yaml, *words])).data.root == "2024"


def test_home_is_home_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/somebody")
    for words in (["--root", "~/data"], ["data.root", "~/data"]):
        assert configuration(parser().parse_args(words)).data.root == "/home/of/somebody/data"


@pytest.mark.parametrize("word", ["-1", "0", "1.5", "many", ""])
def test_counts_are_counts(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(["--size", word, "1"])
    told = capsys.readouterr().err
    assert told.startswith("error: ") and f"expected a whole number from 1, got {word!r}" in told
    assert len(told.splitlines()) == 1


def test_a_tool_that_reads_few_keys_refuses_others() -> None:
    few = Parser("tools.few", "", reads=["data.root"])
    assert configuration(few.parse_args(["data.root", "x"])).data.root == "x"
    with pytest.raises(
        ValueError, match="expected keys that torchreid-genext few reads, data.root, got genext"
    ):
        few.parse_args(KEY)
    with pytest.raises(ValueError, match="expected an option, got 'genext.nfc.k1'"):
        Parser("tools.none", "", reads=()).parse_args(KEY)


# Shipped files


def test_shipped_weights_and_recipes_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = configuration(benchmark.parse_arguments(["--config-file", "configs/demo.yaml"]))
    assert Path(cfg.model.load_weights).is_file() and Path(cfg.genext.sampling.pipeline).is_dir()
    assert Path(cfg.genext.ipg.generator.encoder.split("@")[1]).is_file()
    for model in cfg.genext.benchmark.models:
        assert Path(model.split("@")[1]).is_file()
    assert cfg.data.save_dir == "log/demo"  # what is written goes into the working folder


def test_another_folder_of_that_name_changes_no_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained/synthreid/ipg").mkdir(parents=True)
    cfg = configuration(parser().parse_args([]))
    assert cfg.genext.sampling.pipeline == str(ROOT / "pretrained/synthreid/ipg")
    cfg = configuration(parser().parse_args(["genext.sampling.pipeline", "pretrained/synthreid/ipg"]))
    assert cfg.genext.sampling.pipeline == "pretrained/synthreid/ipg"  # the user's own, who names it


def test_shipped_recipes_mean_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("pretrained/synthreid/osnet_x0_25.safetensors")
    file.parent.mkdir(parents=True)
    file.touch()
    cfg = configuration(parser().parse_args(["--config-file", "configs/demo.yaml"]))
    assert cfg.model.load_weights == str(ROOT / file)
    Path("own.yaml").write_text(f"model: {{load_weights: {file}}}")
    assert configuration(parser().parse_args(["--config-file", "own.yaml"])).model.load_weights == str(file)


def test_what_is_shipped_has_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights, sized = (
        str(ROOT / f"pretrained/synthreid/{name}.safetensors") for name in ("pg2", "osnet_x0_25_64x32")
    )
    words = ["genext.pg2.weights", "shipped:pg2", "genext.benchmark.models"]
    words += ["['a=osnet_x0_25@shipped:osnet_x0_25_64x32@64x32']", "--config-file", "shipped:demo"]
    cfg = configuration(parser().parse_args(words))
    assert cfg.genext.pg2.weights == weights and cfg.genext.sampling.poses == "standard 5"
    assert cfg.genext.benchmark.models == [f"a=osnet_x0_25@{sized}@64x32"]
    with pytest.raises(FileNotFoundError, match="got shipped:../x; choose from demo, .*, camstyle, .*, ipg, "):
        configuration(parser().parse_args(["genext.pg2.weights", "shipped:../x"]))


def test_names_of_what_is_shipped_are_unique() -> None:
    folders = [path for path in shipped.PRETRAINED.glob("*") if path.is_dir()]
    files = [*(ROOT / "configs").glob("*.yaml"), *shipped.PRETRAINED.glob("*.safetensors")]
    assert len(shipped.names()) == len(folders + files)


def test_names_of_what_is_shipped_work_in_scripts(registered: None) -> None:
    assert load_config("shipped:demo").data.targets == ["synthreid"]
    assert checkpoints.safe_load("shipped:osnet_x0_25")
    assert read_card("shipped:osnet_x0_25") == read_card(shipped.PRETRAINED / "osnet_x0_25.safetensors")
    assert build_generator("camstyle", "shipped:camstyle").eval()
    one, other = load_any("shipped:ipg"), IPGPipeline.from_pretrained("shipped:ipg")
    assert one.denoising_unet.config["_name_or_path"] == other.denoising_unet.config["_name_or_path"]


def test_paths_stay_as_they_are_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = "pretrained/synthreid/osnet_x0_25.safetensors"
    assert shipped.file(file) == file
    assert shipped.located(["a=b@pretrained/none.pth@64x32"]) == ["a=b@pretrained/none.pth@64x32"]


# Data sets of users


def test_a_module_of_the_user_makes_more_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_people.py").write_text(
        "from torchreid_genext import compat\n"
        "class Mine(compat.ImageDataset):\n    dataset_dir = 'mine'\n"
        "compat.register_image_dataset('mine', Mine)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    set_up(parser().parse_args(["--import", str(tmp_path / "my_people.py")]))
    try:
        assert {"mine", "mine_ipg"} <= {*compat.image_dataset_names()}
    finally:
        compat.unregister_image_dataset("mine", compat.image_datasets()["mine"])
    with pytest.raises(ValueError, match="expected a Python file, got nowhere.py"):
        set_up(parser().parse_args(["--import", "nowhere.py"]))


# What does not apply

STRIPS = ["--pose_dir", "p", "--ref_dir", "r"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --dataset, or --ref_dir with --pose_dir, got neither"),
        (["--ref_dir", "x"], "expected --dataset, or --ref_dir with --pose_dir, got --ref_dir"),
        (["--dataset", "a", "--people", "3"], "--people, which belongs to pictures of identity"),
        (["--dataset", "a", "--steps", "3"], "--steps, which belongs to pictures of identity"),
        (["--dataset", "a", "--official"], "--official, which belongs to strips"),
        (["--dataset", "a", *STRIPS], "expected --dataset, for a store, or --ref_dir .* got both"),
        ([*STRIPS, "--limit", "3"], "--limit, which belongs to a store"),
        ([*STRIPS, "--root", "3"], "--root, which belongs to a store or pictures of identity"),
        ([*STRIPS, "--generator", "pg2"], "expected --generator ipg for strips, got pg2"),
        (["--generator", "identity", "--limit", "3"], "--limit, which belongs to a store"),
        (["--generator", "identity", "--plan"], "--plan, which belongs to a store"),
        (["genext.generator", "identity", *KEY], "expected keys that pictures .*got genext.nfc"),
        (["--generator", "identity", "--split", "query", "train"], "expected one --split.* query train"),
        (["--dataset", "a", "--shard", "2", "2"], "expected --shard I N with I in 0..N-1, got 2 2"),
        (["--dataset", "a", "--shard", "0", "0"], "expected --shard I N with I in 0..N-1, got 0 0"),
    ],
)  # fmt: skip
def test_generate_refuses_what_another_mode_reads(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate.main(words)


@pytest.mark.parametrize(
    ("generator", "words", "message"),
    [
        ("ipg", ["--weights", "x", "--ckpt_dir", "y"], "one of them, got"),
        ("ipg", ["--weights", "x", "genext.sampling.pipeline", "y"], "one of them, got weights"),
        ("pg2", ["--weights", "x", "genext.pg2.weights", "y"], "one of them, got weights"),
        ("pg2", ["--ckpt_dir", "x"], "of pg2, got --ckpt_dir, which belongs to ipg"),
        ("camstyle", ["--vae", "x"], "of camstyle, got --vae, which belongs to ipg"),
    ],
)
def test_weights_of_a_generator_are_told_once(generator: str, words: list[str], message: str) -> None:
    arguments = generate.parser_of_all().parse_args(["--generator", generator, "--dataset", "a", *words])
    with pytest.raises(ValueError, match=f"expected --weights.* {message}"):
        generate.use_weights(arguments, configuration(arguments))


def test_weights_are_those_of_the_generator() -> None:
    for name, key in (("pg2", "pg2"), ("ipg", "pipeline")):
        arguments = generate.parser_of_all().parse_args(
            ["--generator", name, "--dataset", "a", "--weights", "x"]
        )
        cfg = configuration(arguments)
        generate.use_weights(arguments, cfg)
        assert (cfg.genext.pg2.weights if key == "pg2" else cfg.genext.sampling.pipeline) == "x"


def test_only_a_split_of_one_data_set_is_measured() -> None:
    with pytest.raises(ValueError, match="got 'dukemtmcreid'"):
        benchmark.main(["-t", "market1501", "dukemtmcreid", "--dry-run"])
    with pytest.raises(ValueError, match="unknown option -s"):
        benchmark.main(["-s", "market1501", "--dry-run"])


def test_an_adversarial_generator_must_be_named(reid_data: Path, tmp_path: Path) -> None:
    words = ["-s", "synthreid_tiny", "--root", str(reid_data), "--output", str(tmp_path)]
    with pytest.raises(ValueError, match="unknown adversarial generator 'ipg'; choose from pg2"):
        train_gan.main(words)


def test_types_are_of_argparse() -> None:
    assert (positive("3"), from_zero("0")) == (3, 0)
    with pytest.raises(argparse.ArgumentTypeError):
        from_zero("-1")
