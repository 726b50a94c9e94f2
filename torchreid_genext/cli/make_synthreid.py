"""Draw SynthReID, the embedded pedestrian world, in Market-1501's layout.

torchreid-genext make-synthreid --size small --root reid-data
torchreid-genext make-synthreid --sheet docs/synthreid.png
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from torchreid_genext.cli.parsing import Parser, from_zero, positive, refuse
from torchreid_genext.data.synthetic import MODES, SIZES, contact_sheet, write_dataset


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the data set, or a sheet."""
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.sheet:
        draw_sheet(arguments.sheet, arguments.people, arguments.seed)
    else:
        draw_dataset(arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, reads=())
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="how many people and pictures (default: small)"
    )
    parser.add_argument(
        "--mode", choices=MODES, default="visible", help="visible, infrared queries or occluded queries"
    )
    parser.add_argument(
        "--seed", type=from_zero, default=0, help="another seed is another world (default: 0)"
    )
    parser.add_argument(
        "--workers",
        type=from_zero,
        help="processes that draw, 0: none but this (default: one a thread of torch)",
    )
    parser.add_argument(
        "--root", default="reid-data", help="data root; the dataset gets a folder there (default: reid-data)"
    )
    parser.add_argument(
        "--sheet", metavar="FILE", help="instead, draw a contact sheet: people in rows, cameras in columns"
    )
    parser.add_argument("--people", type=positive, default=8, help="rows of the contact sheet (default: 8)")
    arguments = parser.parse_args(argv)
    if arguments.sheet:
        refuse(parser, arguments, ("size", "mode", "root"), "with --sheet, a picture of all worlds")
    else:
        refuse(parser, arguments, ["people"], "without --sheet; --size says how many people a data set has")
    return arguments


def draw_dataset(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.root) / folder_name(arguments.size, arguments.mode)
    begun = time.perf_counter()
    options = {name: getattr(arguments, name) for name in ("size", "seed", "mode", "workers")}
    manifest = write_dataset(folder, **options)
    seconds = time.perf_counter() - begun
    parts = ", ".join(f"{count} in {name}" for name, count in manifest.counts.items())
    print(f"{folder} is complete ({parts}) after {seconds:.1f} s")


def folder_name(size: str, mode: str) -> str:
    """Where the registered dataset of this size and mode looks; `small` and `visible` go without saying."""
    return "_".join(["synthreid", *(word for word in (size, mode) if word not in ("small", "visible"))])


def draw_sheet(path: str, people: int, seed: int) -> None:
    # a hundred colours without dithering look the same here, at a fifth of the bytes
    sheet = contact_sheet(people, seed=seed).quantize(
        100, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
    print(f"{path}: {people} people before every camera, in infrared and occluded")
