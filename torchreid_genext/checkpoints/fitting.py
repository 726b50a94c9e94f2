"""Weights of a file put into a network, every tensor in its place or none at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchreid_genext.checkpoints.entries import named_tensors
from torchreid_genext.checkpoints.kinds import is_safetensors
from torchreid_genext.checkpoints.reading import existing, read, read_metadata, without_wrappers
from torchreid_genext.checkpoints.saving import unwrapped

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_log = logging.getLogger(__name__)
_CLASSIFIER = "classifier"
# What others call it, with its own weight and bias only: torchreid's `fc.0.weight` belongs to features.
_LIKE_IT = re.compile(r"(fc|head|last_linear|(head|classifier)\.(fc|classifier))\.(weight|bias)")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "base.", "image_encoder.", "encoder.")
_PEELINGS = 16  # ways of taking prefixes off that are tried

Kinds = dict[str, list[str]]


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    ignore: Iterable[str] = (_CLASSIFIER,),
    entry: str | None = None,
) -> list[str]:
    """Fill `model` from a weights file; every tensor must fit, but for those of layers in `ignore`.

    Prefixes ``module.``, ``_orig_mod.``, ``model.``, ``net.``, ``backbone.``, ``base.``, ``image_encoder.``
    and ``encoder.`` are taken off where names fit the model without them. Where ``classifier`` is ignored, so
    is another's in the file: ``fc`` or ``head``.

    Args:
        model: filled in place, on its device and in its dtype; it is left as it is if anything does not fit.
        path: what `safe_load` reads. A model with a method ``adapt`` is handed metadata, tensors and path
            first, so that weights decide on the size of a network that comes in several; one with a method
            ``translated`` gives the tensors the names that it knows them by.
        ignore: beginnings of layer names that may be absent or of another size. Classifiers belong to the
            training identities, so torchreid's weights are exchanged without them.
        entry: as in `safe_load`.

    Returns:
        The names that were left out for that reason, sorted.

    Raises:
        FileNotFoundError: as `safe_load`.
        ValueError: as `safe_load`, or if the weights are another model's; lists what is missing, unexpected
            or of another shape.
    """
    path = existing(path)
    state = named_tensors(read(path), path, entry)
    if hasattr(unwrapped(model), "adapt"):
        metadata = read_metadata(path) if is_safetensors(path) else {}
        unwrapped(model).adapt(metadata, without_wrappers(state), path)
    if hasattr(unwrapped(model), "translated"):
        state = unwrapped(model).translated(without_wrappers(state), path)
    return fill(model, state, path, ignore=ignore)


def fill(
    model: nn.Module, state: Mapping[str, Tensor], source: str | Path, *, ignore: Iterable[str] = ()
) -> list[str]:
    """As `load_weights`, from tensors in memory; `source` names them in errors."""
    model, ignore = unwrapped(model), tuple(ignore)
    expected = model.state_dict()
    state = min(_peelings(state), key=lambda named: _number(_faults(_misfits(named, expected), ignore)))
    misfits = _misfits(state, expected)
    faults = _faults(misfits, ignore)
    if _number(faults):
        found = _describe(faults, state, expected)
        raise ValueError(f"expected weights of {type(model).__name__}, got {source}: {found}")
    left_out = {name for names in misfits.values() for name in names}
    fitting = {name: state[name] for name in expected if name in state and name not in left_out}
    # A model without memory takes the tensors as they are, which needs no second copy of them.
    model.load_state_dict(fitting, strict=False, assign=any(tensor.is_meta for tensor in expected.values()))
    _tell([name for name in left_out if name in state], source)
    return sorted(left_out)


def _peelings(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """Tensors by their names, then without what wrappers put before them, in one order after another."""
    found = [state]
    for named in found:
        yield named
        for prefix in (*_PREFIXES, _shared(named)):
            peeled = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
            if peeled.keys() != named.keys() and len(peeled) == len(named) and len(found) < _PEELINGS:
                found.append(peeled)


def _shared(names: Iterable[str]) -> str:
    """The first part, with its dot, that all names have in common, whatever it is called; else nothing."""
    parts = {name.partition(".")[0] + "." for name in names if "." in name}
    return parts.pop() if len(parts) == 1 else ""


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Kinds:
    # Batch counters came late to BatchNorm and mean nothing for features: older files lack them.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    other = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    return {"missing": missing, "unexpected": unexpected, "of another shape": other}


def _faults(misfits: Kinds, ignore: tuple[str, ...]) -> Kinds:
    """Misfits without those of ignored layers."""
    faults = {
        kind: [name for name in names if not name.startswith(ignore)] for kind, names in misfits.items()
    }
    if _CLASSIFIER in ignore:
        faults["unexpected"] = [name for name in faults["unexpected"] if not _LIKE_IT.fullmatch(name)]
    return faults


def _number(faults: Kinds) -> int:
    return sum(map(len, faults.values()))


def _tell(names: list[str], source: str | Path) -> None:
    if names:
        words = "%s: left out %s, a classifier of other identities, which features do not need"
        _log.info(words, source, ", ".join(sorted(names)))


def _describe(faults: Kinds, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    shapes = {
        name: f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in faults["of another shape"]
    }
    return "; ".join(
        f"{len(names)} {kind} ({_shortened([shapes.get(name, name) for name in names])})"
        for kind, names in faults.items()
        if names
    )


def _shortened(names: list[str], limit: int = 8) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def resume_training(path: str | Path, model: nn.Module, optimizer: Optimizer, scheduler: Any) -> int:
    """Continue from a checkpoint that torchreid wrote: weights, optimizer and learning rate schedule.

    torchreid's own reader fails on its own files since torch 2.6, because they hold a NumPy scalar.

    Returns:
        The epoch to start with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a checkpoint, or one of another model.
    """
    checkpoint = read(path)
    required = {"state_dict", "optimizer", "scheduler", "epoch"}
    if not isinstance(checkpoint, Mapping) or not required <= checkpoint.keys():
        raise ValueError(f"expected a training checkpoint with {', '.join(sorted(required))}, got {path}")
    # Nothing is adapted or left out: another size would be new parameters, not the optimizer's.
    fill(model, named_tensors(checkpoint, path, "state_dict"), path)
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    return int(checkpoint["epoch"])
