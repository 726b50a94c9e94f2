"""torchreid's default configuration plus this plugin's node ``genext``, and the host arguments made of it.

Every config file written for torchreid works as it is, and yacs refuses unknown keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from torchreid_genext import checkpoints
from torchreid_genext.checkpoints import shipped
from torchreid_genext.config.arguments import (
    augmentation_kwargs,
    configure_model,
    engine_kwargs,
    image_data_kwargs,
    lr_scheduler_kwargs,
    optimizer_kwargs,
    run_kwargs,
    video_data_kwargs,
)
from torchreid_genext.config.genext import STEP_NODES, add_genext_config
from torchreid_genext.config.host import add_host_config
from torchreid_genext.config.keys import check_key, check_tree

__all__ = [
    "STEP_NODES", "add_genext_config", "augmentation_kwargs", "check_config", "configure_model",
    "engine_kwargs", "get_default_config", "image_data_kwargs", "load_config", "lr_scheduler_kwargs",
    "merge_file", "merge_options", "optimizer_kwargs", "run_kwargs", "video_data_kwargs",
    "write_config",
]  # fmt: skip

_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<kind>\w+)'> vs\. .*\) with values \((?P<ours>.*?) vs\. (?P<theirs>.*)\) "
    r"for config key: (?P<key>\S+)",
    flags=re.DOTALL,
)


def get_default_config() -> CfgNode:
    """torchreid's whole default tree plus ``cfg.genext``; ``use_gpu`` is True where torch sees a GPU."""
    import torch

    cfg = CfgNode()
    cfg.use_gpu = torch.cuda.is_available()
    add_host_config(cfg)
    add_genext_config(cfg)
    return cfg


def load_config(config_file: str = "", opts: Sequence[str] = (), **data: Any) -> CfgNode:
    """The defaults, overridden by a YAML file, then by `data`, then by ``key value`` pairs.

    Args:
        config_file: YAML file of keys that differ from the defaults.
        opts: ``key value key value ...``
        data: keys of ``cfg.data`` that torchreid's scripts take as options of their own (``sources``,
            ``targets``, ``transforms``, ``root``); empty ones leave the key as it is.

    Raises:
        ValueError: if the file is missing or not YAML, or a key is unknown or has a value of another type.
    """
    cfg = get_default_config()
    if config_file:
        merge_file(cfg, config_file)
    cfg.data.update({name: value for name, value in data.items() if value})
    merge_options(cfg, opts)
    return cfg


def merge_file(cfg: CfgNode, config_file: str) -> None:
    """Override `cfg` with a YAML file, which may be ``shipped:NAME``.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        tree = yaml.safe_load(Path(os.path.expanduser(shipped.named(config_file))).read_text(encoding="utf-8")) or {}
        if not isinstance(tree, dict):
            raise ValueError(f"{tree!r} is not a key with a value")
        check_tree(cfg, tree)
        cfg.merge_from_other_cfg(CfgNode(tree))
    except (OSError, KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        reason = _reason(error)
        raise ValueError(f"expected a YAML file of known keys, got {config_file}: {reason}") from error
    _expand_home(cfg)


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Override `cfg` with ``key value key value ...``.

    Raises:
        ValueError: naming the offending key or value.
    """
    if len(opts) % 2:
        raise ValueError(f"expected options in pairs 'key value', got {' '.join(opts)!r}")
    try:
        for key, value in zip(opts[::2], opts[1::2]):
            check_key(cfg, key, value)
        cfg.merge_from_list(list(opts))
    except (KeyError, ValueError, AssertionError) as error:
        given = " ".join(opts)
        raise ValueError(f"expected known keys and values, got {given!r}: {_reason(error)}") from error
    _expand_home(cfg)


def _expand_home(cfg: CfgNode) -> None:
    """Paths that begin with ``~`` lie in the home folder, as torchreid reads its own; only they begin so."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            _expand_home(value)
        elif isinstance(value, str):
            cfg[name] = os.path.expanduser(value)


def check_config(cfg: CfgNode) -> None:
    """Refuse combinations that would fail or mislead only after the data has been loaded.

    Raises:
        ValueError: naming the rule and the value.
    """
    if cfg.loss.name == "triplet" and cfg.loss.triplet.weight_x == 0 and cfg.train.fixbase_epoch > 0:
        # No gradient reaches the classifier, so there would be nothing to learn in those epochs.
        raise ValueError(
            f"expected train.fixbase_epoch 0 with loss.triplet.weight_x 0, got {cfg.train.fixbase_epoch}"
        )
    if cfg.test.visrank and not cfg.test.evaluate:
        raise ValueError("expected test.evaluate True with test.visrank True, got False")
    if cfg.test.visrank and cfg.test.visrank_topk < 1:
        raise ValueError(f"expected test.visrank_topk >= 1, got {cfg.test.visrank_topk}")


def _reason(error: Exception) -> str:
    """What is wrong, in one line; yacs speaks of types of Python."""
    if not (found := _MISMATCH.fullmatch(str(error))):
        return str(error)
    return "expected {key} to be {kind}, such as {ours}, got {theirs}".format(**found.groupdict())


def write_config(cfg: CfgNode, folder: str | Path) -> Path:
    """Write the merged configuration as ``folder/config.yaml``, which ``--config-file`` reads again."""
    return checkpoints.write_text(Path(folder) / "config.yaml", cfg.dump())
