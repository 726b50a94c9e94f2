"""From a configuration to trained generators, and to their pictures."""

from __future__ import annotations
