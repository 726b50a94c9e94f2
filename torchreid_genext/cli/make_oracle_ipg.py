"""Draw the oracle of pose-guided generation: each test person of SynthReID in eight standard poses.

torchreid-genext make-oracle-ipg --root reid-data --dataset synthreid
torchreid-genext make-oracle-ipg --root reid-data --sheet docs/oracle_ipg.png

The folder that it writes is what genext.ipg.root expects. The pictures know who is meant: what they gain is
the ceiling for generators that have to see it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from torchreid_genext.cli.parsing import Parser, configuration, from_zero, positive, refuse
from torchreid_genext.data.synthetic import read_manifest
from torchreid_genext.data.synthetic.standard_poses import standard_pose_sheet, write_standard_poses
from torchreid_genext.processes import usable_cores


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures, or a sheet."""
    arguments = parse_arguments(argv)
    dataset = Path(configuration(arguments).data.root, arguments.dataset)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.sheet:
        draw_sheet(arguments, dataset)
    else:
        draw_poses(arguments, dataset)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, reads=["data.root"])
    parser.add_key(
        "--root", key="data.root", metavar="FOLDER", help="holds the data sets (default: reid-data)"
    )
    parser.add_argument(
        "-s",
        "--dataset",
        default="synthreid",
        help="its folder there (default: synthreid; see make-synthreid)",
    )
    parser.add_argument("--output", help="folder of the pictures (default: <root>/<dataset>_ipg[_swapped])")
    parser.add_argument(
        "--swapped", action="store_true", help="draw the wrong people: a control, which must not help"
    )
    parser.add_argument(
        "--workers", type=from_zero, default=usable_cores(),
        help="drawing processes, 0: none but this (default: one a core)",
    )  # fmt: skip
    parser.add_argument("--sheet", metavar="FILE", help="instead, draw references beside their eight poses")
    parser.add_argument("--people", type=positive, default=4, help="rows of that picture (default: 4)")
    arguments = parser.parse_args(argv)
    if arguments.sheet:
        refuse(parser, arguments, ("output", "swapped"), "with --sheet, which is drawn instead")
    else:
        refuse(parser, arguments, ["people"], "without --sheet; everybody is drawn")
    return arguments


def draw_poses(arguments: argparse.Namespace, dataset: Path) -> None:
    folder = Path(arguments.output or f"{dataset}_ipg{'_swapped' * arguments.swapped}")
    begun = time.perf_counter()
    drawn = write_standard_poses(dataset, folder, swapped=arguments.swapped, workers=arguments.workers)
    print(f"{folder} is complete: {drawn} pictures drawn in {time.perf_counter() - begun:.1f} s")


def draw_sheet(arguments: argparse.Namespace, dataset: Path) -> None:
    manifest = read_manifest(dataset)
    # a hundred colours without dithering look the same here, at a fifth of the bytes
    sheet = standard_pose_sheet(manifest, arguments.people).quantize(
        100, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    Path(arguments.sheet).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.sheet, optimize=True)
    print(f"{arguments.sheet}: {arguments.people} people, as filmed and in the standard poses")
