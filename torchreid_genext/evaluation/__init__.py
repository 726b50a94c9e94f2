"""How good generators are: likeness of images, and how near they come to a truth that is known."""

from __future__ import annotations
