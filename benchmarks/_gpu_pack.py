"""Wheels for a machine that has torch and its friends, but neither a network nor what is here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["pack"]

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 64 * 2**20  # bytes that may travel, the repository's own files included
# What a machine with torch, torchvision, accelerate, transformers, timm, OpenCV, SciPy and h5py lacks
WHEELS = (
    "diffusers",
    "yacs",
    "gdown",
    "beautifulsoup4",
    "soupsieve",
    "PySocks",
    "importlib_metadata",
    "zipp",
)
SOURCES = ("torchreid",)  # of these there may be no wheel: they are built here
TARGET = [
    "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp",
    *(word for platform in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
      for word in ("--platform", f"{platform}_x86_64")),
]  # fmt: skip


def pack(folder: Path) -> str:
    """Fetch all wheels into a folder, in the versions that are installed here; what was in it goes.

    Raises:
        subprocess.CalledProcessError: if pip cannot fetch one.
        ValueError: if wheels and repository are too large together.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "download", "--no-deps", *TARGET, "-d", folder, *map(pinned, WHEELS)], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, *map(pinned, SOURCES)], check=True)
    wheels = sum(path.stat().st_size for path in folder.glob("*.whl"))
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    tracked = sum(
        (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()
    )
    if wheels + tracked > LIMIT:
        raise ValueError(f"expected at most {LIMIT} bytes, got {wheels} of wheels and {tracked} of files")
    return f"{wheels / 2**20:.1f} MiB of wheels, {(wheels + tracked) / 2**20:.1f} MiB with the repository"


def pinned(name: str) -> str:
    """As installed here, so that what is measured is what is tested; else the newest."""
    try:
        return f"{name}=={version(name)}"
    except ModuleNotFoundError:
        return name
