"""From a configuration and trained generators to pictures: stores, strips and exhibitions."""

from __future__ import annotations
