"""Chains of training-free steps, and how they are written.

A step takes a comparison and returns it with other features, or with another distance. A chain is written as
its steps joined by ``+``, arguments in parentheses, left out where they are the default::

    base                                    no step: the features as they are
    l2                                      L2-normalised
    nfc(k1=4,k2=2,side=gallery)             normalised, centralized, normalised again
    fuse(eta=2)+nfc                         generated images first, then neighbours
    nfc(k1=1|2|4)                           a grid of three chains
    camera_norm+nfc(neighbours=cross_camera)+st     cameras, neighbours, time

The steps themselves are in ``steps``.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from torchreid_genext.retrieval.steps import STEPS, Step

__all__ = ["Chain", "expand_chains"]

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
        """What its steps use beyond the pair of images that is compared, each thing once."""
        used = (use for step in self.steps for use in step.uses.split(", "))
        return tuple(dict.fromkeys(filter(None, used)))

    @property
    def knows_time(self) -> bool:
        """Whether a step looks at when images were taken."""
        return "time stamps" in self.uses

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
