"""A backbone as a run names it: ``[label=]name[(option=value,...)][@weights][@HxW]``, with its card."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchreid_genext.backbones import sources
from torchreid_genext.backbones.card import Card, Preprocessing, read_card

__all__ = ["Backbone"]

_OF_FILES = ("onnx", "features")  # whose name is a file, which may have any letters


@dataclass(frozen=True)
class Backbone:
    """A network, its weights, and what its card says.

    Attributes:
        label: its name in reports.
        name: of the architecture; see `sources`.
        weights: file; empty where there is none.
        size: height and width in pixels of what it sees; None for those of the card, else of ``data``.
        pretrained: whether weights are fetched where there is no file.
        options: of the network's constructor.
        card: of the weights; an empty one if they have none.
    """

    label: str
    name: str
    weights: str
    size: tuple[int, int] | None = None
    pretrained: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    card: Card = field(default_factory=Card)

    @property
    def is_random(self) -> bool:
        """Whether no weights are known, so that features mean nothing."""
        fetched = self.pretrained and sources.fetches_weights(self.name)
        return not (self.weights or fetched or sources.holds_weights(self.name))

    @property
    def title(self) -> str:
        """The label, with a warning where features mean nothing."""
        return f"{self.label} (random weights)" if self.is_random else self.label

    @property
    def origin(self) -> str:
        """The file of weights, or what stands in for it."""
        if self.weights or self.is_random:
            return self.weights or "random weights"
        return self.name.partition(":")[2] if sources.holds_weights(self.name) else "pretrained"

    def preprocessing(self, default: Preprocessing) -> Preprocessing:
        """What it sees: by the run's size, else the card, else `default`."""
        found = self.card.preprocess(default)
        return replace(found, height=self.size[0], width=self.size[1]) if self.size else found

    def saw(self, dataset: str) -> bool:
        """Whether it was trained on a data set, as its card says."""
        return dataset in self.card.trained_on

    @classmethod
    def parse(cls, text: str) -> Backbone:
        """Read ``[label=]name[(option=value,...)][@weights][@HxW]``; no file is opened.

        Raises:
            ValueError: if a part is empty, or options cannot be read.
        """
        found = re.match(r"([^=@:(]*)=", text)
        label, rest = (found[1], text[found.end() :]) if found else ("", text)
        rest, size = _without_size(rest)
        name, at, weights = (rest, "", "") if sources.source_of(rest)[0] in _OF_FILES else rest.partition("@")
        name, options = _without_options(name)
        if not name or (found and not label) or (at and not weights):
            form = "[label=]name[@weights][@HEIGHTxWIDTH]"
            raise ValueError(f"expected a model as {form}, got {text!r}")
        parts = (_short(name), Path(weights).stem, "x".join(map(str, size or ())))
        return cls(label or "@".join(filter(None, parts)), name, weights, size, options=options)

    @classmethod
    def of_model(cls, name: str, weights: str = "") -> Backbone:
        """What the keys ``model.name`` and ``model.load_weights`` mean, called as the first; raises as `parse`."""
        found = cls.parse(name)
        return replace(found, label=name, weights=weights or found.weights)

    def with_card(self) -> Backbone:
        """The same with what is found beside its weights; a card may be named in place of weights.

        Raises:
            ValueError: if a card cannot be read, or is one of another architecture.
            FileNotFoundError: if a card names weights that are not there; says where they are from.
        """
        file = self.weights or (self.name.partition(":")[2] if sources.holds_weights(self.name) else "")
        card = read_card(file) if file and not self.name.startswith("module:") else None
        if card is None:
            return self
        if card.architecture not in ("", self.name):
            raise ValueError(f"expected a card of {self.name}, got one of {card.architecture} for {file}")
        weights = _named_by(card, self.weights) if self.weights.endswith(".json") else self.weights
        return replace(self, card=card, weights=weights, options={**card.options, **self.options})


def _named_by(card: Card, path: str) -> str:
    """The file of weights that a card names."""
    if not card.weights:
        raise ValueError(f"expected a card that names its weights, got {path} without")
    places = [Path(os.path.expanduser(path)).parent / card.weights, Path(os.path.expanduser(card.weights))]
    weights = next((place for place in places if place.is_file()), None)
    if weights is None:
        cure = f"; {card.source}" if card.source else ""
        raise FileNotFoundError(f"expected the weights {card.weights} of {path}, got no such file{cure}")
    return str(weights)


def _short(name: str) -> str:
    """An architecture without its source and folders."""
    source, rest = sources.source_of(name)
    return Path(rest).stem if source in _OF_FILES else rest


def _without_size(text: str) -> tuple[str, tuple[int, int] | None]:
    found = re.search(r"@(\d+)x(\d+)$", text)
    return (text[: found.start()], (int(found[1]), int(found[2]))) if found else (text, None)


def _without_options(text: str) -> tuple[str, dict[str, Any]]:
    """A name, and what stands in brackets behind it."""
    if sources.source_of(text)[0] in _OF_FILES or not text.endswith(")") or "(" not in text:
        return text, {}
    name, _, inner = text[:-1].partition("(")
    try:
        call = ast.parse(f"f({inner})", mode="eval").body
        if call.args or any(each.arg is None for each in call.keywords):
            raise ValueError("an option without a name")
        return name, {each.arg: _value(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"expected options as (name=value, ...), got {text!r}: {error}") from error


def _value(node: ast.expr) -> Any:
    """A bare word is a text, as in chains."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
