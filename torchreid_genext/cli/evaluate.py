"""Measure features in files under chains of training-free steps.

torchreid-genext evaluate query.npz gallery.npz --chain base --chain "nfc+rerank" --output log/mine

A file is an npz (features, pids and, if known, camids, frames, paths), a mat with the same, a parquet with
a row for each image, or a npy with a CSV of the same name beside it. Without cameras the protocol is plain.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from torchreid_genext import benchmark
from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.features import measure_features
from torchreid_genext.cli.parsing import Parser, configuration
from torchreid_genext.cli.running import check_failures
from torchreid_genext.retrieval.files import load_sets
from torchreid_genext.retrieval.protocol import Chain, RetrievalSet, known

_READS = (
    "data.save_dir", "test.dist_metric", "genext.evaluation", "genext.benchmark.chains",
    "genext.benchmark.bootstrap", "genext.benchmark.seed", "genext.benchmark.open_set",
)  # fmt: skip
_CURES = {
    "training features": "name a file of the training split by --train",
    "training times": "name a file of the training split, with camids and frames, by --train",
    "cameras": "add camids to both files",
    "generated query": "add generated (N, P, D) to the query's file",
    "generated gallery": "add generated (N, P, D) to the gallery's file",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write the report if a folder is named."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    files = [arguments.query_file, arguments.gallery_file, *([arguments.train] if arguments.train else [])]
    sets = load_sets(*files)
    _check_needs(settings.chains(cfg), sets)
    write = "output" in arguments.given or "data.save_dir" in arguments.keys
    result = measure_features(cfg, *sets, names=files[:2], write=write)
    print(benchmark.table(result))
    if write:
        print(f"\nReport:   {result.folder / 'report.html'} (report.md, .json, .csv, config.yaml beside it)")
    check_failures(result.failures)


def _check_needs(chains: Sequence[Chain], sets: Sequence[RetrievalSet]) -> None:
    """Tell before any work what the files lack for a chain, and where it belongs."""
    there = known(*sets[:2], sets[2] if len(sets) > 2 else None)
    for chain in chains:
        try:
            chain.check_needs(there)
        except ValueError as error:
            missing = sorted(chain.needs - there)
            cures = dict.fromkeys(_CURES.get(need, f"add {need} to both files") for need in missing)
            raise ValueError(f"{error}, in the chain {chain.name}; {', '.join(cures)}") from error


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, _READS)
    parser.add_argument("query_file", metavar="QUERY", help="file of what is searched for")
    parser.add_argument("gallery_file", metavar="GALLERY", help="file of what is searched")
    parser.add_argument("--train", metavar="FILE", help="training split, for steps that learn")
    chain = "as nfc+rerank; repeat it for more (default: base, l2, nfc)"
    parser.add_key("--chain", key="genext.benchmark.chains", action="append", help=chain)
    parser.add_key("--protocol", key="genext.evaluation.protocol", help="market1501, plain, cuhk03, ...")
    parser.add_key("--metric", key="test.dist_metric", help="euclidean or cosine")
    parser.add_key(
        "--output", key="data.save_dir", metavar="FOLDER", help="report; without it none is written"
    )
    return parser.parse_args(argv)
