"""Packages that only some backbones need: imported when one is asked for, or named with their cure."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["needed"]


def needed(package: str, whose: str) -> Any:
    """Import a package.

    Args:
        package: its name, which is also that under which pip knows it.
        whose: who needs it, as the message begins.

    Raises:
        ImportError: if it, or a package that it needs, is missing; says how to install that.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        rule = f"{whose} need the module '{missing}', which is missing"
        raise ImportError(f"{rule}; install it with `pip install {missing}`") from error
