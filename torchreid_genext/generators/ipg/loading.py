"""Pipelines from wherever they are: saved ones, and the authors' files."""

from __future__ import annotations

import re
from pathlib import Path

from torchreid_genext.checkpoints import shipped
from torchreid_genext.generators.ipg.pipeline import IPGPipeline
from torchreid_genext.generators.ipg.transreid import TransReID

__all__ = ["load_any"]

_INDEX = "model_index.json"  # what a saved pipeline has, and the authors' folder has not
_BESIDE = {
    "stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
}  # folder beside the authors' files -> hub name


def load_any(
    source: str | Path,
    *,
    base_model: str | Path = "",
    vae: str | Path = "",
    reid_encoder: TransReID | None = None,
) -> IPGPipeline:
    """The pipeline of a folder or hub name, on the CPU.

    Args:
        source: of a saved pipeline, such as ``shipped:ipg``, or a folder of the authors' five files.
        base_model, vae: with those files, as of `IPGPipeline.from_official`; by default the folders
            stable-diffusion-v1-5 and sd-vae-ft-mse beside them, and where there are none those of the hub.
        reid_encoder: likewise.

    Raises:
        FileNotFoundError: if there is no such folder, or files are missing; names them.
        OSError: if the hub has no such pipeline, or cannot be reached.
        ValueError: if weights do not fit.
    """
    source = shipped.named(source)
    folder = Path(source)
    if not folder.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        rule = "expected a folder of a saved pipeline or of the authors' files, or a hub name"
        raise FileNotFoundError(f"{rule}, got {source!r}")
    if (folder / _INDEX).is_file() or not folder.is_dir():
        return IPGPipeline.from_pretrained(source)
    beside = [folder / name if (folder / name).is_dir() else hub for name, hub in _BESIDE.items()]
    return IPGPipeline.from_official(
        folder, base_model or beside[0], vae or beside[1], reid_encoder=reid_encoder
    )
