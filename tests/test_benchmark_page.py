"""What people show: the table of a terminal, the page, and pictures that can be sent."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from yacs.config import CfgNode

from tests.test_benchmark import cfg, features  # noqa: F401
from torchreid_genext import benchmark
from torchreid_genext.benchmark import page, writing
from torchreid_genext.benchmark.markdown import line, table
from torchreid_genext.benchmark.naming import short_names
from torchreid_genext.visualization import png

pytestmark = pytest.mark.usefixtures("registered")
LONG = "camera_norm+nfc(k1=3,k2=3,neighbours=cross_camera)+rerank(k1=21,k2=7,lambda_value=0.4)"


# Names of chains


def test_short_names_stay() -> None:
    assert short_names(["base", "nfc(k1=2)"], 9) == ({"base": "base", "nfc(k1=2)": "nfc(k1=2)"}, [])


def test_long_options_become_numbers_and_equal_ones_the_same() -> None:
    other = LONG.replace("camera_norm", "l2+dba(k=3)")
    names, legend = short_names([LONG, "base", other], 40)
    assert names == {
        LONG: "camera_norm+nfc[1]+rerank[2]", "base": "base", other: "l2+dba(k=3)+nfc[1]+rerank[2]"
    }  # fmt: skip
    assert legend == ["[1] nfc(k1=3,k2=3,neighbours=cross_camera)", "[2] rerank(k1=21,k2=7,lambda_value=0.4)"]


def test_a_chain_of_too_many_steps_becomes_a_number_of_its_own() -> None:
    many = "+".join(["camera_norm"] * 9)
    names, legend = short_names([many, many + "+l2", LONG], 20)
    assert names[many] == "camera_norm+cam..[1]" and names[many + "+l2"] == "camera_norm+cam..[2]"
    assert names[LONG] == "camera_norm+nfc..[3]" and legend[2] == f"[3] {LONG}"  # no number is left unused
    assert len({*names.values()}) == 3


# The table


def test_no_line_of_the_table_is_wider_than_a_terminal(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["base", LONG, "l2+" * 20 + "rerank(k1=21,k2=7,lambda_value=0.4)"]
    text = benchmark.table(result := benchmark.run(cfg))
    assert max(map(len, text.splitlines())) <= 120
    assert "\ncamera_norm+nfc[1]+rerank[2] " in text
    assert "\n[2] rerank(k1=21,k2=7,lambda_value=0.4)\n" in text
    assert "protocol  " not in text and "ID2" not in text
    header, *rows = [line for line in text.splitlines() if re.match(r"(chain|base|camera_norm) ", line)]
    assert header.split() == ["chain", "mAP", "change", "R1", "R5", "R10", "mINP", "s"] and rows
    markdown = (result.folder / "report.md").read_text()
    assert all(f"| {report.chain} | " in markdown for report in result.measurements[0].reports)  # in full


# The page


class Parsed(HTMLParser):
    """Tags, their texts and their addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "link", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_says_what_the_report_says_and_needs_nothing_else(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.benchmark.pictures = cfg.genext.benchmark.rank_lists = True
    result = benchmark.run(cfg)
    text = (result.folder / "report.html").read_text()
    parsed = Parsed(text)
    assert not parsed.open and "script" not in parsed.tags and "prefers-color-scheme: dark" in text
    assert parsed.tags.count("img") == len(result.pictures) and parsed.words.count("base") >= 1
    outside = [link for link in parsed.links if not link.startswith("data:")]
    assert outside == [*result.rank_lists]
    for report in result.measurements[0].reports:
        assert f"{100 * report.mAP:.2f}" in parsed.words
    assert f"Benchmark on {result.dataset}" in parsed.words


def test_names_of_files_are_no_markup(tmp_path: Path) -> None:
    hostile = "- `<script>alert(1)</script>.jpg`: [x](javascript:alert(1)) [y](../z) [z](a.html)"
    table = "| chain | s |\n| --- | ---: |\n| nfc(k1=1\\|2)+<b> | 1+2 |"
    text = page.render(f"# A & B\n\n{hostile}\n\n{table}\n\n![no.png](no.png)\n", tmp_path)
    parsed = Parsed(text.partition("<main>")[2].partition("</main>")[0])
    assert "script" not in parsed.tags and "b" not in parsed.tags and "img" not in parsed.tags
    assert parsed.links == ["a.html"] and "<title>A &amp; B</title>" in text
    assert "nfc<wbr>(k1=1|2)+&lt;b&gt;" in text and '<td class="number">1+2</td>' in text
    assert "no.png" in parsed.words


def test_what_only_begins_like_a_table_or_a_picture_is_a_paragraph(tmp_path: Path) -> None:
    text = page.render("# A\n\n|b.jpg\n\n![x\n\n![x](y) z\n", tmp_path)
    assert "<p>|b.jpg</p>\n<p>![x</p>\n<p>!" in text


def test_names_and_faults_of_several_lines_are_told_on_one() -> None:
    assert line("a\n\n|b \t c") == "a |b c"
    assert table(["chain", "s", "why"], [["a\n|b", "1", "x\ny"]], words=["why"]).splitlines() == [
        "| chain | s | why |", "| --- | ---: | --- |", "| a \\|b | 1 | x y |"
    ]  # fmt: skip


def test_names_of_images_may_have_several_lines(cfg: CfgNode) -> None:  # noqa: F811
    result = benchmark.run(cfg)
    measured = result.measurements[0]
    hostile = [f"{row}\n\n|b\n\n![{row}" for row in range(len(measured.query))]
    query = replace(measured.query, paths=hostile)
    measured = replace(measured, query=query, unreadable={"a\n\n# b": "c\n\n|d"})
    writing.write(replace(result, measurements=[measured], dataset="a\n\n|b"))
    words = Parsed((result.folder / "report.html").read_text()).words
    assert {"Benchmark on a |b", "a # b", ": c |d"} <= {*words}
    assert re.search(r"^- `(\d+) \|b !\[\1`: ", (result.folder / "report.md").read_text(), re.MULTILINE)


# Pictures


def photographs(side: float) -> Figure:
    figure = Figure(figsize=(side, side), dpi=150)
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    figure.add_axes((0, 0, 1, 1)).imshow(pixels, interpolation="nearest")
    return figure


@pytest.mark.parametrize(("largest", "mode"), [(10_000_000, "RGBA"), (500_000, "P"), (50_000, "P")])
def test_pictures_are_no_larger_than_they_may_be(largest: int, mode: str) -> None:
    content = png(photographs(6), largest=largest)
    assert len(content) <= largest
    image = Image.open(io.BytesIO(content))
    assert image.mode == mode and image.format == "PNG"
    assert len(content) > largest / 4 or mode == "RGBA"  # and no smaller than they must be


def test_small_pictures_stay_as_they_are_drawn() -> None:
    file = io.BytesIO()
    figure = photographs(1)
    figure.savefig(file, format="png")
    assert png(figure) == file.getvalue()


def test_a_page_goes_without_its_pictures(cfg: CfgNode) -> None:  # noqa: F811
    cfg.genext.benchmark.chains = ["base"]
    result = benchmark.run(cfg)
    parsed = Parsed((result.folder / "report.html").read_text())
    assert "img" not in parsed.tags and parsed.tags.count("table") >= 1
