"""Weights and data of others: what is known of them, and how they get here. The only room with a network."""

from __future__ import annotations

from torchreid_genext.download.fetching import fault, fetch
from torchreid_genext.download.known import HUB, KNOWN, File, Known, address, find, hub

__all__ = ["HUB", "KNOWN", "File", "Known", "address", "fault", "fetch", "find", "hub"]
