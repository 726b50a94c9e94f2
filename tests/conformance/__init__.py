"""Replays recordings of the official code: `$GENEXT_VECTORS`, else ../shared/vectors, else the copies in tests/data.

Sizes, settings and tolerances are read from the recordings.
"""
