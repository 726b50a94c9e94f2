"""The page that fetches weights: what it says, what it leaves, and that it needs no network to check."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loopback import Site, serving
from torchreid_genext.cli import download_pretrained
from torchreid_genext.download import HUB, KNOWN

FILES = KNOWN["ipg"].files
SMALL = FILES[5]  # the configuration of a U-Net, whose size is not known


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with serving() as site:
        yield site


def holding(folder: Path) -> Path:
    """All but one small file, as long as they are known to be, though holes."""
    for file in FILES:
        if file != SMALL and file.sha256 is None:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as empty:
                empty.truncate(file.size)
    return folder


def test_list_tells_sizes_and_licences(capsys: pytest.CaptureFixture[str]) -> None:
    download_pretrained.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    (unet,) = [line.split() for line in lines if "denoising_unet" in line]
    assert unet[:4] == ["denoising_unet.pth", "3,438,374,293", "bytes", "MIT"]
    assert sum("  " + file.path in line for line in lines for file in FILES) == len(FILES)


def test_check_names_what_is_missing_without_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="error: 3 of 8 files are missing or damaged"):
        download_pretrained.main(["ipg", "--output", str(holding(tmp_path)), "--check"])
    out = capsys.readouterr().out
    assert "IFR.pth: there" in out and "unet/config.json: missing" in out


def test_what_will_come_is_told_first_and_what_to_do_with_it_last(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KNOWN["ipg_market1501"]
    plain = [type(file)(file.path, f"{HUB}/a/{file.path}", "MIT", 2) for file in known.files]
    monkeypatch.setitem(KNOWN, "small", type(known)("two files", "nobody", "look at {folder}", tuple(plain)))
    site.files = {f"/a/{file.path}": b"\0\0" for file in plain}
    words = ["small", "--output", str(tmp_path), "--mirror", site.url, "--quiet"]
    download_pretrained.main(words)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"{plain[0].path}: missing" and last == f"look at {tmp_path}"
    assert len(site.asked) == 2
    download_pretrained.main(words)
    assert len(site.asked) == 2
    download_pretrained.main([*words, "--check"])
    assert f"{tmp_path} is complete" in capsys.readouterr().out


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match="choose from ipg"):
        download_pretrained.main(["everything"])
