"""Draw mAP against what a chain costs and knows, from the report of a benchmark.

    python benchmarks/knowledge.py log/benchmark/report.json knowledge.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

# the first that a chain uses decides on its colour
KINDS = (
    ("training labels", "training labels", "tab:red"), ("time stamps", "cameras and times", "tab:orange"),
    ("camera ids", "cameras", "tab:green"), ("neighbo", "neighbours", "tab:blue"),
    ("generated", "generated images", "tab:purple"), ("", "the two images alone", "tab:gray"),
)  # fmt: skip


def kind_of(protocol: str) -> tuple[str, str]:
    """What a chain knows, by its protocol label, and the colour of it."""
    return next((name, colour) for word, name, colour in KINDS if word in protocol)


def draw(chains: list[dict[str, Any]], title: str, file: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for chain in chains:
        name, colour = kind_of(chain["protocol"])
        x, y = sum(chain["seconds"].values()), 100 * chain["mAP"]
        axes.scatter(x, y, color=colour, label=name)
        axes.annotate(chain["chain"], (x, y), xytext=(0, 5), textcoords="offset points", ha="right", size=7)
    axes.set(xscale="log", xlabel="seconds after extraction", ylabel="mAP, %", title=title)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(handles.values(), handles.keys(), title="knows", loc="upper left")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="report.json of torchreid-genext benchmark")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", type=int, default=0, help="which backbone of the report")
    args = parser.parse_args()
    report = json.loads(args.report.read_text())
    model = report["models"][args.model]
    draw([chain for chain in model["chains"] if "mAP" in chain], model["label"], args.picture)


if __name__ == "__main__":
    main()
