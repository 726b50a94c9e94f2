"""Training-free steps and chains of them.

A step takes the query and the gallery set and returns both with new features. A chain is written as its steps
joined by ``+``, arguments in parentheses, left out where they are the default::

    base                                    no step: the features as they are
    l2                                      L2-normalised
    nfc(k1=4,k2=2,side=gallery)             normalised, centralized, normalised again
    fuse(eta=2)+nfc                         generated images first, then neighbours
    nfc(k1=1|2|4)                           a grid of three chains

A further step is a frozen dataclass with ``name``, ``uses`` and ``__call__``, and one line in ``STEPS``.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor
from torch.nn.functional import normalize

from torchreid_genext.retrieval.centralization import fuse_generated, nfc
from torchreid_genext.retrieval.sets import RetrievalSet

__all__ = ["Centralize", "Chain", "Fuse", "Normalize", "STEPS", "Step", "expand_chains"]

SIDES = ("query", "gallery", "both", "joint")


class Step(Protocol):
    """What a chain is made of."""

    name: str

    @property
    def uses(self) -> str:
        """What the step knows beyond the image pair it compares, for the protocol label; empty if nothing."""

    def __call__(
        self, query: RetrievalSet, gallery: RetrievalSet, *, memory_limit: int | None = None
    ) -> tuple[RetrievalSet, RetrievalSet]:
        """Both sets with new features; `memory_limit` is in bytes, None is the library's default."""


@dataclass(frozen=True)
class Normalize:
    """L2-normalise the features of both sets."""

    name = "l2"
    uses = ""

    def __call__(
        self, query: RetrievalSet, gallery: RetrievalSet, *, memory_limit: int | None = None
    ) -> tuple[RetrievalSet, RetrievalSet]:
        return _on_each(query, gallery, "both", normalize)


@dataclass(frozen=True)
class Centralize:
    """Neighbour feature centralization of each set, or of both as one.

    Attributes:
        k1: neighbours considered, in 1 .. N - 1.
        k2: how highly the neighbour must rank the image in return.
        side: ``query`` or ``gallery`` alone, ``both`` each on its own (the paper's), ``joint`` mixes the two
            sets.
        normalize_before: L2-normalise first.
        normalize_after: L2-normalise the sums, as the official demo does; the bare sums of the root
            ``NFC.py`` make images with neighbours longer than images without, which wrecks Euclidean ranking.
        self_distance: see ``centralization.nfc``.
    """

    k1: int = 2
    k2: int = 2
    side: str = "both"
    normalize_before: bool = True
    normalize_after: bool = True
    self_distance: float = float("inf")

    name = "nfc"

    def __post_init__(self) -> None:
        _check_side(self.side, SIDES)
        for key in ("k1", "k2"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ValueError(f"expected nfc {key} to be an integer >= 1, got {getattr(self, key)!r}")

    @property
    def uses(self) -> str:
        if self.side == "joint":
            return "transductive: neighbours across query and gallery"
        return {"both": "neighbours within each set"}.get(self.side, f"neighbours within the {self.side} set")

    def __call__(
        self, query: RetrievalSet, gallery: RetrievalSet, *, memory_limit: int | None = None
    ) -> tuple[RetrievalSet, RetrievalSet]:
        centralized = functools.partial(self._centralized, memory_limit=memory_limit)
        if self.side == "joint":
            return _on_joint(query, gallery, centralized)
        return _on_each(query, gallery, self.side, centralized, self._left_alone)

    def _centralized(self, features: Tensor, memory_limit: int | None) -> Tensor:
        if self.normalize_before:
            features = normalize(features)
        features = nfc(
            features, k1=self.k1, k2=self.k2, self_distance=self.self_distance, memory_limit=memory_limit
        )
        return normalize(features) if self.normalize_after else features

    def _left_alone(self, features: Tensor) -> Tensor:
        # The other side must stay comparable: it gets the same normalisation, but no neighbours.
        return normalize(features) if self.normalize_before or self.normalize_after else features


@dataclass(frozen=True)
class Fuse:
    """Add the features of generated images to those of the real ones; arguments as ``fuse_generated``."""

    eta: float = 1.0
    reduce: str = "mean"
    side: str = "both"

    name = "fuse"
    uses = "generated images"

    def __post_init__(self) -> None:
        _check_side(self.side, SIDES[:3])

    def __call__(
        self, query: RetrievalSet, gallery: RetrievalSet, *, memory_limit: int | None = None
    ) -> tuple[RetrievalSet, RetrievalSet]:
        return (
            self._fused("query", query) if self.side in ("query", "both") else query,
            self._fused("gallery", gallery) if self.side in ("gallery", "both") else gallery,
        )

    def _fused(self, name: str, images: RetrievalSet) -> RetrievalSet:
        if images.generated is None:
            raise ValueError(f"expected a {name} set with generated features for the step fuse, got none")
        return images.with_features(
            fuse_generated(images.features, images.generated, eta=self.eta, reduce=self.reduce)
        )


STEPS: dict[str, Callable[..., Step]] = {step.name: step for step in (Normalize, Centralize, Fuse)}


@dataclass(frozen=True)
class Chain:
    """Steps in the order in which they are applied."""

    steps: tuple[Step, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Chain:
        """Read one chain, such as ``fuse(eta=2)+nfc(k1=4)``.

        Raises:
            ValueError: if a step or argument is unknown (the choices are listed), or the text spans a grid.
        """
        chains = expand_chains([text])
        if len(chains) != 1:
            raise ValueError(f"expected one chain, got a grid of {len(chains)} in {text!r}")
        return chains[0]

    @property
    def name(self) -> str:
        """Canonical text of the chain: ``Chain.parse(chain.name) == chain``."""
        return "+".join(_step_text(step) for step in self.steps) or "base"

    @property
    def uses(self) -> tuple[str, ...]:
        """What its steps use beyond the pair of images that is compared."""
        return tuple(dict.fromkeys(step.uses for step in self.steps if step.uses))

    @property
    def is_identity(self) -> bool:
        return not self.steps


def expand_chains(texts: Iterable[str]) -> list[Chain]:
    """Read chains; ``|`` between values spans a grid. Repeated chains are given once, in order of the texts.

    Raises:
        ValueError: as ``Chain.parse``.
    """
    chains = [Chain(steps) for text in texts for steps in itertools.product(*map(_step_grid, _split(text)))]
    return list(dict.fromkeys(chains))


def _split(text: str) -> list[str]:
    parts = [part.strip() for part in re.split(r"\+(?![^(]*\))", text)]
    return [] if parts == ["base"] else parts


def _step_grid(text: str) -> list[Step]:
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", text)
    if match is None or match[1] not in STEPS:
        raise ValueError(f"unknown step {text!r}; choose from base, {', '.join(sorted(STEPS))}")
    step, arguments = STEPS[match[1]], _arguments(match[2] or "", text)
    known = [field.name for field in fields(step)]
    for key in arguments:
        if key not in known:
            raise ValueError(
                f"unknown argument {key!r} of step {step.name}; choose from {', '.join(known) or 'none'}"
            )
    return [step(**dict(zip(arguments, values))) for values in itertools.product(*arguments.values())]


def _arguments(text: str, step: str) -> dict[str, list[object]]:
    arguments = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, values = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"expected key=value in {step!r}, got {pair!r}")
        arguments[key] = [_value(value.strip()) for value in values.split("|")]
    return arguments


def _value(text: str) -> object:
    if text == "inf":
        return float("inf")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a bare word, such as gallery


def _step_text(step: Step) -> str:
    changed = [(field.name, getattr(step, field.name)) for field in fields(step)]
    changed = [
        f"{name}={value}" for (name, value), field in zip(changed, fields(step)) if value != field.default
    ]
    return f"{step.name}({','.join(changed)})" if changed else step.name


def _check_side(side: str, choices: tuple[str, ...]) -> None:
    if side not in choices:
        raise ValueError(f"unknown side {side!r}; choose from {', '.join(choices)}")


def _on_each(
    query: RetrievalSet,
    gallery: RetrievalSet,
    side: str,
    change: Callable[[Tensor], Tensor],
    otherwise: Callable[[Tensor], Tensor] = lambda features: features,
) -> tuple[RetrievalSet, RetrievalSet]:
    of_query = change if side in ("query", "both") else otherwise
    of_gallery = change if side in ("gallery", "both") else otherwise
    return query.with_features(of_query(query.features)), gallery.with_features(of_gallery(gallery.features))


def _on_joint(
    query: RetrievalSet, gallery: RetrievalSet, change: Callable[[Tensor], Tensor]
) -> tuple[RetrievalSet, RetrievalSet]:
    features = change(query.join(gallery).features)
    return query.with_features(features[: len(query)]), gallery.with_features(features[len(query) :])
