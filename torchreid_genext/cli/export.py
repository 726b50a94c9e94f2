"""Write a backbone as an ONNX file that gives the same table, or as safetensors with its card.

torchreid-genext export -t market1501 --root reid-data --output w.onnx model.name osnet_x1_0 --weights w.pth
torchreid-genext benchmark -t market1501 --root reid-data model.name onnx:w.onnx
torchreid-genext export --output w.safetensors model.name transreid --weights transformer_20.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torchreid_genext.benchmark import exporting
from torchreid_genext.cli.parsing import Parser, configuration, from_zero, set_up


def main(argv: Sequence[str] | None = None) -> None:
    """Export, compare, and tell how far both are apart; or write weights with their card."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    set_up(arguments)
    if arguments.output.endswith(".safetensors"):
        print(f"File:    {exporting.convert(cfg, arguments.output)} (its card in it)")
        return
    result = exporting.export(cfg, arguments.output, identities=arguments.identities)
    print(f"{result}\nFile:    {result.path} (its card beside it)")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_key("-t", "--targets", "--dataset", key="data.targets", nargs=1, help="data set to compare on")
    parser.add_root()
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="of the backbone model.name")
    parser.add_argument("--output", required=True, metavar="FILE", help="*.onnx or *.safetensors")
    parser.add_argument(
        "--identities", type=from_zero, default=50, help="on whose images both are run; 0: all (default: 50)"
    )
    return parser.parse_args(argv)
