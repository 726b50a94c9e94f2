"""Pages of one file: a template beside the code that fills it, with the colours that all pages share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

__all__ = ["filled", "resource"]


def filled(package: str, template: str, style: str, parts: Mapping[str, str]) -> str:
    """A page as text.

    Args:
        package: has the template and the style, as files.
        template: in which ``/*@style@*/`` stands for the style.
        style: of this page; it comes after the one that all share.
        parts: mark in the template -> what stands in its place, which is not looked into for further marks.
    """
    parts = {**parts, "/*@style@*/": resource(__package__, "scheme.css") + resource(package, style)}
    marks = "|".join(map(re.escape, parts))
    return re.sub(marks, lambda mark: parts[mark[0]], resource(package, template))


def resource(package: str, name: str) -> str:
    """A text file of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
