"""Generators of people, a paper a file."""

from __future__ import annotations
