"""What an evaluation counts: protocols, those of the literature and everybody's own.

Of ``PROTOCOLS``, ``plain`` leaves out junk alone, for images without cameras. ``market1501`` leaves out gallery images of the query's own
identity and camera, and junk, whose identity is -1 (Zheng et al., ICCV 2015). ``cuhk03`` leaves out the same
and computes the CMC over one random image per identity, ten times (Li et al., CVPR 2014). ``streid`` is what
the authors of ST-ReID evaluate (Wang et al., AAAI 2019): average precision by the trapezoidal rule, and
queries without a match count as failures in all rates, where the other protocols leave them out. ``camstyle``
is ``market1501`` with the trapezoidal rule (Zhong et al., CVPR 2018). ``genid`` is what the authors of
GenerativePersonReID evaluate, kept to check their figures and to compare with nothing else: every gallery
image counts, the query's own camera included, and instead of a CMC there is the share of the matches among
the first 25 that stands among the first k, which is 1 at 25 and, for a query with no match there, everywhere.
A query without any match has an average precision of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from numpy.typing import ArrayLike

from torchreid_genext.retrieval._counting import Gallery

__all__ = ["PROTOCOLS", "Protocol", "protocol_named"]

_CURVES = ("cmc", "sampled", "recall")

_DENOMINATORS = ("matched", "all")


@dataclass(frozen=True)
class Protocol:
    """What an evaluation counts; make your own, or take one of ``PROTOCOLS`` by name.

    Attributes:
        name: for reports.
        junk_pid: identity of images that no ranking may hold; None: every image counts.
        own_camera: whether images of the query's identity and camera are matches like any other. Sets without
            cameras can be evaluated only so.
        denominator: rates are over the queries with a match (``matched``) or over ``all``.
        trapezoidal: average precision by the trapezoidal rule.
        curve: ``cmc``; ``sampled``, the CMC over one random image of each identity, mean of ten draws; or
            ``recall``, the share of the matches among the first 25 that stands among the first k.
        seed: of those draws, which are the same for every chain; None: numpy's global generator.
        note: what a reader of the figures must know; part of the label.

    Raises:
        ValueError: if the curve or the denominator is unknown, the seed is negative, or a field of another type.
    """

    name: str
    junk_pid: int | None = -1
    own_camera: bool = False
    denominator: str = "matched"
    trapezoidal: bool = False
    curve: str = "cmc"
    seed: int | None = 0
    note: str = ""

    def __post_init__(self) -> None:
        for name, choices in (("curve", _CURVES), ("denominator", _DENOMINATORS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}")
        rules = {
            "own_camera": ("True or False", isinstance(self.own_camera, bool)),
            "trapezoidal": ("True or False", isinstance(self.trapezoidal, bool)),
            "junk_pid": ("an integer or None", _is_whole(self.junk_pid)),
            "seed": ("an integer >= 0 or None", _is_whole(self.seed) and (self.seed or 0) >= 0),
        }
        for name in [name for name, (_, holds) in rules.items() if not holds]:
            raise ValueError(f"expected {name} to be {rules[name][0]}, got {getattr(self, name)!r}")

    @property
    def label(self) -> str:
        """The name for reports, with its note."""
        return f"{self.name} ({self.note})" if self.note else self.name

    @property
    def counts_unmatched(self) -> bool:
        """Whether a query without a match counts."""
        return self.denominator == "all"

    @property
    def fate_of_unmatched(self) -> str:
        """What becomes of queries without a match, for a warning."""
        if not self.counts_unmatched:
            return "they are left out of all rates"
        recall = ", their recall as 1" if self.curve == "recall" else ""
        return f"they count as failures: their average precision counts as 0{recall}"

    def check_cameras(self, camids: object, whose: str) -> None:
        """Raise ValueError if it needs cameras of images, ``whose`` in words, and there are none."""
        if camids is None and not self.own_camera:
            rule = f"expected cameras of the {whose} under protocol {self.name}"
            raise ValueError(f"{rule}, got none; without them take the protocol plain")

    def gallery(self, pids: ArrayLike, camids: ArrayLike | None, first: int = 0) -> Gallery:
        """Labels of consecutive gallery images, the first of which has index `first`, under these rules."""
        return Gallery(pids, camids, junk_pid=self.junk_pid, own_camera=self.own_camera, first=first)


def _is_whole(value: object) -> bool:
    """Whether it is an integer or None."""
    return isinstance(value, Integral | None) and not isinstance(value, bool)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("market1501"),
        Protocol("plain", own_camera=True),
        Protocol("cuhk03", curve="sampled"),
        Protocol("streid", denominator="all", trapezoidal=True),
        Protocol("camstyle", trapezoidal=True),
        Protocol(
            "genid", junk_pid=None, own_camera=True, denominator="all", curve="recall",
            note="its authors' own, rank-k is recall: not comparable",
        ),
    )
}  # fmt: skip


def protocol_named(protocol: Protocol | str) -> Protocol:
    """One of ``PROTOCOLS`` by its name; a ``Protocol`` is given back.

    Raises:
        ValueError: if the name is unknown; the message lists the choices.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
