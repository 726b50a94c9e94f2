"""Image files: read with their faults by name, whole data sets in memory, and random changes of batches."""

from __future__ import annotations
