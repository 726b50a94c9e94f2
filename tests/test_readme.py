"""What the README says is true: its commands, its snippets, its tables, its pictures."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import astuple, fields
from pathlib import Path

import pytest
from yacs.config import CfgNode

from tests.conftest import ROOT, shared_data
from tests.test_architecture import MAY_IMPORT, PACKAGE
from torchreid_genext.config import STEP_NODES, get_default_config
from torchreid_genext.recipes.training import schedules
from torchreid_genext.retrieval.protocol import PROTOCOLS, STEPS

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Rows of the first Markdown table, without its heading."""
    first = re.search(r"^\|.*?(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL)
    lines = first[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"make (\w+)", README)
    assert {"demo", "test"} <= set(named) <= set(targets)


SNIPPETS = blocks("python")
# A process for each, forked where torch is imported already: that is what would take most of its time.
EACH_ALONE = """
import multiprocessing, os, runpy, sys
import torch, torchvision

def run(number):
    os.dup2(os.open(f"{number}.out", os.O_CREAT | os.O_WRONLY), 1)
    runpy.run_path(f"{number}.py", run_name="__main__")

for number in map(int, sys.argv[1:]):
    process = multiprocessing.get_context("fork").Process(target=run, args=(number,))
    process.start()
    process.join()
    open(f"{number}.code", "w").write(str(process.exitcode))
"""


@pytest.fixture(scope="module")
def ran(reid_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where all snippets ran: what each said, and how it ended."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "reid-data").symlink_to(reid_data)
    (folder / "pretrained").symlink_to(ROOT / "pretrained")
    numbers = [str(number) for number in range(len(SNIPPETS))]
    for number, snippet in zip(numbers, SNIPPETS):
        (folder / f"{number}.py").write_text(snippet)
    run = subprocess.run([sys.executable, "-c", EACH_ALONE, *numbers], cwd=folder, stderr=subprocess.PIPE)
    (folder / "errors").write_bytes(run.stderr)
    return folder


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs_as_it_stands(number: int, ran: Path) -> None:
    assert (ran / f"{number}.code").read_text() == "0", (ran / "errors").read_text()
    if "summary()" in SNIPPETS[number] or "engine.run" in SNIPPETS[number]:
        assert "mAP" in (ran / f"{number}.out").read_text()  # results are seen without any further line


def tool_commands() -> list[list[str]]:
    """Command lines of our tools, each as words."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if "tools/" in line]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("words", tool_commands(), ids=" ".join)
def test_files_that_commands_name_are_there(words: list[str]) -> None:
    files = [word for word in words if word.startswith(("tools/", "configs/"))]
    assert files and all((ROOT / name).is_file() for name in files)


@pytest.mark.parametrize("words", tool_commands(), ids=" ".join)
def test_keys_that_commands_set_exist(words: list[str]) -> None:
    keys = [word for word in words if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", word) and "/" not in word]
    for key in keys:
        node = get_default_config()
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in node.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name: value}
    return found


def test_table_of_keys_is_the_tree() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table(section("Config keys"))}
    assert rows == {name: repr(value) for name, value in leaves(get_default_config().genext).items()}


def test_table_of_schedules_is_that_of_the_recipes() -> None:
    rows = [[cell.strip("` ") for cell in row] for row in table(section("Config keys").split("### Schedules")[1])]
    stages = [*schedules.OWN.items(), *schedules.OFFICIAL.items()]
    assert rows == [[name, *map(str, astuple(own))] for name, own in stages]


def test_keys_of_steps_say_what_the_steps_say() -> None:
    meanings = {row[0].strip("`"): row[2] for row in table(section("Config keys"))}
    for step, node in STEP_NODES.items():
        for item in fields(STEPS[step]):
            choices = " \\| ".join(item.metadata["choices"])
            words = item.metadata["help"] + (f": {choices}" if choices else "")
            assert meanings[f"{node}.{item.name}"] == words


def test_table_of_protocols_is_theirs() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table(section("In your own torchreid script"))}
    assert list(rows) == [*PROTOCOLS, "Protocol(...)"]
    for name, protocol in PROTOCOLS.items():
        ranked, unmatched, precision, curve = rows[name]
        assert ranked.startswith("nothing") == (protocol.junk_pid is None)
        looks_at_none = ranked.startswith("nothing") or "cameras are not looked at" in ranked
        assert looks_at_none == protocol.own_camera
        assert (unmatched == "is left out of all rates") != protocol.counts_unmatched
        assert ("trapezoidal" in precision) == protocol.trapezoidal
        word = {"cmc": "CMC", "sampled": "ten draws", "recall": "recall"}[protocol.curve]
        assert word in curve and (curve == "CMC") == (protocol.curve == "cmc")


def test_files_in_the_picture_of_the_rooms_are_there() -> None:
    room, named = PACKAGE, 0
    for line in section("Architecture").split("```")[1].split("\ntools/")[0].splitlines():
        if heading := re.match(r"^    (\w+)/", line):
            room = PACKAGE / heading[1]
        for name in re.findall(r"\b\w+\.py\b", line):
            named += 1
            assert any(place.is_file() for place in (room / name, PACKAGE / name)), f"{room.name}/{name}"
    assert named > 40


def test_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    for name in pictures:
        assert (ROOT / name).stat().st_size < 500_000, name


def test_architecture_is_the_tested_import_table() -> None:
    shown = {}
    for line in section("Architecture").split("```")[3].splitlines():  # after the picture of the rooms
        if " -> " in line:
            rooms, allowed = line.split(" -> ")
            names = set() if allowed == "nothing of ours" else set(allowed.split(", "))
            shown |= {room.strip(): names for room in rooms.split(",")}
    assert shown == MAY_IMPORT


def in_full(chain: str, legend: list[str]) -> str:
    """The name of a chain, in which ``nfc[1]`` stands for the step behind ``[1]`` in the legend."""
    for number, step in (line.split(" ") for line in legend):
        chain = chain.replace(step.partition("(")[0] + number, step)
    return chain


def test_numbers_in_names_of_chains_are_read() -> None:
    assert in_full("l2+nfc[1]+st", ["[1] nfc(k1=3)", "[2] st(form=official)"]) == "l2+nfc(k1=3)+st"


def numbers(row: list[str]) -> list[float]:
    return [float(value) for cell in row for value in re.findall(r"\d+\.\d+", cell)]


@pytest.mark.slow
def test_demo_prints_the_table_of_the_readme(tmp_path: Path) -> None:
    folders = {"data.root": "", "data.save_dir": "log", "genext.ipg.root": "generated"}
    options = [word for key, name in folders.items() for word in (key, str(tmp_path / name))]
    command = [sys.executable, "tools/benchmark.py", "--config-file", "configs/demo.yaml", *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads((tmp_path / "log" / "report.json").read_text())
    tables = section("The table you get").split("```")[1].split("\n\n")
    for model, shown in zip(report["models"], tables, strict=True):
        assert shown.split()[0] == model["label"]
        rates = {chain["chain"]: 100 * chain["mAP"] for chain in model["chains"]}
        lines = [line for line in shown.strip().splitlines()[2:] if line != "..."]
        legend = [line for line in lines if line.startswith("[")]
        for chain, rate, *_ in (line.split() for line in lines if line not in legend):
            chain = in_full(chain, legend)
            assert float(rate) == pytest.approx(rates[chain], abs=0.3), chain  # processors round otherwise


def measured_on_market(config: str, folder: Path) -> dict[tuple[str, str], dict]:
    """(weights, chain) -> what the benchmark finds with one of the recipes."""
    data, root = shared_data(), ROOT.parent / "reid-data"
    if data is None or not (root / "market1501").is_dir():
        pytest.skip("needs Market-1501 unpacked in ../reid-data and the weights of $GENEXT_DATA")
    weights = [f"{name}=osnet_x0_25@{data}/weights/osnet_x0_25_msmt17_{name}.pth" for name in "ab"]
    command = [sys.executable, "tools/benchmark.py", "--config-file", f"configs/{config}"]
    command += ["--root", str(root), "genext.benchmark.models", str(weights)]
    command += ["genext.benchmark.pictures", "False"]
    command += ["data.save_dir", str(folder), "genext.benchmark.cache_dir", str(ROOT / "log" / "features")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads((folder / "report.json").read_text())
    models = report["models"]
    return {(model["label"], chain["chain"]): chain for model in models for chain in model["chains"]}


def check_rates(cells: list[str], chain: dict) -> None:
    rates = chain["mAP"], chain["cmc"][0], chain["cmc"][4]
    assert [float(cell) for cell in cells] == pytest.approx([100 * rate for rate in rates], abs=0.05)


@pytest.mark.slow
def test_market_table_of_centralization_is_what_the_tool_finds(tmp_path: Path) -> None:
    found = measured_on_market("market1501_osnet_x0_25.yaml", tmp_path)
    rows = table(section("Results on Market-1501").split("### Centralization")[1])
    assert len(rows) == len(found)
    for weights, chain, *cells in rows:
        check_rates(cells[:3], found[weights, chain.strip("`")])


@pytest.mark.slow
def test_market_table_of_every_step_is_what_the_tool_finds(tmp_path: Path) -> None:
    found = measured_on_market("market1501_steps.yaml", tmp_path)
    rows = table(section("Results on Market-1501").split("### Every step")[1])
    assert 2 * len(rows) == len(found)
    for chain, *cells in rows:
        check_rates(cells[:3], found["a", chain.strip("`")])
        check_rates(cells[3:], found["b", chain.strip("`")])
