"""Fetch weights and data of others: goes on where it broke off, checks what came, and works with mirrors.

torchreid-genext download-pretrained --list
torchreid-genext download-pretrained ipg --output pretrained/ipg
torchreid-genext download-pretrained ipg --output pretrained/ipg --check
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

from torchreid_genext import download
from torchreid_genext.cli.parsing import Parser, refuse


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, check or list."""
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.list or not arguments.name:
        print("\n\n".join(described(name) for name in download.KNOWN))
        return
    known = download.find(arguments.name)
    folder = arguments.output or f"pretrained/{arguments.name}"
    faults = {file: download.fault(file, folder, progress=not arguments.quiet) for file in known.files}
    print("\n".join(f"{file.path}: {wrong or 'there'}" for file, wrong in faults.items()))
    wanted = [file for file, wrong in faults.items() if wrong]
    if wanted and arguments.check:
        sys.exit(f"error: {len(wanted)} of {len(faults)} files are missing or damaged")
    if wanted:
        fetch(replace(known, files=tuple(wanted)), folder, arguments)
    print(f"{folder} is complete. Next:\n{known.use.format(folder=folder)}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, reads=())
    parser.add_argument("name", nargs="?", help="what to fetch, see --list")
    parser.add_argument("--output", metavar="FOLDER", help="where it goes (default: pretrained/NAME)")
    parser.add_argument("--mirror", metavar="URL", help="stands in for the hub (default: HF_ENDPOINT)")
    parser.add_argument("--list", action="store_true", help="what there is, with sizes and licences")
    parser.add_argument("--check", action="store_true", help="only look at what is there; no network")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args(argv)
    if arguments.list or not arguments.name:
        refuse(parser, arguments, ("output", "mirror", "check", "quiet"), "with the list; say what to fetch")
    return arguments


def described(name: str) -> str:
    """Everything known under a name, a file a line."""
    known = download.KNOWN[name]
    lines = [f"{name}: {known.what}; read by {known.read_by}"]
    for file in known.files:
        checked = "sha256 known" if file.sha256 else ""
        lines.append(f"  {file.path:<49} {told(file):>19}  {file.licence:<28}  {checked}".rstrip())
    return "\n".join(lines)


def told(file: download.File) -> str:
    return "of unknown size" if file.size is None else f"{file.size:,} bytes"


def fetch(wanted: download.Known, folder: str, arguments: argparse.Namespace) -> None:
    """Say what will come, and fetch it."""
    for file in wanted.files:
        print(f"fetching {download.address(file, arguments.mirror)}, {told(file)}, {file.licence}")
    count, size = len(wanted.files), sum(file.size or 0 for file in wanted.files)
    print(f"{count} files to fetch into {folder}: {size:,} bytes where sizes are known", flush=True)
    download.fetch(wanted, folder, mirror=arguments.mirror, progress=not arguments.quiet)
