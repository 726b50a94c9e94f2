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

import itertools
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from torchreid_genext.retrieval.steps import STEPS, Step
from torchreid_genext.retrieval.steps.base import NEEDS

__all__ = ["Chain", "expand_chains"]


@dataclass(frozen=True)
class Chain:
    """Steps in the order in which they are applied.

    Raises:
        ValueError: if a step follows re-ranking, or two steps replace or blend the distance.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if any(step.final for step in self.steps[:-1]):
            raise ValueError(
                f"expected re-ranking to be the last step, got another one after it in {self.name}"
            )
        if sum(step.measures for step in self.steps) > 1:
            raise ValueError(f"expected one step that replaces the distance, got several in {self.name}")
        if sum(step.name == "blend" for step in self.steps) > 1:
            raise ValueError(f"expected one step blend, got several in {self.name}")

    @classmethod
    def parse(cls, text: str | Chain) -> Chain:
        """Read one chain, such as ``fuse(eta=2)+nfc(k1=4)``; a chain is given back.

        Raises:
            ValueError: if a step or argument is unknown (the choices are listed), an argument repeats or is
                out of its range, or the text spans a grid.
        """
        if isinstance(text, Chain):
            return text
        chains = expand_chains([text])
        if len(chains) != 1:
            raise ValueError(f"expected one chain, got a grid of {len(chains)} in {text!r}")
        return chains[0]

    @property
    def name(self) -> str:
        """Canonical text of the chain: ``Chain.parse(chain.name) == chain``."""
        return "+".join(map(str, self.steps)) or "base"

    @property
    def uses(self) -> tuple[str, ...]:
        """What its steps use beyond the pair of images that is compared, each thing once."""
        return tuple(dict.fromkeys(use for step in self.steps for use in step.uses))

    @property
    def needs(self) -> frozenset[str]:
        """What its steps need besides features, keys of ``steps.base.NEEDS``."""
        return frozenset().union(*(step.needs for step in self.steps))

    @property
    def reranks(self) -> bool:
        """Whether its last step re-ranks."""
        return any(step.final for step in self.steps)

    @property
    def knows_time(self) -> bool:
        """Whether a step looks at when images were taken."""
        return not self.needs.isdisjoint(("frames", "training times"))

    @property
    def learns(self) -> bool:
        """Whether a step learns from the training split."""
        return not self.needs.isdisjoint(("training times", "training features"))

    @property
    def is_identity(self) -> bool:
        """Whether it has no step."""
        return not self.steps

    def check_needs(self, known: Container[str]) -> None:
        """Tell before any work what the data lack.

        Args:
            known: what there is, keys of ``steps.base.NEEDS``.

        Raises:
            ValueError: naming the first step that lacks something, and what.
        """
        for step in self.steps:
            missing = [NEEDS[need] for need in sorted(step.needs) if need not in known]
            if missing:
                raise ValueError(f"expected {' and '.join(missing)} for the step {step}, got none")


def expand_chains(texts: Iterable[str]) -> list[Chain]:
    """Read chains; ``|`` between values spans a grid. Repeated chains are given once, in order of the texts.

    Raises:
        ValueError: as ``Chain.parse``.
    """
    texts = [texts] if isinstance(texts, str) else texts
    chains = [Chain(steps) for text in texts for steps in itertools.product(*map(_step_grid, _split(text)))]
    return list(dict.fromkeys(chains))


def _split(text: str) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(f"expected a chain as text, such as 'l2+nfc', got {text!r}")
    parts = [part.strip() for part in re.split(r"\+(?![^(]*\))", text)]
    return [] if parts == ["base"] else parts


def _step_grid(text: str) -> list[Step]:
    if text == "base":
        raise ValueError("expected base, which is no step, alone, got it among others; leave it out")
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", text)
    if match is None or match[1] not in STEPS:
        raise ValueError(f"unknown step {text!r}; choose from base, {', '.join(sorted(STEPS))}")
    step, arguments = STEPS[match[1]], _arguments(match[2] or "", text)
    return [step.read(dict(zip(arguments, values))) for values in itertools.product(*arguments.values())]


def _arguments(text: str, step: str) -> dict[str, list[str]]:
    arguments: dict[str, list[str]] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, values = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"expected key=value in {step!r}, got {pair!r}")
        if key in arguments:
            raise ValueError(f"expected each argument once in {step!r}, got {key} again")
        arguments[key] = [value.strip() for value in values.split("|")]
    return arguments
