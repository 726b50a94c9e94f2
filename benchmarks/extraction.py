"""Speed of feature extraction: torchreid's way against this package's, whole runs from files to features.

    python benchmarks/extraction.py                                    # SynthReID, networks without training
    python benchmarks/extraction.py --dataset market1501 --weights osnet_x0_25=osnet_x0_25_msmt17_a.pth

Both ways read the same files in the same run, in turns, and the best turn of each counts. torchreid's way is
its ``ImageDataManager`` as it comes (batches of 32, four loading processes) with its engine's
``extract_features``. What a faster precision costs is told as the smallest cosine to torchreid's features,
and as mAP on these images. Measure on a machine without other work: torchreid's threads wait for each other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import torchreid_genext as genext
from torchreid_genext import checkpoints, compat
from torchreid_genext.extraction import Encoder, extract
from torchreid_genext.retrieval.protocol import RetrievalSet, evaluate

SPLITS = ("query", "gallery")
WAYS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "bf16, channels_last, compile": {"precision": "bf16", "channels_last": True, "compile": True},
}


def main() -> None:
    arguments = parse_arguments()
    genext.register()
    with contextlib.redirect_stdout(io.StringIO()):
        manager = subset(arguments)
    sizes = [len(manager.test_loader[arguments.dataset][split].dataset.data) for split in SPLITS]
    print(f"{arguments.dataset}: {' + '.join(map(str, sizes))} images, {torch.get_num_threads()} threads")
    for name in arguments.models:
        measure(name, build(name, dict(pair.split("=", 1) for pair in arguments.weights)), manager, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="synthreid")
    parser.add_argument("--root", default="reid-data", help="folder that holds the data sets")
    parser.add_argument("--models", nargs="+", default=["osnet_x0_25", "resnet50"])
    parser.add_argument("--weights", nargs="*", default=[], metavar="MODEL=FILE")
    parser.add_argument("--people", type=int, default=40, help="how many of the identities are used")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile, which takes a minute first"
    )
    return parser.parse_args()


def subset(arguments: argparse.Namespace) -> Any:
    """torchreid's data manager, whose test loaders give the images of the first identities."""
    names = [arguments.dataset]
    manager = compat.image_data_manager(root=arguments.root, sources=names, targets=names, use_gpu=False)
    loaders = manager.test_loader[arguments.dataset]
    people = sorted({record[1] for record in loaders["query"].dataset.data})[: arguments.people]
    for loader in loaders.values():
        loader.dataset.data = sorted(record for record in loader.dataset.data if record[1] in people)
    return manager


def build(name: str, weights: dict[str, str]) -> nn.Module:
    torch.manual_seed(0)
    model = compat.build_model(name, 1).eval()
    if name in weights:
        checkpoints.load_weights(model, weights[name])
    return model


def measure(name: str, model: nn.Module, manager: Any, arguments: argparse.Namespace) -> None:
    loaders = manager.test_loader[arguments.dataset]
    ways = {
        way: ours(Encoder(model, **keys), loaders)
        for way, keys in WAYS.items()
        if arguments.compile or "compile" not in keys
    }
    ways = {"torchreid": theirs(model, manager, loaders)} | ways
    best: dict[str, tuple[float, list[Tensor]]] = {}
    for _ in range(arguments.turns):
        for way, run in ways.items():
            start = time.perf_counter()
            features = run()
            duration = time.perf_counter() - start
            if way not in best or duration < best[way][0]:
                best[way] = duration, features
    report(name, best, loaders)


def theirs(model: nn.Module, manager: Any, loaders: dict[str, Any]) -> Callable[[], list[Tensor]]:
    engine = compat.engine_class("image", "softmax")(manager, model, optimizer=None, use_gpu=False)
    engine.set_model_mode("eval")

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [
            torch.cat([engine.extract_features(batch["img"]) for batch in loaders[split]]) for split in SPLITS
        ]

    return run


def ours(encoder: Encoder, loaders: dict[str, Any]) -> Callable[[], list[Tensor]]:
    paths = [[record[0] for record in loaders[split].dataset.data] for split in SPLITS]
    if encoder.compiled:
        extract(encoder, paths[0][:1], workers=0, progress=False)
    return lambda: [extract(encoder, files, progress=False).features for files in paths]


def report(name: str, best: dict[str, tuple[float, list[Tensor]]], loaders: dict[str, Any]) -> None:
    seconds, reference = best["torchreid"]
    exact = mean_precision(reference, loaders)
    print(f"\n{name:30} images/s   ratio   cosine       mAP   change")
    for way, (duration, features) in best.items():
        cosine = min(float(torch.cosine_similarity(*pair).min()) for pair in zip(features, reference))
        mean_ap = mean_precision(features, loaders)
        speed = sum(map(len, features)) / duration
        quality = f"{cosine:8.5f} {mean_ap:9.2%} {100 * (mean_ap - exact):+8.3f}"
        print(f"{way:30} {speed:8.1f} {seconds / duration:7.2f} {quality}")


def mean_precision(features: list[Tensor], loaders: dict[str, Any]) -> float:
    labels = [list(zip(*loaders[split].dataset.data))[1:3] for split in SPLITS]
    query, gallery = (RetrievalSet(rows, *columns) for rows, columns in zip(features, labels))
    return evaluate(query, gallery).mAP


if __name__ == "__main__":
    main()
