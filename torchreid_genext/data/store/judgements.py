"""What a judge says of a picture: a file beside it, so that it goes where the picture goes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchreid_genext import checkpoints

__all__ = ["DAMAGED", "Mark", "mark_file", "read_mark", "write_mark"]

DAMAGED = "unreadable"  # the reason of a picture that is to be made again as it was
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mark:
    """A judgement; a picture with a reason against it is dropped, any other is kept.

    Attributes:
        reasons: why the picture is dropped, a word or two each; none if it is kept.
        measured: finite numbers by name, such as the similarity to the reference.
        gate: by what it was judged, such as thresholds: anything that JSON can say.
    """

    reasons: tuple[str, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether nothing speaks against the picture."""
        return not self.reasons


def mark_file(picture: Path) -> Path:
    """Where the mark of a picture lies, or would lie."""
    return picture.with_suffix(".mark.json")


def write_mark(picture: Path, mark: Mark) -> None:
    """Write a mark atomically, in place of an earlier one.

    Raises:
        ValueError: if a number is not finite.
    """
    said = {"kept": mark.kept, "reasons": list(mark.reasons), "measured": mark.measured, "gate": mark.gate}
    text = json.dumps(said, indent=2, allow_nan=False)  # a null would be no measurement
    checkpoints.write_text(mark_file(picture), f"{text}\n")


def read_mark(picture: Path) -> Mark | None:
    """The mark of a picture, or None if it has none; a damaged one is none, with a warning."""
    file = mark_file(picture)
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Mark(tuple(said["reasons"]), said["measured"], said["gate"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        _log.warning("left out, since it is no mark: %s", file)
        return None
