"""Weights and recipes that come with the package, found from any folder by name: ``shipped:osnet_x0_25``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

__all__ = ["PRETRAINED", "file", "located", "named", "names"]

_PREFIX = "shipped:"
_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds configs and pretrained; in a clone they lie beside it.
_HOUSE = next((each for each in (_PACKAGE, _PACKAGE.parent) if (each / "pretrained").is_dir()), _PACKAGE)
PRETRAINED = _HOUSE / "pretrained/synthreid"
_OURS = re.compile(r"(?:^|(?<=@))(?:pretrained/|shipped:)[^@]+")  # also in NAME@shipped:FILE@64x32


def names() -> dict[str, Path]:
    """What there is: recipes, files of weights and folders of pipelines."""
    found = [*(_HOUSE / "configs").glob("*.yaml"), *PRETRAINED.glob("*.safetensors")]
    found += [path for path in PRETRAINED.glob("*") if path.is_dir()]
    return {path.stem: path for path in sorted(found)}


def named(path: str | Path) -> str:
    """The path that ``shipped:NAME`` stands for; other paths as they are.

    Raises:
        FileNotFoundError: if nothing of that name comes with the package; the message lists what does.
    """
    if not (text := str(path)).startswith(_PREFIX):
        return text
    known = names()
    if (name := text.removeprefix(_PREFIX)) not in known:
        choices = ", ".join(known) or "nothing, since the package was installed without its data"
        rule = "expected a name of what comes with the package"
        raise FileNotFoundError(f"{rule}, got {text}; choose from {choices}")
    return str(known[name])


def file(path: str) -> str:
    """As `named`; also a file or folder that is not below the working folder, but where shipped ones are.

    Args:
        path: such as ``shipped:demo``, or relative: ``configs/demo.yaml``.
    """
    path = os.path.expanduser(named(path))
    return path if Path(path).exists() or not (_HOUSE / path).exists() else str(_HOUSE / path)


def located(node: Any) -> Any:
    """A configuration (a dict), changed in place, or a value, whose shipped weights are found by `file`."""
    if isinstance(node, dict):
        for name, value in node.items():
            node[name] = located(value)
    elif isinstance(node, list):
        return [located(each) for each in node]
    elif isinstance(node, str):
        return _OURS.sub(lambda found: file(found[0]), node)
    return node
