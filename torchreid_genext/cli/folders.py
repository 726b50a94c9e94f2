"""Options for people's own folders of images; together they make a name such as ``folder:PATH``."""

from __future__ import annotations

import argparse

from torchreid_genext.cli.parsing import Parser
from torchreid_genext.data.folders.names import PREFIX, folder_name

__all__ = ["add_folders", "name_folders"]


def add_folders(parser: Parser) -> None:
    """Options that name a folder for each split, and how names of files tell who is on them."""
    group = parser.add_argument_group("own images", f"see docs/own-data.md; {PREFIX}PATH names one folder")
    group.add_argument("--query", metavar="FOLDER", help="of images to search for, a folder for each person")
    group.add_argument("--gallery", metavar="FOLDER", help="of images to be searched")
    group.add_argument("--pattern", metavar="REGEX", help=r"as (?P<pid>\d+)_c(?P<camid>\d+), found in paths")


def name_folders(arguments: argparse.Namespace, key: str) -> argparse.Namespace:
    """Let the options stand for a data set, the value of a key.

    Raises:
        ValueError: if one of both folders is missing, or a data set is named, too.
    """
    given = {name: getattr(arguments, name) for name in ("query", "gallery", "pattern")}
    if not any(given.values()):
        return arguments
    if not (given["query"] and given["gallery"]):
        raise ValueError(
            f"expected --query and --gallery, got {', '.join(f'--{n}' for n in given if given[n])}"
        )
    if key in arguments.standing or key in arguments.keys:
        raise ValueError("expected either a data set or --query and --gallery, got both")
    arguments.standing[key] = [folder_name(**{name: value or "" for name, value in given.items()})]
    return arguments
