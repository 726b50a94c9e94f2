"""What the README and the documentation say is true: their commands, snippets, tables, pictures and links."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, shared_data
from tests.pages import PAGES, README, anchors, blocks, links, read, section, table
from tests.test_architecture import MAY_IMPORT, PACKAGE
from torchreid_genext.cli import VERBS
from torchreid_genext.retrieval.protocol import PROTOCOLS


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = {name for path in PAGES for name in re.findall(r"\bmake (\w+)  ? #", read(path))}
    assert {"demo", "test"} <= named <= set(targets)


def test_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= 200


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(read(path)):
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.is_file(), target
        assert not anchor or anchor in anchors(read(page)), target


def test_every_page_is_linked_from_the_readme_or_a_page() -> None:
    linked = {
        (path.parent / target.partition("#")[0]).resolve() for path in PAGES for target in links(read(path))
    }
    assert {*PAGES} - linked <= {README}


SNIPPETS = blocks("python")
DRAWING = [number for number, snippet in enumerate(SNIPPETS) if "IPGPipeline" in snippet]  # 20 steps on a CPU
QUICK = [number for number in range(len(SNIPPETS)) if number not in DRAWING]
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
    """A folder where quick snippets ran: what each said, and how it ended."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "reid-data").symlink_to(reid_data)
    for number, snippet in enumerate(SNIPPETS):
        (folder / f"{number}.py").write_text(snippet)
    run_snippets(folder, *QUICK)
    return folder


def run_snippets(folder: Path, *numbers: int) -> None:
    command = [sys.executable, "-c", EACH_ALONE, *map(str, numbers)]
    run = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE)
    (folder / "errors").write_bytes(run.stderr)


@pytest.mark.slow
def test_snippets_that_draw_by_diffusion_run_as_they_stand(ran: Path) -> None:
    run_snippets(ran, *DRAWING)
    assert DRAWING and (ran / "turned.png").is_file(), (ran / "errors").read_text()
    assert {(ran / f"{number}.code").read_text() for number in DRAWING} == {"0"}


@pytest.mark.parametrize("number", QUICK)
def test_snippet_runs_as_it_stands(number: int, ran: Path) -> None:
    assert (ran / f"{number}.code").read_text() == "0", (ran / "errors").read_text()
    if "summary()" in SNIPPETS[number] or "engine.run" in SNIPPETS[number]:
        assert "mAP" in (ran / f"{number}.out").read_text()  # results are seen without any further line


def test_table_of_protocols_is_theirs() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table(section("evaluation.md", "The evaluator"))}
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
    for line in section("architecture.md", "Rooms").split("```")[1].split("\ntools/")[0].splitlines():
        if heading := re.match(r"^    (\w+)/", line):
            room = PACKAGE / heading[1]
        for name in re.findall(r"\b\w+\.py\b", line):
            named += 1
            assert any(place.is_file() for place in (room / name, PACKAGE / name)), f"{room.name}/{name}"
    assert named > 40


def test_pictures_are_there_and_small() -> None:
    pictures = [path for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".png", ".svg")]
    shown = {
        (path.parent / name).resolve()
        for path in PAGES
        for name in links(read(path))
        if name.endswith((".png", ".svg"))
    }
    assert shown == {*pictures}
    assert max(picture.stat().st_size for picture in pictures) < 500_000


def test_architecture_is_the_tested_import_table() -> None:
    shown = {}
    for line in section("architecture.md", "Who may import whom").split("```")[1].splitlines():
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


def demo_tables() -> list[list[str]]:
    """Lines of the demo's tables, a list for each backbone; ``...`` stands for rows left out."""
    return [text.strip().splitlines() for text in read("results/demo.md").split("```")[1].split("\n\n")]


def test_readme_has_eight_rows_of_the_demo() -> None:
    first = {line.split()[0]: line.split() for line in demo_tables()[0]}
    heading, *rows = [
        line.split() for line in section(README, "Two commands").split("```")[3].strip().splitlines()
    ]
    assert len(rows) == 8
    for words in (heading, *rows):
        assert words == first[words[0]][: len(words)]


def test_readme_tells_every_verb_once() -> None:
    verbs = [
        name for row in table(section(README, "The tools")) for name in re.findall(r"`([\w-]+)`", row[0])
    ]
    assert sorted(verbs) == sorted(VERBS)


@pytest.mark.slow
def test_demo_prints_the_table_of_the_page(tmp_path: Path) -> None:
    folders = {"data.root": "", "data.save_dir": "log", "genext.ipg.root": "generated"}
    options = [word for key, name in folders.items() for word in (key, str(tmp_path / name))]
    command = [sys.executable, "tools/benchmark.py", "--config-file", "configs/demo.yaml", *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads((tmp_path / "log" / "report.json").read_text())
    for model, shown in zip(report["models"], demo_tables(), strict=True):
        assert shown[0] == model["label"]
        rates = {chain["chain"]: 100 * chain["mAP"] for chain in model["chains"]}
        lines = [line for line in shown[2:] if line != "..."]
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
    rows = table(read("results/market1501-centralization.md"))
    assert len(rows) == len(found)
    for weights, chain, *cells in rows:
        check_rates(cells[:3], found[weights, chain.strip("`")])


@pytest.mark.slow
def test_market_table_of_every_step_is_what_the_tool_finds(tmp_path: Path) -> None:
    found = measured_on_market("market1501_steps.yaml", tmp_path)
    rows = table(read("results/market1501-steps.md"))
    assert 2 * len(rows) == len(found)
    for chain, *cells in rows:
        check_rates(cells[:3], found["a", chain.strip("`")])
        check_rates(cells[3:], found["b", chain.strip("`")])
