"""What there is to know of a backbone beside its weights, as a JSON file that lies beside them.

{"architecture": "transreid", "feature": "before", "trained_on": ["market1501"],
 "preprocessing": {"height": 256, "width": 128, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
 "expected": {"market1501": {"base": {"mAP": 79.88, "rank1": 91.48}}}}
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchreid_genext import checkpoints
from torchreid_genext.checkpoints import shipped
from torchreid_genext.data.images.resizing import INTERPOLATIONS, RESIZES

__all__ = ["CAMERAS", "FEATURES", "Card", "Preprocessing", "read_card", "write_card"]

FEATURES = ("before", "after", "concatenated")  # the neck, a normalisation; or both, one behind the other
CAMERAS = ("none", "image", "zero")  # no camera is told to the network, the image's, or always the first
_RATES = ("mAP", "rank1")
_KEY = "card"  # in the metadata of safetensors


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image before the network sees it.

    Attributes:
        height, width: in pixels.
        mean, std: per channel, of images in [0, 1].
        interpolation: of pixels, such as ``bilinear`` or ``bicubic``.
        resize: ``stretch``, or ``letterbox`` with black bars.
    """

    height: int = 256
    width: int = 128
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    resize: str = "stretch"

    def __post_init__(self) -> None:
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("resize", self.resize, RESIZES)
        sizes = (self.height, self.width)
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"expected height and width in whole pixels, 1 at least, got {sizes}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three(name, getattr(self, name)))
        if not all(0 <= value <= 1 for value in self.mean) or not all(0 < value <= 1 for value in self.std):
            rule = "expected mean in 0..1 and std above 0, to 1, of images in [0, 1]"
            raise ValueError(f"{rule}, got {self.mean} and {self.std}; divide those of images in 0..255 by 255")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True)
class Card:
    """What a file says of a backbone; all of it may be left out.

    Attributes:
        architecture: as in a configuration, such as ``osnet_x1_0`` or ``timm:vit_base_patch16_224``.
        options: of its constructor.
        weights: file, seen from the card's folder or the working folder; for a card that is named in place of
            weights.
        preprocessing: keys of `Preprocessing`; others are those of the configuration.
        feature: one of `FEATURES`; empty: what the network gives by itself.
        camera: one of `CAMERAS`.
        licence: of the weights. source: where they are from.
        trained_on: names of data sets.
        expected: data set -> chain -> ``mAP`` and ``rank1`` in per cent.
    """

    architecture: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    feature: str = ""
    camera: str = "none"
    licence: str = ""
    source: str = ""
    trained_on: Sequence[str] = ()
    expected: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_choice("feature", self.feature, ("", *FEATURES))
        _check_choice("camera", self.camera, CAMERAS)
        for name in ("architecture", "weights", "licence", "source"):
            _check_kind(name, getattr(self, name), str, "a text")
        for name in ("options", "preprocessing", "expected"):
            _check_kind(name, getattr(self, name), Mapping, "names with values")
        self.preprocess(Preprocessing())
        if isinstance(self.trained_on, str) or not all(isinstance(each, str) for each in self.trained_on):
            raise ValueError(f"expected trained_on as a list of data sets, got {self.trained_on!r}")
        for rates in _rates(self.expected):
            if not isinstance(rates, Mapping) or not set(rates) <= set(_RATES) or not _are_rates(rates):
                rule = "expected under a data set and a chain: mAP and rank1 in per cent"
                raise ValueError(f"{rule}, got {rates!r}")

    def preprocess(self, default: Preprocessing) -> Preprocessing:
        """What the card says of images, and `default` where it says nothing."""
        _check_names(self.preprocessing, Preprocessing)
        return dataclasses.replace(default, **self.preprocessing)

    def expect(self, dataset: str, chain: str) -> Mapping[str, float]:
        """``mAP`` and ``rank1``, in per cent, of a chain on a data set; empty if it does not say."""
        return self.expected.get(dataset, {}).get(chain, {})

    def to_json(self) -> dict[str, Any]:
        """What it says, without what it leaves out."""
        default = Card()
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}


def read_card(path: str | Path) -> Card | None:
    """The card of a file of weights, in its metadata or beside it as ``<name>.json``; None if there is none.

    Args:
        path: of the weights, or of a card itself.

    Raises:
        ValueError: if a card says what it cannot; names the file, the rule and the cure.
    """
    path = Path(os.path.expanduser(shipped.named(path)))
    beside = path.with_suffix(".json")
    if beside.is_file():
        return _card(_json(beside), beside)
    if path.suffix == ".safetensors" and path.is_file():
        content = checkpoints.read_metadata(path).get(_KEY)
        return None if content is None else _card(content, path)
    return None


def write_card(path: str | Path, card: Card) -> Path:
    """Write a card beside weights, as ``<name>.json``; returns where it is."""
    return checkpoints.write_json(Path(path).with_suffix(".json"), card.to_json())


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        cure = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(f"expected a card in JSON, got {path}: {error}{cure}") from error


def _card(content: Any, path: Path) -> Card:
    try:
        _check_kind("the card", content, Mapping, "names with values")
        _check_names(content, Card)
        return Card(**content)
    except ValueError as error:
        raise ValueError(f"{error}, in the card {path}") from error


def _check_names(given: Mapping[str, Any], kind: type) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            cure = f"{f'did you mean {near[0]}? ' if near else ''}choose from {', '.join(names)}"
            raise ValueError(f"expected names that are known, got {name!r}; {cure}")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(filter(None, choices))}")


def _check_kind(name: str, value: Any, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"expected {name} as {words}, got {value!r}")


def _three(name: str, values: Any) -> tuple[float, ...]:
    fits = isinstance(values, Sequence) and len(values) == 3
    if not fits or not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"expected {name} as three numbers, one a channel, got {values!r}")
    return tuple(map(float, values))


def _rates(expected: Mapping[str, Any]) -> list[Any]:
    for chains in expected.values():
        _check_kind("what is expected on a data set", chains, Mapping, "chains with rates")
    return [rates for chains in expected.values() for rates in chains.values()]


def _are_rates(rates: Mapping[str, Any]) -> bool:
    return all(isinstance(rate, int | float) and 0 <= rate <= 100 for rate in rates.values())
