"""From a configuration to trained generators."""

from __future__ import annotations
