"""Files that are whole under their names, or not there.

What comes is called ``<name>.part`` until it is complete and checked. ``SHA256SUMS`` in the folder keeps the
sums of what was fetched, so that files are checked later also where nobody else has told theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.checkpoints.kinds import text_in
from torchreid_genext.download.archives import unpack
from torchreid_genext.download.known import HUB, File, Known, address, find
from torchreid_genext.download.transfer import Transfer, check_space, forget, part_of, size_of

__all__ = ["fault", "fetch"]

_BLOCK = 2**20
_SUMS = "SHA256SUMS"  # in the form of the command sha256sum


def fetch(
    what: str | Known | File,
    folder: str | Path,
    *,
    mirror: str | None = None,
    attempts: int = 5,
    pause: float = 1.0,
    progress: bool = True,
) -> list[Path]:
    """Fetch what is not there yet, or not as it should be.

    Args:
        what: a name in ``KNOWN``, or files that are not in it.
        folder: where they go.
        mirror: as of `address`.
        attempts: how often in a row a connection may fail without bringing anything.
        pause: seconds before the second attempt; doubled before each further one.
        progress: whether to show bars.

    Returns:
        Where the files are, all of them.

    Raises:
        ConnectionError: if a file cannot be had; says what to do without.
        OSError: if the disk is too small or cannot be written.
        ValueError: if the name is unknown, what came is not the file that is known (that is not kept), or it
            is an archive that Python cannot unpack.
    """
    found, folder = find(what) if isinstance(what, str) else what, Path(os.path.expanduser(folder))
    files = (found,) if isinstance(found, File) else found.files
    wanted = [file for file in files if fault(file, folder, progress=progress)]
    _check_space(wanted, folder)
    for file in wanted:
        transfer = Transfer(file, address(file, mirror), part_of(folder / file.path), progress)
        _fetch(transfer, folder, attempts, pause)
    for file in files:
        if file.packed:
            unpack(folder / file.path, folder)
    return [Path(folder, file.path) for file in files]


def fault(file: File, folder: str | Path, *, progress: bool = False) -> str | None:
    """What is wrong with a file on disk, without the network; None if nothing that could be known.

    Args:
        file: what should be there.
        folder: of its set.
        progress: whether to show a bar while it is read.
    """
    folder = Path(os.path.expanduser(folder))
    path = folder / file.path
    if path.is_file():
        wanted = file.sha256 or _sums(folder).get(file.path)
        return _misfit(path, file, wanted, progress)
    begun = size_of(part_of(path))
    return f"missing, but for {begun:,} bytes in {part_of(path).name}" if begun else "missing"


def _check_space(files: list[File], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, sum((file.size or 0) - size_of(part_of(folder / file.path)) for file in files))


def _fetch(transfer: Transfer, folder: Path, attempts: int, pause: float) -> None:
    file, part = transfer.file, transfer.part
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    transfer.run(attempts, pause, _by_hand(file, path))
    wanted = file.sha256 or transfer.told or _sha256(part, transfer.progress)
    if wrong := _misfit(part, file, wanted, transfer.progress):
        forget(part)
        raise ValueError(f"{wrong}, which came from {transfer.url} and was deleted. {_by_hand(file, path)}")
    _note(folder, file.path, wanted)
    os.replace(part, path)
    forget(part)


def _by_hand(file: File, path: Path) -> str:
    mirror = "Name a mirror (--mirror, or HF_ENDPOINT), or put" if file.url.startswith(HUB) else "Put"
    size = f", of {file.size:,} bytes," if file.size else ""
    return f"{mirror} the file{size} at {path} yourself; any machine that opens {file.url} can fetch it"


def _misfit(path: Path, file: File, sha256: str | None, progress: bool) -> str | None:
    if file.size is not None and size_of(path) != file.size:
        return f"expected {file.size:,} bytes, got {size_of(path):,} in {path}"
    if sha256 is not None and (found := _sha256(path, progress)) != sha256:
        return f"expected sha256 {sha256}, got {found} of {path}"
    return None if file.sha256 else _foreign(path, file.path)


def _foreign(path: Path, name: str) -> str | None:
    """What else came in place of a file whose sum nobody knows, such as the login page of a network."""
    if not name.endswith(".json"):
        return f"expected {name}, got {path}: {text}" if (text := text_in(path)) else None
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        return f"expected JSON in {name}, got {path}: {text_in(path) or error}"
    return None


def _sha256(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    total, name = size_of(path), f"checking {path.name}"
    bar = tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=not progress)
    with open(path, "rb") as file, bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """Of the files that were fetched, by path."""
    path = folder / _SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _note(folder: Path, name: str, digest: str) -> None:
    sums = _sums(folder) | {name: digest}
    checkpoints.write_text(folder / _SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
