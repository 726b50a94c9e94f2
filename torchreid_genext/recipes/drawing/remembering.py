"""How a pipeline draws, remembered beside what it drew: weights need not be read again to be told apart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from torchreid_genext import checkpoints
from torchreid_genext.checkpoints import shipped
from torchreid_genext.generation import content_hash

__all__ = ["recall", "remember"]

_FILE = "pipelines.json"
_WITHOUT_EFFECT = ("batch_size", "poses", "seed", "compile")  # on what is remembered


def recall(cfg: CfgNode, root: Path, device: torch.device) -> dict[str, Any] | None:
    """What provenance says of pictures, if IPG drew with the same keys, and its files are as they were.

    Args:
        cfg: the whole configuration.
        root: folder of a store.
        device: on which it would draw.

    Returns:
        What was remembered, or None.
    """
    state = _state(cfg, device)
    return None if state is None else _known(root).get(state)


def remember(cfg: CfgNode, root: Path, device: torch.device, how: dict[str, Any]) -> None:
    """Note what provenance says, if the folder can be written; arguments as of `recall`."""
    if (state := _state(cfg, device)) is not None:
        with contextlib.suppress(OSError):
            checkpoints.write_json(root / _FILE, _known(root) | {state: how})


def _known(root: Path) -> dict[str, Any]:
    try:
        found = json.loads((root / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(cfg: CfgNode, device: torch.device) -> str | None:
    """Of keys and files; None for what is no folder, or another generator, whose weights are read quickly."""
    node = cfg.genext.sampling
    pipeline = shipped.named(node.pipeline)
    if cfg.genext.generator != "ipg" or not Path(pipeline).is_dir():
        return None
    keys = {name: value for name, value in node.items() if name not in _WITHOUT_EFFECT}
    files = [*_files(pipeline), *(_files(node.tiny_vae) if node.tiny_vae else ())]
    return content_hash(json.dumps([keys, files, device.type], sort_keys=True, default=str).encode())


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    """All files of a folder: name, bytes, and time in nanoseconds."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            yield str(path), path.stat().st_size, path.stat().st_mtime_ns
