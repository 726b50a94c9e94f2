"""The page: one HTML file with its style, its script, its data and its thumbnails inside."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torchreid_genext.ranklists.lists import KINDS
from torchreid_genext.ranklists.templates import filled, resource

__all__ = ["render"]


def render(document: dict[str, Any], pictures: Mapping[str, str | None]) -> str:
    """The whole page as text.

    Args:
        document: rank lists as the JSON file says them.
        pictures: image file -> data URI, or None if the file cannot be read.
    """
    parts = {
        "@title@": html.escape(f"{document['label']} on {document['dataset']}: rank lists"),
        "/*@lists@*/": resource(__package__, "lists.js"),
        "/*@controls@*/": resource(__package__, "controls.js"),
        "@data@": _embedded(_compact(document, pictures)),
    }
    return filled(__package__, "page.html", "page.css", parts)


def _embedded(data: Any) -> str:
    """JSON that no HTML reader takes for markup, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _compact(document: dict[str, Any], pictures: Mapping[str, str | None]) -> dict[str, Any]:
    """The same lists with every image written once and named by its number; folders stay at home."""
    number = {path: place for place, path in enumerate(pictures)}
    images: list[Any] = [None] * len(number)

    def image(found: dict[str, Any]) -> int:
        path = found["path"]
        images[number[path]] = [PurePath(path).name, found["pid"], found["camid"], pictures[path]]
        return number[path]

    kinds = {kind: code for code, kind in enumerate(KINDS)}
    queries = [
        {
            "image": image(query),
            "lists": [
                {
                    "precision": ranked["AP"],
                    "first": ranked["first_match_rank"],
                    "places": [[image(p), kinds[p["kind"]], p["distance"]] for p in ranked["list"]],
                }
                for ranked in query["chains"].values()
            ],
        }
        for query in document["queries"]
    ]
    return {
        **{key: value for key, value in document.items() if key != "queries"},
        "kinds": KINDS,
        "images": images,
        "queries": queries,
    }
