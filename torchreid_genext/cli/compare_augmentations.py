"""Train a backbone with and without generated images, several times each, and say which of them help.

torchreid-genext generate --generator camstyle --dataset synthreid --root reid-data
torchreid-genext compare-augmentations --config-file configs/synthreid_augmentation.yaml --root reid-data

The first fills the store that <dataset>_camstyle reads; so do ipg, pg2 and deformable with --split train. The
second trains on the first of data.sources alone, and on it with the images of each store. All trainings have
the same real images in each batch, as many updates, and the seeds; generated images come on top, real to
generated as genext.augmented.batch_ratio has it. With +lsr the labels of generated images are smoothed by 0.1
(CamStyle's LSR). A training that is finished is not repeated, so an interrupted comparison goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from tqdm import tqdm
from yacs.config import CfgNode

from torchreid_genext import benchmark, checkpoints, config, visualization
from torchreid_genext.cli.main import train_and_test
from torchreid_genext.cli.parsing import Parser, configuration, from_zero, set_up
from torchreid_genext.data.torchreid_training.datasets import KINDS, generated_folder
from torchreid_genext.data.torchreid_training.ratio_batches import shares

BASE, LSR = "none", "+lsr"
VARIANTS = (BASE, "pg2", "deformable", "ipg", "camstyle", f"camstyle{LSR}")
SMOOTHING = 0.1  # CamStyle's

Rates = dict[str, float]  # "mAP", "rank1" -> 0 .. 1


def main(argv: Sequence[str] | None = None) -> None:
    """Train and compare as the command line asks."""
    arguments = parse_arguments(argv)
    cfg = configuration(arguments)
    config.check_config(cfg)
    set_up(arguments, logging.WARNING)
    check(cfg, arguments.variants)
    both = [(variant, seed) for variant in arguments.variants for seed in arguments.seeds]
    print(f"{len(both)} trainings of {cfg.model.name}, {cfg.train.max_epoch} epochs each", flush=True)
    found: dict[str, list[Rates]] = {variant: [] for variant in arguments.variants}
    for variant, seed in tqdm(both, unit="training", disable=None):
        found[variant].append(measured(variant_of(cfg, variant, seed)))
    table = report(found)
    folder = Path(cfg.data.save_dir)
    checkpoints.write_text(folder / "comparison.md", table)
    draw(found, cfg, folder / "comparison.png")
    print(f"\n{table}\n{folder}/comparison.md, comparison.png")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__name__, __doc__)
    parser.add_key("-s", "--sources", "--dataset", key="data.sources", nargs=1, help="data set to train on")
    parser.add_key("-t", "--targets", key="data.targets", nargs=1, help="data set to test on")
    parser.add_root()
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="trainings and comparison")
    parser.add_argument(
        "--variants", nargs="+", default=[*VARIANTS],
        help=f"of {BASE}, {', '.join(KINDS)}, each with {LSR} or without (default: {' '.join(VARIANTS)})",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=from_zero, default=[0, 1, 2], help="a training each")
    return parser.parse_args(argv)


def check(cfg: CfgNode, variants: Sequence[str]) -> None:
    """Tell before the first training what the last would lack.

    Raises:
        ValueError: if a variant is unknown or has no images, or no ratio says how many join a batch.
    """
    for variant in variants:
        if (kind := variant.removesuffix(LSR)) not in (BASE, *KINDS):
            raise ValueError(f"unknown variant {variant!r}; choose from {BASE}, {', '.join(KINDS)}")
        folder = generated_folder(cfg.data.sources[0], cfg.data.root, kind) if kind != BASE else Path(".")
        if not folder.is_dir():
            rule = f"expected generated images for {variant} in {folder}"
            how = (
                f"torchreid-genext generate --generator {kind} --split train --dataset {cfg.data.sources[0]}"
            )
            raise ValueError(f"{rule}, got no folder; make them by {how}")
    if cfg.genext.augmented.root or not cfg.genext.augmented.batch_ratio:
        raise ValueError("expected genext.augmented.batch_ratio, such as '3:1', and no genext.augmented.root")


def variant_of(cfg: CfgNode, variant: str, seed: int) -> CfgNode:
    """The configuration of one training."""
    own, kind = cfg.clone(), variant.removesuffix(LSR)
    own.train.seed, own.data.save_dir = seed, str(Path(cfg.data.save_dir, variant, f"seed{seed}"))
    own.genext.augmented.seed = seed
    own.genext.augmented.label_smoothing = SMOOTHING if variant.endswith(LSR) else 0.0
    if kind == BASE:
        own.train.batch_size, _ = shares(cfg.train.batch_size, cfg.genext.augmented.batch_ratio)
        own.genext.augmented.batch_ratio = ""
    else:
        own.data.sources = [f"{cfg.data.sources[0]}_{kind}"]
    return own


def measured(cfg: CfgNode) -> Rates:
    """Train, if that was not done with these keys, and give the rates on the first of ``data.targets``."""
    folder, keys = Path(cfg.data.save_dir), cfg.dump()
    file = folder / "result.json"
    if file.is_file() and (done := json.loads(file.read_text()))["keys"] == keys:
        return done["rates"]
    with kept_quiet(folder / "log.txt"):
        train_and_test(cfg)
        tested = cfg.clone()
        tested.model.load_weights, tested.genext.benchmark.pictures = str(folder / "model.safetensors"), False
        (measurement,) = benchmark.run(tested).measurements
    rates = {"mAP": measurement.reports[0].mAP, "rank1": float(measurement.reports[0].cmc[0])}
    checkpoints.write_text(file, json.dumps({"rates": rates, "keys": keys}, indent=1))
    return rates


@contextlib.contextmanager
def kept_quiet(path: Path) -> Iterator[None]:
    """What torchreid prints goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log):
        yield


def report(found: Mapping[str, Sequence[Rates]]) -> str:
    """Mean and standard deviation over seeds, and the change of mAP against the first."""
    lines = ["| generated images | rank-1 | mAP | change of mAP |", "|---|---:|---:|---:|"]
    base = found[next(iter(found))]
    for variant, rates in found.items():
        change = mean(percent(rates, "mAP")) - mean(percent(base, "mAP"))
        cells = [spread(percent(rates, name)) for name in ("rank1", "mAP")]
        lines.append(f"| {variant} | {cells[0]} | {cells[1]} | {change:+.1f} |")
    return "\n".join(lines) + "\n"


def percent(rates: Sequence[Rates], name: str) -> list[float]:
    return [100 * each[name] for each in rates]


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def draw(found: Mapping[str, Sequence[Rates]], cfg: CfgNode, path: Path) -> None:
    """Bars of the means; black lines lead from the worst seed to the best."""
    bars = [
        visualization.Bar(variant, *(value for name in ("mAP", "rank1") for value in extent(rates, name)))
        for variant, rates in found.items()
    ]
    note = f"Dashes: {bars[0].chain}. Black: from the worst to the best of {len(found[bars[0].chain])} seeds."
    title = f"{cfg.model.name} on {cfg.data.sources[0]}, with generated images"
    checkpoints.write_bytes(path, visualization.png(visualization.chain_bars({title: bars}, note=note)))


def extent(rates: Sequence[Rates], name: str) -> tuple[float, tuple[float, float]]:
    values = [each[name] for each in rates]
    return mean(values), (min(values), max(values))
