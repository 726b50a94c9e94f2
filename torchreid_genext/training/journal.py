"""What a training writes for people: scalars, sample pictures and a progress bar.

    scalars.jsonl    a line for each time of logging: {"step": 50, "loss": 0.71, ...}
    samples/         step-00001000-<name>.png
    tensorboard/     both of them once more

A full disk must not end a training, so what cannot be written here is told once and left out.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from torchreid_genext import checkpoints

__all__ = ["Journal"]

_log = logging.getLogger(__name__)


class Journal:
    """Writes from a step on; what an interrupted training wrote about later steps is dropped.

    Args:
        folder: of the training.
        step: how many steps are done already.
        steps: how many there will be.
        writes: whether this process is the one that writes; the others' journals do nothing.
    """

    def __init__(self, folder: Path, step: int, steps: int, *, writes: bool) -> None:
        self._folder, self._writes, self._told, self._estimated = folder, writes, False, False
        self._bar = tqdm(
            total=steps, initial=step, desc="training", unit="step", disable=None if writes else True
        )
        self._board: Any = None
        if writes:
            with self._optional():
                _drop_after(step, folder / "scalars.jsonl")
                self._board = _board(folder / "tensorboard", step)

    @contextlib.contextmanager
    def _optional(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._told:
                _log.warning("scalars or pictures are not written: %s", error)
            self._told = True

    def advance(self) -> None:
        """A step is done."""
        self._bar.update()

    def scalars(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Write numbers after a step, which took so many seconds; the main ones are shown."""
        shown = {name: f"{value:.4g}" for name, value in values.items() if _is_shown(name)}
        self._bar.set_postfix(shown)
        if self._writes:
            self._tell(step, shown, seconds)
            with self._optional(), open(self._folder / "scalars.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            with self._optional():
                self._to_board(step, values)

    def _tell(self, step: int, shown: Mapping[str, str], seconds: float) -> None:
        """Say the expected duration once, and where there is no progress bar all else too."""
        left = tqdm.format_interval((self._bar.total - step) * seconds)
        if self._bar.disable:
            numbers = ", ".join(f"{name} {value}" for name, value in shown.items())
            _log.info("step %d of %d: %s; %s to go", step, self._bar.total, numbers, left)
        elif not self._estimated:
            _log.info("training takes %s more at this speed", left)
        self._estimated = True

    def _to_board(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)

    def pictures(self, step: int, images: Mapping[str, Image.Image]) -> None:
        """Write pictures after a step."""
        for name, image in images.items() if self._writes else ():
            file = self._folder / "samples" / f"step-{step:08d}-{name}.png"
            with self._optional():
                with checkpoints.atomic_path(file) as temporary:
                    image.save(temporary, "PNG")
                if self._board:
                    self._board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        """Let what TensorBoard holds back be written."""
        if self._board:
            with self._optional():
                self._board.flush()

    def close(self) -> None:
        """End the progress bar and TensorBoard's file."""
        self._bar.close()
        if self._board:
            with self._optional():
                self._board.close()


def _is_shown(name: str) -> bool:
    return name.split("/")[-1] in ("loss", "images_per_second", "data_wait")


def _drop_after(step: int, path: Path) -> None:
    """Keep the lines up to a step; a last one that was cut off goes too."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        checkpoints.write_text(path, "".join(line for line in lines if _step(line) <= step))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1, flush_secs=30)
