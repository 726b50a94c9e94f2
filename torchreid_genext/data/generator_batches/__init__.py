"""Which images make up a step of a generator's training."""

from __future__ import annotations
