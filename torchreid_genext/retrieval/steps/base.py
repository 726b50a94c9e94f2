"""What a step is: a frozen dataclass that checks its fields when it is made and says what it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar

from torch import Tensor

from torchreid_genext.retrieval.comparison import Comparison
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["NEEDS", "SIDES", "Step", "on_each", "on_joint", "option"]

SIDES = ("query", "gallery", "both", "joint")
# what a step may need besides features -> how a message names it
NEEDS = {
    "cameras": "camids in both sets",
    "frames": "frames in both sets",
    "training times": "times of the training split",
    "training features": "features of the training split",
    "generated query": "a query set with generated features",
    "generated gallery": "a gallery set with generated features",
}
_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {
    "bool": "True or False", "int": "an integer", "float": "a number", "float | None": "a number or None",
    "str": "a word",
}  # fmt: skip


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    infinite: bool = False,
) -> Any:
    """A field of a step: its default, what it means, and its range.

    Args:
        default: of the type that the field's annotation names.
        help: comment of its configuration key.
        choices: all that a word may be.
        least: smallest number. above: number that it must exceed. most: largest number.
        infinite: whether infinity is a value.
    """
    rule = {"choices": choices, "least": least, "above": above, "most": most, "infinite": infinite}
    return field(default=default, metadata={"help": help, **rule})


@dataclass(frozen=True)
class Step:
    """What a chain is made of: a comparison in, the comparison with other features or distances out.

    A further step is a frozen dataclass with a ``name``, fields made by ``option`` and ``__call__``, and an
    entry in ``STEPS``.

    Attributes:
        name: in the text of a chain.
        measures: whether it replaces the distance; a chain has one such step at most.
        final: whether no step can follow.

    Raises:
        ValueError: if a field has a value of another type or out of its range.
    """

    name: ClassVar[str]
    measures: ClassVar[bool] = False
    final: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(self.name, item, getattr(self, item.name)))

    @property
    def needs(self) -> frozenset[str]:
        """What it needs besides features, keys of ``NEEDS``."""
        return frozenset()

    @property
    def uses(self) -> tuple[str, ...]:
        """What it knows beyond the images it compares, for the label of a report."""
        return ()

    def __call__(self, comparison: Comparison) -> Comparison:
        """The comparison with other features, or with another measure."""
        raise TypeError(f"{type(self).__name__} has no __call__")

    def __str__(self) -> str:
        """Text of the step: its name, and the fields that are not at their defaults."""
        values = [(item.name, getattr(self, item.name), item.default) for item in fields(self)]
        changed = ",".join(f"{name}={_text(value)}" for name, value, default in values if value != default)
        return f"{self.name}({changed})" if changed else self.name

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Step:
        """A step from the texts of its fields.

        Raises:
            ValueError: if a field is unknown (the choices are listed), or as the class.
        """
        known = {item.name: item for item in fields(cls)}
        for name in texts:
            if name not in known:
                choices = ", ".join(known) or "none"
                raise ValueError(f"unknown argument {name!r} of step {cls.name}; choose from {choices}")
        return cls(**{name: _value(known[name], text) for name, text in texts.items()})


def _text(value: object) -> str:
    """The shortest text that means the value: 2 for 2.0."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _value(item: Field, text: str) -> object:
    """The value that a text means for a field; text that means none is left to the check."""
    if item.type == "bool":
        return _SWITCH.get(text.lower(), text)
    if item.type == "float | None" and text.lower() in ("none", "null"):
        return None
    for kind in {"int": (int,), "float": (int, float), "float | None": (int, float)}.get(item.type, ()):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def _checked(step: str, item: Field, value: object) -> object:
    """The value of a field, or a ValueError that names the rule."""
    what = f"expected {step} {item.name}"
    if item.type == "float | None" and value is None:
        return value
    if not _is_of_kind(item.type, value):
        raise ValueError(f"{what} to be {_KINDS[item.type]}, got {value!r}")
    if item.type == "str":
        choices = item.metadata["choices"]
        if value not in choices:
            raise ValueError(
                f"unknown {item.name} {value!r} of step {step}; choose from {', '.join(choices)}"
            )
    elif item.type != "bool":
        _check_range(what, item, value)
    return {"int": int, "bool": bool, "str": str}.get(item.type, float)(value)


def _is_of_kind(kind: str, value: object) -> bool:
    if kind in ("bool", "str"):
        return isinstance(value, {"bool": bool, "str": str}[kind])
    return isinstance(value, Integral if kind == "int" else Real) and not isinstance(value, bool)


def _check_range(what: str, item: Field, value: float) -> None:
    rule = item.metadata
    bounds = [f">= {rule['least']:g}"] if rule["least"] > -math.inf else []
    bounds += [f"> {rule['above']:g}"] if rule["above"] > -math.inf else []
    bounds += [f"<= {rule['most']:g}"] if rule["most"] < math.inf else []
    bounds += [] if rule["infinite"] or item.type == "int" else ["finite"]
    inside = rule["least"] <= value <= rule["most"] and (value > rule["above"] or rule["above"] == -math.inf)
    if not inside or (math.isinf(value) and not rule["infinite"]):
        kind = "an integer" if item.type == "int" else "a number"
        rule = " ".join(filter(None, (kind, " and ".join(bounds))))
        raise ValueError(f"{what} to be {rule}, got {value!r}")


def on_each(
    comparison: Comparison,
    side: str,
    change: Callable[[RetrievalSet], Tensor],
    otherwise: Callable[[RetrievalSet], Tensor] = lambda images: images.features,
) -> Comparison:
    """Change the features of one side or both, each set on its own; `otherwise` those of the other side."""
    query, gallery = comparison.query, comparison.gallery
    of_query = change if side in ("query", "both") else otherwise
    of_gallery = change if side in ("gallery", "both") else otherwise
    return comparison.with_sets(
        query.with_features(of_query(query)), gallery.with_features(of_gallery(gallery))
    )


def on_joint(comparison: Comparison, change: Callable[[RetrievalSet], Tensor]) -> Comparison:
    """Change the features of both sets as if they were one."""
    query, gallery = comparison.query, comparison.gallery
    features = change(query.join(gallery))
    return comparison.with_sets(
        query.with_features(features[: len(query)]), gallery.with_features(features[len(query) :])
    )
