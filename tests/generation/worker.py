"""A process that fills a store, light enough to be started often; its argument is JSON for `run`."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from torchreid_genext.data.images.reading import open_image
from torchreid_genext.data.store import ImageStore
from torchreid_genext.generation import Filled, Work, fill, works

POSES = ["1", "2", "3"]
MADE = {"weights": "a1b2", "sampler": {"name": "ddim", "steps": 20}}


def draw(work: Work) -> Image.Image:
    """Noise of the picture's seed with the reference in the middle."""
    image = Image.frombytes("RGB", (8, 16), random.Random(work.seed).randbytes(8 * 16 * 3))
    image.paste(open_image(work.reference).resize((4, 8)), (2, 4))
    return image


def generator(log: Path | None = None, delay: float = 0.0) -> Callable[[list[Work]], list[Image.Image]]:
    """What draws works, and notes which and by whom in a file before it does."""

    def generate(asked: list[Work]) -> list[Image.Image]:
        if log:
            with open(log, "a") as file:  # one write each, so lines of processes do not mix
                file.write("".join(f"{Path(w.reference).name} {w.pose} {os.getpid()}\n" for w in asked))
        if delay:
            time.sleep(delay)
        return [draw(work) for work in asked]

    return generate


def wait_for_others(folder: Path, count: int) -> None:
    """Until so many processes have come."""
    (folder / f"{os.getpid()}.here").touch()
    while len(list(folder.glob("*.here"))) < count:
        time.sleep(0.005)


def run(root: str, references: str, *, log: str = "", delay: float = 0.0, **options: Any) -> Filled:
    paths = sorted(str(path) for path in Path(references).iterdir())
    asked = works("query", paths, POSES, seed=7)
    generate = generator(Path(log) if log else None, delay)
    defaults = {"provenance": MADE, "batch_size": 4, "progress": False}
    return fill(ImageStore.create(root), asked, generate, **defaults | options)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "meet" in given:
        wait_for_others(Path(given.pop("meet")), 3)
    print(run(**given))
