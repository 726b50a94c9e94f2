"""Trainings of small generators by their recipes: speed, share of the limit, waits for data and device."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from _gpu import TERA, Part, flops

import torchreid_genext as genext
from torchreid_genext.config import get_default_config
from torchreid_genext.data.synthetic import write_dataset
from torchreid_genext.recipes.training import gan, identity, ipg, schedules
from torchreid_genext.training import Fitted, Options, fit

WARM, SECONDS = 6, 3.0  # steps that are counted; of a timed training
FEW, MORE = 4, 12  # steps of two trainings whose difference tells how often a step waits
# of networks that only show that everything runs
SMALL = {
    "ipg.generator.widths": [8, 16], "ipg.generator.encoder": "osnet_x0_25@32x16",
    "identity.widths": [4, 6], "inverter.hidden": [8], "training.image_size": [32, 16],
    "pg2.channels": 4, "pg2.discriminator_channels": 2,
    "deformable.widths": [4, 4, 4], "deformable.discriminator_channels": [4, 4],
    "camstyle.channels": 4, "camstyle.blocks": 1, "camstyle.discriminator_channels": 4, "camstyle.layers": 1,
}  # fmt: skip
OF_CAMERAS = 12  # images in a batch of CamStyle: two of each camera of SynthReID
# recipe, its stages and by what its batches are multiplied; what users have by default comes first
TRAININGS: tuple[tuple[ModuleType, tuple[str, ...], int], ...] = (
    (ipg, ("ipg",), 1),
    (identity, ("gen", "prior", "inverter"), 1),
    (gan, ("pg2",), 1),
    (gan, ("deformable",), 1),
    (gan, ("camstyle",), 1),
    (ipg, ("ipg",), 8),
    (identity, ("gen", "prior", "inverter"), 8),
    (gan, ("pg2",), 8),
    (gan, ("deformable",), 8),
    (gan, ("camstyle",), 8),
)


class Watched:
    """Stands where recipes have `fit`: tries a training out first, and writes down how it went."""

    def __init__(self, part: Part, multiple: int) -> None:
        self.part, self.multiple = part, multiple

    def __call__(
        self, task: Any, source: Any, options: Options, *, description: Mapping[str, Any],
        finish: Callable[[], object],
    ) -> Fitted:  # fmt: skip
        part, row = self.part, f"{options.folder.name}, batches x {self.multiple}"

        def run(steps: int, kind: str) -> Fitted:
            folder = options.folder / kind if kind else options.folder
            changes = {"steps": steps, "save_every": 0, "picture_every": 0, "log_every": max(1, steps)}
            return fit(task, source, replace(options, folder=folder, **changes), description=description)

        total, _ = flops(lambda: run(WARM, "counted"))
        with part.trying(f"{row}, waits"):
            waits, places = self.waits(run)
        probe = run(20, "probe")
        batch = description["batch_size"] or len(next(iter(source(0, 0, 1)))[0])
        steps = 4 if part.tiny else min(2000, max(20, int(SECONDS * probe.images_per_second / batch)))
        part.start_memory()
        fitted = run(steps, "")
        finish()
        if part.profile:
            part.timed(row, lambda: run(10, "profiled"), 1)
        each = total / WARM / batch
        rate = fitted.images_per_second
        part.add(
            row, batch=batch, precision=options.mixed_precision, images_per_second=rate,
            milliseconds_a_step=1000 * batch / rate, data_wait=fitted.data_wait, waits_a_step=waits,
            gflop_per_image=each / 1e9, tflops=rate * each / TERA,
            of_product=rate * each / part.product("bf16" if options.mixed_precision == "bf16" else "tf32"),
            peak_gib=part.peak_gib(), steps=steps, where=places,
        )  # fmt: skip
        return fitted

    def waits(self, run: Callable[[int, str], Fitted]) -> tuple[float | None, str]:
        """How often a step waits for the device, beyond what a whole training does once, and where most."""
        if self.part.device.type != "cuda":
            return None, ""
        found = []
        for steps in (FEW, MORE):
            with counted_waits() as places:
                run(steps, f"waits{steps}")
            found.append(places)
        more = found[1] - found[0]
        often = ", ".join(f"{place} {count / (MORE - FEW):.1f}" for place, count in more.most_common(8))
        return sum(more.values()) / (MORE - FEW), often


@contextlib.contextmanager
def counted_waits() -> Iterator[Counter]:
    """File and line -> how often the host waited there for the device."""
    places: Counter = Counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in said:
        if "synchronizing" in str(warning.message):
            places[f"{'/'.join(Path(warning.filename).parts[-2:])}:{warning.lineno}"] += 1


def trainings(part: Part) -> None:
    """Each recipe on SynthReID, at the sizes that users have by default."""
    genext.register()
    name, size = ("synthreid_tiny", "tiny") if part.tiny else ("synthreid", "small")
    with tempfile.TemporaryDirectory() as root:
        write_dataset(Path(root, name), size=size, progress=False)
        for recipe, stages, multiple in TRAININGS[: 5 if part.tiny else None]:
            with part.trying(f"{', '.join(stages)}, batches x {multiple}"):
                train(part, recipe, stages, multiple, Path(root), name)


def train(
    part: Part, recipe: ModuleType, stages: tuple[str, ...], multiple: int, root: Path, source: str
) -> None:
    cfg = get_default_config()
    cfg.data.root, cfg.data.sources = str(root), [source]
    cfg.data.save_dir = str(root / f"runs{multiple}")
    for name, own in schedules.OWN.items():
        usual = own.batch_size and part.tiny and 4
        batch = (usual or own.batch_size or OF_CAMERAS) * multiple
        cfg.genext.training.stages.append(f"{name}(batch_size={batch})")
    cfg.genext.ipg.generator.encoder = "osnet_x0_25"
    for name, value in SMALL.items() if part.tiny else ():
        parent, _, key = name.rpartition(".")
        node(cfg, parent)[key] = value
    before, schedules.fit = schedules.fit, Watched(part, multiple)
    try:
        recipe.train(cfg, stages)
    finally:
        schedules.fit = before


def node(cfg: Any, name: str) -> Any:
    found = cfg.genext
    for word in name.split("."):
        found = found[word]
    return found
