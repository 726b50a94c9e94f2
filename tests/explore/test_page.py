from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from torchreid_genext.explore import page
from torchreid_genext.explore.prepared import Time
from torchreid_genext.explore.search import Answer, Hit, Picture

HOSTILE = '<img src=x onerror="alert(1)">&.png'


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / name) for name in (HOSTILE, "b.png", "c.png")]
    for path in paths:
        Image.new("RGB", (8, 16), "red").save(path)
    return paths


def found(files: list[str]) -> Answer:
    one, two, three = (Picture(path, kind) for path, kind in zip(files, ("match", "miss", "")))
    hits = [
        Hit(one, 1, 3, 0.25, 4, [two], Time(-1200, 0.25, 0.2)),
        Hit(two, 2, 1, 0.5, None, [three], None),
        Hit(three, 3, 0, 0.75, 6, [], None),
    ]
    return Answer(files[0], "nfc<b>", hits, hits[:1], [one], (0.5, 0.75), (0.2, 0.01))


def test_an_answer_tells_ranks_reasons_and_what_has_changed(files: list[str]) -> None:
    text = page.answer(found(files))
    assert "&#9650;2<" in text and "&#9660;1<" in text and text.count("&#96") == 4
    assert "1,200 frames earlier" in text and "looks 0.25, time -0.05" in text
    assert "average precision 50.0" in text and ">75.0</b>" in text and "camera 4" in text
    assert text.count('class="gx-match"') == 3 and text.count('class="gx-miss"') == 2
    assert text.count("averaged with") == 3 and "chain in 0.20 s" in text


class Seen(HTMLParser):
    """Tags, and names and values of attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_names_and_chains_are_text_and_pictures_are_in_the_page(files: list[str]) -> None:
    answer, picker = page.answer(found(files)), page.picker(files, [0, 1, 2], 1)
    for text in (answer, picker, page.notice(HOSTILE), page.intro(HOSTILE)):
        seen = Seen(text)
        assert "onerror" not in {name for name, _ in seen.attributes} and "nfc<b>" not in text
        sources = [value for name, value in seen.attributes if name in ("src", "href")]
        assert all(value.startswith("data:image/") for value in sources) and "script" not in seen.tags
    assert Seen(answer).tags.count("img") == 8 and Seen(picker).tags.count("img") == 3


def test_names_are_escaped_once(files: list[str]) -> None:
    named = [value for name, value in Seen(page.answer(found(files))).attributes if name in ("alt", "title")]
    assert HOSTILE in named and not any("&lt;" in (value or "") for value in named)


def test_one_of_a_picker_is_marked(files: list[str]) -> None:
    text = page.picker(files, [2, 0], 2)
    assert text.count("<button") == 2 and text.count('aria-pressed="true"') == 1
    assert text.index('data-row="2" aria-pressed="true"') < text.index('data-row="0" aria-pressed="false"')


def test_an_upload_is_shown_by_itself_and_what_is_gone_is_blank(files: list[str]) -> None:
    answer = found(files)
    text = page.answer(Answer("", *list(vars(answer).values())[1:]), Image.new("RGB", (8, 16), "blue"))
    assert "uploaded picture" in text and text.count("data:image/png;base64,") == 1
    Path(files[1]).unlink()
    assert "gx-blank" in page.answer(answer)


def test_a_code_is_drawn_as_bars() -> None:
    text = page.code_of([2.0, -1.0, 0.0])
    assert '<rect x="0" y="0.0" width="4" height="20.0"/>' in text
    assert '<rect x="5" y="20.0" width="4" height="10.0"/>' in text and "3 numbers" in text
