"""The page itself, clicked through in a browser: needs Gradio, Playwright's package and a Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.explore.test_uploads import bomb, encoded
from torchreid_genext.cli import explore, features
from torchreid_genext.cli.parsing import configuration
from torchreid_genext.explore.search import Searcher
from torchreid_genext.retrieval.chain import Chain

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 240_000  # milliseconds; machines may be busy


def test_without_gradio_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'torchreid_genext\[app\]'"):
        explore.main([])


def test_folders_stand_in_place_of_a_data_set() -> None:
    with pytest.raises(ValueError, match="expected no --dataset with folders of images"):
        explore.parse_arguments(["--gallery", "crops", "--dataset", "synthreid"])


def test_crops_of_a_folder_look_for_each_other(reid_data: Path, tmp_path: Path, registered: None) -> None:
    for file in sorted((reid_data / "synthreid_tiny" / "query").glob("*.jpg"))[:5]:
        shutil.copy(file, tmp_path)
    words = ["--gallery", str(tmp_path), "--output", str(tmp_path / "kept"), "data.workers", "0"]
    cfg = configuration(explore.parse_arguments(words))
    sets = explore.unlabelled_sets(cfg, [features.images_of(str(tmp_path))])
    assert sets.query is sets.gallery and len(sets.query) == 5 and sets.protocol is None
    hits = Searcher(lambda: sets).search(0, Chain.parse("nfc"), top=9).hits
    assert len(hits) == 4 and sets.query.paths[0] not in {hit.picture.path for hit in hits}


def test_a_folder_that_is_not_there_is_told_before_anything_is_served(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio")
    with pytest.raises(ValueError, match="expected images in .*, got no such folder"):
        explore.main(["--gallery", str(tmp_path / "none")])


def start(folder: Path, *words: str) -> tuple[subprocess.Popen[str], str, float]:
    """A page that is served, its address, and the seconds that it took."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "torchreid_genext", "explore", "--output", str(folder), *words]
    begun = time.perf_counter()
    served = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
    for line in served.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return served, found[0], time.perf_counter() - begun
    raise AssertionError(f"ended with {served.wait()}")


@pytest.fixture(scope="module")
def served(reid_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the page needs Gradio")
    folder = tmp_path_factory.mktemp("explore")
    process, url, _ = start(folder, "--dataset", "synthreid_tiny", "--root", str(reid_data))
    yield url
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="clicks need Playwright's package")
    if CHROMIUM is None:
        pytest.skip("clicks need a Chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def tab(request: pytest.FixtureRequest, browser: Any, served: str) -> Iterator[Any]:
    yield from opened(browser, served, request.param)


@pytest.fixture
def light(browser: Any, served: str) -> Iterator[Any]:
    yield from opened(browser, served, "light")


def opened(browser: Any, url: str, scheme: str) -> Iterator[Any]:
    """The page with people to choose from, in which nothing goes wrong and nobody else is asked."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1360, "height": 1000})
    page, faults = context.new_page(), []
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else faults.append(asked.url),
    )
    page.goto(url)
    page.wait_for_selector("#search-result .gx-hits")
    yield page
    context.close()
    assert not faults


def sources(page: Any, place: str) -> list[str]:
    return page.eval_on_selector_all(f"{place} .gx-row img", "images => images.map(image => image.src)")


@pytest.mark.slow
def test_a_search_is_answered_and_explained(tab: Any) -> None:
    tab.locator("[data-row]:visible").nth(1).click()
    name = tab.locator("[data-row]:visible").nth(1).get_attribute("title")
    tab.wait_for_function("name => document.querySelector('.gx-query h3').textContent === name", arg=name)
    assert tab.locator(".gx-hits .gx-match").count()
    tab.get_by_label("st: let time join").click()
    tab.wait_for_selector("#search-result .gx-time")
    assert tab.get_by_label("as text").input_value() == "nfc+st"
    tab.get_by_label("as text").fill("l2+rerank")
    tab.get_by_label("as text").press("Enter")
    tab.wait_for_function("document.querySelector('.gx-answer > h3').textContent.startsWith('After l2+rerank ')")
    tab.get_by_label("as text").fill("l2+rerank+nonsense")
    tab.get_by_label("as text").press("Enter")
    tab.wait_for_selector(".gx-error >> text=unknown step 'nonsense'")


@pytest.mark.slow
def test_people_are_posed_and_skeletons_dragged(tab: Any) -> None:
    tab.get_by_role("tab", name="Poses").click()
    tab.locator("[data-row]:visible").nth(2).click()
    tab.wait_for_function("document.querySelectorAll('#poses-result .gx-row img').length === 2")
    for name in ("PG2", "Deformable", "IPG"):
        tab.get_by_role("radio", name=name).click()
        tab.wait_for_selector(f"#poses-result h3 >> text=By {name}")
    before = sources(tab, "#poses-result")[1]
    wrist = tab.locator('#skeleton [data-joint="4"]').bounding_box()
    tab.mouse.move(wrist["x"] + 3, wrist["y"] + 3)
    tab.mouse.down()
    tab.mouse.move(wrist["x"] - 20, wrist["y"] - 60, steps=4)
    tab.mouse.up()
    changed = "before => document.querySelectorAll('#poses-result .gx-row img')[1].src !== before"
    tab.wait_for_function(changed, arg=before)
    before = sources(tab, "#poses-result")[1]
    tab.locator('#skeleton [data-joint="7"]').dblclick()
    tab.wait_for_function(changed, arg=before)
    assert tab.locator("#skeleton .ghost").count() == 1
    tab.get_by_role("button", name="Draw all standard poses").click()
    tab.wait_for_function("document.querySelectorAll('#poses-result .gx-row img').length === 9")
    assert len(set(sources(tab, "#poses-result"))) == 9


@pytest.mark.slow
def test_codes_are_drawn(tab: Any) -> None:
    tab.get_by_role("tab", name="Identity").click()
    people = tab.locator(".gx-picker:visible")
    people.nth(0).locator("[data-row]").nth(1).click()
    tab.wait_for_selector("#traits .gx-row")
    people.nth(1).locator("[data-row]").nth(4).click()
    tab.wait_for_selector("#way .gx-row")
    assert [len(set(sources(tab, place))) for place in ("#noises", "#way", "#traits")] == [8, 8, 7]
    before = sources(tab, "#traits")
    tab.get_by_role("button", name="Somebody who does not exist").click()
    changed = "before => document.querySelector('#traits .gx-row img').src !== before"
    tab.wait_for_function(changed, arg=before[0])


HOSTILE = {
    "bomb.png": (bomb(10_000), "at most 16 megapixels, got 10000 x 10000"),
    "text.png": (b"hello", "got another file"),
    "moving.gif": (encoded(Image.new("P", (30, 60)), "GIF"), "got another file"),
    "empty.png": (b"", "got an empty file"),
}


@pytest.mark.slow
def test_what_is_no_picture_is_told_and_the_page_goes_on(light: Any) -> None:
    field = light.locator("input[type=file]").first
    for name, (content, why) in HOSTILE.items():
        field.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
        light.wait_for_selector(f"#search-result .gx-error >> text={why}")
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(6_000_000)}
    field.set_input_files(large)
    light.wait_for_selector(".gx-said >> text=at most 5 MB")
    clear = encoded(Image.effect_noise((40, 90), 60).convert("RGBA"))
    field.set_input_files({"name": "clear.png", "mimeType": "image/png", "buffer": clear})
    light.wait_for_selector(".gx-query h3 >> text=uploaded picture")
    assert light.locator(".gx-hits .gx-unknown").count()


@pytest.mark.slow
def test_two_clicks_at_once_end_at_the_last(light: Any) -> None:
    people = light.locator("[data-row]:visible")
    for row in (1, 2, 3):
        people.nth(row).click(no_wait_after=True)
    name = people.nth(3).get_attribute("title")
    light.wait_for_function("name => document.querySelector('.gx-query h3').textContent === name", arg=name)
    light.wait_for_timeout(1000)
    assert light.locator(".gx-query h3").first.text_content() == name


def posted(url: str, place: str, content: Any) -> tuple[int, str]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(url + place, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:  # hung up on, since nobody reads so much
        return 413, ""


@pytest.mark.slow
def test_paths_lead_nowhere(served: str) -> None:
    for place in ("gradio_api/file=/etc/passwd", "file=/etc/hostname", "gradio_api/proxy=http://127.0.0.1/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(served + place, timeout=60)
    assert posted(served, "gradio_api/upload", b"x")[0] == 404
    assert posted(served, "gradio_api/queue/join", bytes(10_000_001))[0] == 413
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(urllib.request.Request(served, headers={"Host": "evil.example"}), timeout=60)


@pytest.mark.slow
def test_a_path_in_place_of_a_picture_is_not_read(served: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 64), (1, 2, 3)).save(secret)
    with urllib.request.urlopen(served + "config", timeout=60) as answer:
        dependencies = json.load(answer)["dependencies"]
    sent = [each["id"] for each in dependencies if any(target[1] == "sent" for target in each["targets"])]
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    for uri in (str(secret), f"file://{secret}", file):
        body = {"data": ["nfc", 5], "event_data": {"uri": uri}, "fn_index": sent[0], "session_hash": "s"}
        status, _ = posted(served, "gradio_api/queue/join", body)
        if status != 200:
            continue
        with urllib.request.urlopen(served + "gradio_api/queue/data?session_hash=s", timeout=60) as answer:
            told = answer.read().decode()
        assert (
            "expected a picture, got none" in told or '"success": false' in told or '"success":false' in told
        )
        assert "gx-hits" not in told


@pytest.mark.slow
def test_folders_of_crops_are_searched(browser: Any, reid_data: Path, tmp_path: Path) -> None:
    files = sorted((reid_data / "synthreid_tiny" / "query").glob("*.jpg"))[:12]
    (tmp_path / "crops").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "crops")
    process, url, _ = start(tmp_path, "--gallery", str(tmp_path / "crops"))
    try:
        for page in opened(browser, url, "light"):
            assert page.locator("[data-row]:visible").count() == 12
            assert page.locator(".gx-hits:not(.gx-small) .gx-unknown").count() >= 11
            assert page.get_by_label("st: let time join").is_disabled()
    finally:
        process.terminate()
        process.wait(60)
