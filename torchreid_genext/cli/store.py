"""Look after a store of generated images.

torchreid-genext store list STORE
torchreid-genext store verify STORE --repair
torchreid-genext store remove STORE --split query --seed 77 --dry-run
torchreid-genext store remove STORE --where "sampling.steps!=20"
torchreid-genext store remove STORE --changed reid-data/market1501/query

The first tells what is there and how it was made, and where there are two pictures of one person in one pose.
The second reads every picture; --repair deletes what is damaged, so that generate makes it again. The others
delete what is chosen: pictures that meet all options. Files that the store has not written are never touched.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from torchreid_genext.cli.parsing import OneLine
from torchreid_genext.data.store import SPLITS, ImageStore
from torchreid_genext.generation import manifest
from torchreid_genext.generation.repairing import (
    Choice,
    Condition,
    changed_since,
    doubled,
    faults,
    remove,
    repair,
    seeds_of,
)

SHOWN = 10  # lines of what may be many


def main(argv: Sequence[str] | None = None) -> None:
    """Show, verify or thin out a store."""
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    {"list": show, "verify": verify, "remove": remove_chosen}[arguments.command](arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLine(prog="torchreid-genext store", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (
        ("list", "what is there, and how it was made"),
        ("verify", "find what is damaged; fails if there is anything"),
        ("remove", "delete chosen pictures"),
    ):  # fmt: skip
        commands.add_parser(name, help=told).add_argument("store", help="folder of a store")
    add_verify_arguments(commands.choices["verify"])
    add_remove_arguments(commands.choices["remove"])
    arguments = parser.parse_args(argv)
    if arguments.command == "remove" and not (arguments.all or chosen(arguments)):
        parser.error("expected what is to be removed, or --all, got neither")
    return arguments


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="delete what is damaged")
    parser.add_argument("--quick", action="store_true", help="look at the ends of pictures only")


def add_remove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=(), help="of these splits")
    parser.add_argument("--pose", nargs="+", default=(), help="in these poses")
    parser.add_argument("--reference", nargs="+", default=(), help="of these real images, by their names")
    parser.add_argument("--seed", type=int, help="drawn from this seed of all")
    parser.add_argument("--other_seeds", type=int, metavar="SEED", help="drawn from any other seed of all")
    parser.add_argument(
        "--where", nargs="+", default=(), metavar="CONDITION",
        help="made so: sampling.steps=20, or otherwise: weights!=a1b2",
    )  # fmt: skip
    parser.add_argument(
        "--changed", nargs="+", metavar="FOLDER", help="whose real images in these folders are others now"
    )
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--dry-run", action="store_true", help="tell which, and delete none")


def chosen(arguments: argparse.Namespace) -> bool:
    """Whether any option chooses."""
    given = (
        arguments.split, arguments.pose, arguments.reference, arguments.where, arguments.changed,
        arguments.seed is not None, arguments.other_seeds is not None,
    )  # fmt: skip
    return any(given)


def show(arguments: argparse.Namespace) -> None:
    store = ImageStore(arguments.store)
    told = manifest(store)
    for split, found in told["splits"].items():
        poses = ", ".join(found["poses"])
        references = f"{found['references']:,} references in poses {poses}"
        print(f"{split}: {found['pictures']:,} pictures of {references}; {found['dropped']:,} dropped")
    for name, values in told["provenance"].items():
        print(f"{name}: {values if isinstance(values, str) else counted(values.items())}")
    print(f"drawn from seed: {counted(seeds_of(store).items())}")
    twice = doubled(store)
    for (split, reference, pose), entries in [*twice.items()][:SHOWN]:
        print(f"two answers: {split} {reference} in pose {pose}: {', '.join(entry.key for entry in entries)}")
    print(f"{len(twice):,} times two answers")


def counted(values: Sequence[tuple[object, int]]) -> str:
    return ", ".join(f"{'unknown' if value is None else value} ({count:,})" for value, count in values)


def verify(arguments: argparse.Namespace) -> None:
    store = ImageStore(arguments.store)
    found = [*faults(store, quick=arguments.quick)]
    for fault in found[:SHOWN]:
        print(f"{fault.reason}: {', '.join(map(str, fault.files))}")
    if arguments.repair:
        print(f"{repair(store, found):,} removed; generate makes them again")
    elif found:
        sys.exit(f"error: expected whole pictures, got {len(found):,} faults; --repair removes them")
    else:
        print("no faults; what is not whole and younger than three minutes may be in the making")


def remove_chosen(arguments: argparse.Namespace) -> None:
    choice = Choice(
        tuple(arguments.split), tuple(arguments.pose), tuple(arguments.reference), arguments.seed,
        arguments.other_seeds, tuple(map(Condition.parse, arguments.where)),
        None if arguments.changed is None else changed_since(arguments.changed),
    )  # fmt: skip
    found = remove(ImageStore(arguments.store), choice, dry_run=arguments.dry_run)
    for entry in found[:SHOWN]:
        print(f"{entry.split} {entry.reference} in pose {entry.pose}: {entry.key}")
    print(f"{len(found):,} pictures {'would be ' if arguments.dry_run else ''}removed")

