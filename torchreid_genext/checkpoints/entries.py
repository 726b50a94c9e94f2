"""Which part of a checkpoint is the weights: people keep them under many names, beside other things."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_USUAL = "state_dict"  # of torchreid and most others
_TAUGHT = {"student", "teacher"}  # of self-distillation, whose features are the teacher's
_DEPTH = 4  # of entries within entries

States = dict[str, dict[str, "Tensor"]]


def named_tensors(content: Any, path: str | Path, entry: str | None = None) -> dict[str, Tensor]:
    """The weights in what a file holds.

    Args:
        content: a mapping of names to tensors, or of names to such mappings, at any depth up to four.
            Numbers, texts and the states of optimizers beside them are passed over.
        path: names the file in errors.
        entry: which mapping, with dots between the names; None: ``state_dict``, else the only one;
            ``teacher`` where the other is ``student``.

    Raises:
        ValueError: if there is none, or there are several and no `entry` chooses; names them.
    """
    found = _states(content)
    if not found:
        raise ValueError(f"expected named tensors in {path}, got {_described(content)}")
    if entry is not None:
        return found[_chosen(found, path, entry)]
    if (name := _preferred(found)) is not None:
        _tell_others(found, path, name)
        return found[name]
    raise ValueError(
        f"expected one entry of named tensors in {path}, got {_listed(found)}; "
        f"choose with load_weights(model, path, entry={next(iter(found))!r})"
    )


def _preferred(found: States) -> str | None:
    if _USUAL in found or len(found) == 1:
        return _USUAL if _USUAL in found else next(iter(found))
    return "teacher" if found.keys() == _TAUGHT else None


def _states(content: Any) -> States:
    """All mappings that hold tensors, by their entry; those of networks, whose names have dots, if any."""
    found = _below("", content, _DEPTH)
    return {entry: state for entry, state in found.items() if any("." in name for name in state)} or found


def _below(entry: str, content: Any, depth: int) -> States:
    import torch

    if not isinstance(content, Mapping) or "param_groups" in content or depth < 0:  # an optimizer's
        return {}
    parts = {name: part for name, part in content.items() if isinstance(name, str)}
    deeper: States = {}
    for name, part in parts.items():
        deeper |= _below(f"{entry}.{name}".lstrip("."), part, depth - 1)
    tensors = {name: part for name, part in parts.items() if isinstance(part, torch.Tensor)}
    return deeper or ({entry: tensors} if tensors else {})


def _chosen(found: States, path: str | Path, entry: str) -> str:
    names = [name for name in found if name == entry or name.startswith(f"{entry}.")]
    if len(names) != 1:
        raise ValueError(f"expected an entry of {path} among {_listed(found)}, got {entry!r}")
    return names[0]


def _tell_others(found: States, path: str | Path, name: str) -> None:
    if others := {other: found[other] for other in found if other != name}:
        _log.info("%s: taken is the entry %r; passed over is %s", path, name, _listed(others))


def _listed(found: States) -> str:
    return ", ".join(f"{name!r} ({len(state)} tensors)" for name, state in found.items())


def _described(content: Any) -> str:
    if not isinstance(content, Mapping) or not content:
        return f"{'an empty ' * (isinstance(content, Mapping))}{type(content).__name__}"
    return f"the entries {', '.join(repr(name) for name in [*content][:8])}"
