"""Replays recordings of the official code: `$GENEXT_VECTORS`, ../shared/vectors, or tests/data/vectors.

Sizes, settings and tolerances are read from the recordings.
"""
