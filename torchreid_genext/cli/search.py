"""Search a gallery for images that nobody has labelled: ranked lists as JSON, CSV, npz and a page.

torchreid-genext search --query wanted --gallery crops --weights osnet.pth --top 20 --output log/search
torchreid-genext search --query query.npz --gallery gallery.npz --chain nfc --output log/search

A query or gallery is an image, a folder of images, or a file of features; see evaluate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from torchreid_genext.benchmark import settings
from torchreid_genext.benchmark.rank_lists import write_search
from torchreid_genext.cli import features
from torchreid_genext.cli.parsing import Parser, configuration, positive, refuse, set_up
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.files import SUFFIXES, load_sets
from torchreid_genext.retrieval.protocol import RetrievalSet, compare
from torchreid_genext.retrieval.searching import search, write_found


def main(argv: Sequence[str] | None = None) -> None:
    """Search, write the lists, and show the first of them."""
    arguments = parse_arguments(argv)
    cfg, chain = configuration(arguments), Chain.parse(arguments.chain)
    if chain.learns:
        raise ValueError(f"expected a chain that learns nothing, since a search has no training split, got {chain.name}")
    set_up(arguments)
    settings.check_keys(cfg)
    query, gallery = _sets(cfg, arguments.query, arguments.gallery)
    check_widths((query, gallery), (arguments.query, arguments.gallery))
    limit = cfg.genext.evaluation.memory_limit or None
    options = {"metric": cfg.test.dist_metric, "memory_limit": limit, "index": cfg.genext.evaluation.index}
    found = search(compare(query, gallery, chain, **options), top=arguments.top)
    folder = Path(cfg.data.save_dir).expanduser()
    files = [*write_found(found, folder)]
    if query.paths is not None and gallery.paths is not None:
        files.append(write_search(found, folder))
    for row in range(min(len(query), 3)):
        first = ", ".join(f"{place.name} ({place.distance:.3g})" for place in found.lists[row][:3])
        print(f"{found.queries[row]}: {first}")
    print(f"{len(query)} lists of {len(gallery)} images after {chain.name}: {', '.join(map(str, files))}")


def _sets(cfg: CfgNode, query: str, gallery: str) -> list[RetrievalSet]:
    paths = (query, gallery)
    stored = [*filter(_is_features, paths)]
    known = dict(zip(stored, load_sets(*stored, labelled=False)))
    images = {path: features.images_of(path) for path in paths if path not in known}
    network = features.encoder(cfg) if images else None
    return [known[path] if path in known else features.extracted(cfg, network, images[path]) for path in paths]


def check_widths(sets: Sequence[RetrievalSet], names: Sequence[str]) -> None:
    widths = [images.features.shape[1] for images in sets]
    if len({*widths}) > 1:
        found = " and ".join(f"{width} in {name}" for width, name in zip(widths, names))
        raise ValueError(f"expected query and gallery features of one width, got {found}")


def _is_features(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__, features.READS)
    parser.add_argument("--query", required=True, metavar="PATH", help="what is searched for")
    parser.add_argument("--gallery", required=True, metavar="PATH", help="what is searched")
    parser.add_argument(
        "--top", type=positive, default=20, metavar="N", help="length of a list (default: 20)"
    )
    parser.add_argument(
        "--chain", default="base", help="of training-free steps, as nfc+rerank (default: base)"
    )
    parser.add_root()
    features.add_encoder(parser)
    parser.add_key("--metric", key="test.dist_metric", help="euclidean or cosine")
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="for the lists, and the cache")
    arguments = parser.parse_args(argv)
    if _is_features(arguments.query) and _is_features(arguments.gallery):
        refuse(parser, arguments, ("model", "weights", "strict"), "with files of features, which no backbone makes")
    return arguments
