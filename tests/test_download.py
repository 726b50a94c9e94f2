"""Fetching from a web server on this machine, and from one that breaks off, lies, has changed or is gone."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.loopback import Site, serving
from torchreid_genext import download
from torchreid_genext.download import KNOWN, File, Known

CONTENT = bytes(range(256)) * 1200  # of 307,200 bytes
SIZE, SUM = len(CONTENT), hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with serving() as site:
        site.files["/w.pth"] = CONTENT
        yield site


def known(site: Site, **changes: object) -> File:
    return replace(File("nested/w.pth", f"{site.url}/w.pth", "MIT", SIZE, SUM), **changes)


def get(file: File | Known | str, folder: Path, **options: object) -> list[Path]:
    return download.fetch(file, folder, **{"pause": 0, "progress": False, **options})


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_comes_whole_with_its_sum_and_nothing_else(site: Site, tmp_path: Path) -> None:
    assert get(known(site), tmp_path) == [tmp_path / "nested/w.pth"]
    assert (tmp_path / "nested/w.pth").read_bytes() == CONTENT
    assert left(tmp_path) == ["SHA256SUMS", "nested/w.pth"]
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path).returncode == 0


def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    get(known(site), tmp_path)
    get(known(site), tmp_path)
    assert len(site.asked) == 1
    (tmp_path / "nested/w.pth").write_bytes(CONTENT[::-1])
    get(known(site), tmp_path)
    assert len(site.asked) == 2 and (tmp_path / "nested/w.pth").read_bytes() == CONTENT


def test_files_put_in_place_by_hand_count(site: Site, tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested/w.pth").write_bytes(CONTENT)
    get(known(site), tmp_path)
    assert not site.asked


def test_a_broken_connection_is_tried_again_for_the_rest_only(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 50_000]
    get(known(site), tmp_path)
    assert site.wanted == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "nested/w.pth").read_bytes() == CONTENT


def test_another_call_goes_on_where_the_first_gave_up(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(ConnectionError, match="100,000 bytes are kept, and the next call goes on"):
        get(known(site), tmp_path, attempts=1)
    assert "nested/w.pth" not in left(tmp_path)
    fault = download.fault(known(site), tmp_path)
    assert fault == "missing, but for 100,000 bytes in w.pth.part"
    get(known(site), tmp_path)
    assert site.wanted == [None, "bytes=100000-"]


def test_progress_starts_the_count_of_attempts_anew(site: Site, tmp_path: Path) -> None:
    site.cuts = [30_000] * 9
    get(known(site), tmp_path, attempts=2)
    assert len(site.asked) == 10


def test_attempts_that_bring_nothing_end(site: Site, tmp_path: Path) -> None:
    site.refusals = [503] * 9
    with pytest.raises(ConnectionError, match="503 Service Unavailable"):
        get(known(site), tmp_path, attempts=3)
    assert len(site.asked) == 3
    site.refusals, site.ranges, site.cuts = [], False, [200_000] * 9  # never further than the first time
    with pytest.raises(ConnectionError, match="an end after 200,000 of 307,200 bytes"):
        get(known(site), tmp_path, attempts=3)
    assert len(site.asked) == 3 + 3


def test_a_server_without_ranges_gives_all_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cuts = False, [100_000]
    get(known(site), tmp_path)
    assert site.wanted == [None, "bytes=100000-"]
    assert (tmp_path / "nested/w.pth").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(site: Site, tmp_path: Path) -> None:
    file = known(site, sha256=None)
    site.cuts = [100_000]
    with pytest.raises(ConnectionError):
        get(file, tmp_path, attempts=1)
    site.files["/w.pth"] = CONTENT[::-1]
    get(file, tmp_path)
    assert (tmp_path / "nested/w.pth").read_bytes() == CONTENT[::-1]


def test_without_a_version_nothing_is_continued(site: Site, tmp_path: Path) -> None:
    site.versions, site.cuts = False, [100_000]
    get(known(site, sha256=None), tmp_path)
    assert site.wanted == [None, None]
    assert (tmp_path / "nested/w.pth").read_bytes() == CONTENT


def test_a_part_that_was_complete_is_taken_as_it_is(site: Site, tmp_path: Path) -> None:
    """As after a kill just before the file got its name."""
    site.cuts = [100_000]
    with pytest.raises(ConnectionError):
        get(known(site), tmp_path, attempts=1)
    (tmp_path / "nested/w.pth.part").write_bytes(CONTENT)
    get(known(site), tmp_path)
    assert site.wanted == [None, f"bytes={SIZE}-"]


def test_a_part_that_is_too_long_is_dropped(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(ConnectionError):
        get(known(site), tmp_path, attempts=1)
    (tmp_path / "nested/w.pth.part").write_bytes(CONTENT + b"more")
    get(known(site), tmp_path)
    assert site.wanted == [None, f"bytes={SIZE + 4}-", None]


def test_wrong_bytes_are_not_kept(site: Site, tmp_path: Path) -> None:
    site.files["/w.pth"] = CONTENT[::-1]
    with pytest.raises(ValueError, match=f"expected sha256 {SUM}, got [0-9a-f]{{64}} of .*w.pth") as raised:
        get(known(site), tmp_path)
    assert not left(tmp_path) and f"{tmp_path}/nested/w.pth yourself" in str(raised.value)


def test_a_file_of_another_size_is_refused_before_it_comes(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="got a file of 307,200 bytes instead of 307,201"):
        get(known(site, size=SIZE + 1), tmp_path)
    assert not left(tmp_path) and len(site.asked) == 1


def test_a_file_that_is_gone_says_where_to_put_it_by_hand(site: Site, tmp_path: Path) -> None:
    file = known(site, url=f"{site.url}/gone.pth")
    with pytest.raises(ConnectionError, match="expected nested/w.pth from .*/gone.pth, got 404") as raised:
        get(file, tmp_path)
    assert f"Put the file, of 307,200 bytes, at {tmp_path}/nested/w.pth yourself" in str(raised.value)
    assert len(site.asked) == 1


def test_a_server_that_is_not_there_names_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File("w.pth", download.hub("someone/something", "w.pth"), "MIT", SIZE)
    with serving() as site:
        nowhere = site.url
    with pytest.raises(ConnectionError, match="refused.*Name a mirror .--mirror, or HF_ENDPOINT."):
        get(file, tmp_path, mirror=nowhere, attempts=2)


def test_mirrors_stand_in_for_the_hub_only(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/someone/something/resolve/main/a/w.pth"] = CONTENT
    file = known(site, url=download.hub("someone/something", "a/w.pth"))
    get(file, tmp_path / "given", mirror=f"{site.url}/")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    get(file, tmp_path / "named")
    assert len(site.asked) == 2
    assert download.address(known(site), "https://elsewhere") == f"{site.url}/w.pth"
    with pytest.raises(ValueError, match="expected a mirror that begins with http:// or https://, got 'hf'"):
        get(file, tmp_path / "wrong", mirror="hf")


def test_the_sum_that_the_hub_tells_is_checked(site: Site, tmp_path: Path) -> None:
    """It tells before it sends on to a store; a range is asked of the store, too."""
    site.redirects["/hub"] = ("/w.pth", {"X-Linked-Etag": f'"{SUM}"'})
    site.cuts = [100_000]
    file = known(site, url=f"{site.url}/hub", sha256=None)
    get(file, tmp_path)
    assert site.asked[-1] == ("/w.pth", "bytes=100000-")
    site.redirects["/hub"] = ("/w.pth", {"X-Linked-Etag": f'"{SUM[::-1]}"'})
    with pytest.raises(ValueError, match=f"expected sha256 {SUM[::-1]}"):
        get(file, tmp_path / "other")
    assert not left(tmp_path / "other")


def test_files_of_which_nothing_is_known_are_checked_from_then_on(site: Site, tmp_path: Path) -> None:
    file = known(site, sha256=None, size=None)
    get(file, tmp_path)
    assert download.fault(file, tmp_path) is None
    (tmp_path / "nested/w.pth").write_bytes(CONTENT[::-1])
    assert download.fault(file, tmp_path).startswith(f"expected sha256 {SUM}")


def test_faults_on_disk_are_told(site: Site, tmp_path: Path) -> None:
    assert download.fault(known(site), tmp_path) == "missing"
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested/w.pth").write_bytes(CONTENT[:7])
    assert download.fault(known(site), tmp_path).startswith("expected 307,200 bytes, got 7 in")
    assert not site.asked


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked(site: Site, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of free space, got") as raised:
        get(known(site, size=2**60), tmp_path)
    assert raised.value.errno == errno.ENOSPC and not site.asked


def test_a_full_disk_keeps_what_came(site: Site, tmp_path: Path) -> None:
    """The limit on the size of a file acts as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="100,000 bytes are kept, and the next call goes on") as raised:
            get(known(site), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG and not isinstance(raised.value, ConnectionError)
    get(known(site), tmp_path)
    assert site.wanted == [None, "bytes=100000-"]


def test_two_processes_do_not_write_the_same_part(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "nested/w.pth.part"
    part.parent.mkdir()
    lines = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print(flush=True); input()"
    command = [sys.executable, "-c", lines, str(part)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ConnectionError, match="got another process, which is writing to .*w.pth.part"):
            get(known(site), tmp_path)
        other.communicate(b"\n")
    get(known(site), tmp_path)


def test_google_drive_goes_through_gdown(site: Site, tmp_path: Path) -> None:
    get(known(site, drive=True), tmp_path)
    assert left(tmp_path) == ["SHA256SUMS", "nested/w.pth"]
    with pytest.raises((ConnectionError, ValueError), match="expected .*nested/w.pth.* from .*/gone"):
        get(known(site, drive=True, url=f"{site.url}/gone"), tmp_path / "gone", attempts=1)


def test_several_files_come_in_one_call(site: Site, tmp_path: Path) -> None:
    site.files["/b.json"] = b"{}"
    both = Known("two", "nobody", "", (known(site), File("b.json", f"{site.url}/b.json", "MIT")))
    assert get(both, tmp_path) == [tmp_path / "nested/w.pth", tmp_path / "b.json"]
    assert left(tmp_path) == ["SHA256SUMS", "b.json", "nested/w.pth"]


PORTAL = b"<html><head><title>Sign in</title></head>captive portal login</html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("name", ["w.pth", "config.json", "w.safetensors", "a.archive"])
def test_a_web_page_is_taken_for_no_file(site: Site, tmp_path: Path, kind: str, name: str) -> None:
    site.files["/w.pth"], site.kind = PORTAL, kind
    file = known(site, path=name, size=None, sha256=None)
    with pytest.raises((ConnectionError, ValueError), match=f"{name}.* a web page.* fetch it"):
        get(file, tmp_path, attempts=1)
    assert not left(tmp_path)


def test_a_web_page_costs_nothing_of_what_came_before(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(ConnectionError):
        get(known(site), tmp_path, attempts=1)
    site.files["/w.pth"], site.kind = PORTAL, "text/html"
    with pytest.raises(ConnectionError, match="got a web page, .*100,000 bytes are kept"):
        get(known(site, size=None), tmp_path, attempts=1)
    site.files["/w.pth"], site.kind = CONTENT, "application/octet-stream"
    assert get(known(site), tmp_path)[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.json", PORTAL, "a web page"), ("config.json", b'{"a": ', "JSON"), ("w.pth", PORTAL, "page"),
        ("w.safetensors", POINTER, "git lfs pull"), ("w.pth", b'{"error": "quota"}', "it is JSON"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_its_name_is_a_fault_though_its_sum_was_noted(
    site: Site, tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    assert what in download.fault(known(site, path=name, size=None, sha256=None), tmp_path)


def packed(kind: str, names: Sequence[str]) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, name)
    else:
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
            for name in names:
                (member := tarfile.TarInfo(name)).size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_archives_are_unpacked_once(site: Site, tmp_path: Path, kind: str) -> None:
    site.files["/w.pth"] = packed(kind, ["query_gen/pose1/a.jpg", "query_gen/b.txt"])
    file = known(site, path="query.archive", size=None, sha256=None, packed=True)
    picture = tmp_path / "query_gen/pose1/a.jpg"
    for content in (b"query_gen/pose1/a.jpg", b"changed"):
        get(file, tmp_path)
        assert picture.read_bytes() == content
        picture.write_bytes(b"changed")
    names = ["query.archive", "query.archive.unpacked", "query_gen/b.txt", "query_gen/pose1/a.jpg"]
    assert left(tmp_path) == ["SHA256SUMS", *names] and len(site.asked) == 1


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_archives_write_nothing_elsewhere(site: Site, tmp_path: Path, kind: str) -> None:
    site.files["/w.pth"] = packed(kind, ["../evil.txt"])
    with contextlib.suppress(ValueError):  # zip files lose the dots, tar files are refused
        get(known(site, path="a.archive", size=None, sha256=None, packed=True), tmp_path / "in")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"Rar!\x1a\x07\0", "expected a zip or tar archive, got one of RAR in .*; unpack it with `7z x"),
        (b"7z\xbc\xaf" + bytes(9), "a zip or tar archive, got one of 7z in .*; unpack it with `7z x"),
        (bytes(9), "expected a zip or tar archive, got .*a.archive; try to unpack it with `7z"),
        (packed("gz", ["a" * 99] * 999)[:2000], "expected a whole archive, got .*a.archive"),
    ],
)  # fmt: skip
def test_archives_of_other_kinds_say_with_what(
    site: Site, tmp_path: Path, content: bytes, complaint: str
) -> None:
    site.files["/w.pth"] = content
    with pytest.raises(ValueError, match=complaint):
        get(known(site, path="a.archive", size=None, sha256=None, packed=True), tmp_path)
    assert left(tmp_path) == ["SHA256SUMS", "a.archive"]


def test_files_go_to_the_home_folder(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get(known(site), Path("~/weights")) == [tmp_path / "weights/nested/w.pth"]
    assert download.fault(known(site), "~/weights") is None


def test_withdrawn_data_are_never_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DukeMTMC-reID; it was withdrawn and is never downloaded"):
        download.fetch("DukeMTMC-reID", tmp_path)
    assert not any("duke" in file.url.lower() for entry in KNOWN.values() for file in entry.files)


def test_unknown_names_list_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown weights or data 'ipq'; choose from ipg, ipg_market1501"):
        download.fetch("ipq", tmp_path)


@pytest.mark.parametrize("name", KNOWN)
def test_the_table_is_sound(name: str) -> None:
    files = KNOWN[name].files
    assert len({file.path for file in files}) == len({file.url for file in files}) == len(files)
    for file in files:
        assert file.url.startswith("https://") and file.licence and not Path(file.path).is_absolute()
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
        assert file.drive == ("drive.google.com" in file.url)
    assert os.fspath(tmp := Path("somewhere")) in KNOWN[name].use.format(folder=tmp)


def test_the_addresses_of_ipg_are_those_of_its_repository() -> None:
    urls = [file.url for file in KNOWN["ipg"].files]
    assert "https://huggingface.co/yuanc3/Pose2ID/resolve/main/pretrained/IFR.pth" in urls
    base = "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve"
    assert f"{base}/451f4fe16113bff5a5d2269ed5ad43b0592e9a14/unet/config.json" in urls
