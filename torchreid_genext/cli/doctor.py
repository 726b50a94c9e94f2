"""Look whether this machine has all that a run needs; each fault comes with its cure.

torchreid-genext doctor
torchreid-genext doctor --config-file configs/market1501_steps.yaml --root reid-data && make_a_long_run

Exit status 0: all is well, though notes tell of what is left out; 1: at least one fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from yacs.config import CfgNode

from torchreid_genext.cli import health
from torchreid_genext.cli.health import FAULT, NOTE, Finding, tried

_WIDTH = 100
_READS = (
    "data.root", "data.save_dir", "data.targets", "model.load_weights", "genext.benchmark.models",
    "genext.benchmark.cache_dir",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was found, and end with 1 if something is at fault."""
    software = tried("packages", health.versions)
    if any(finding.kind == FAULT for finding in software):  # the rest could not even be imported
        findings, as_json = software, "--json" in (sys.argv if argv is None else argv)
    else:
        arguments = parse_arguments(argv)
        findings, as_json = [*software, *_examined(arguments)], arguments.json
    healthy = not any(finding.kind == FAULT for finding in findings)
    print(_json(findings, healthy) if as_json else _text(findings))
    sys.exit(0 if healthy else 1)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from torchreid_genext.cli.parsing import Parser

    parser = Parser(__name__, __doc__, _READS)
    what = "data set that must be there"
    parser.add_key("-t", "--targets", "--dataset", key="data.targets", nargs="+", metavar="NAME", help=what)
    parser.add_root()
    parser.add_key("--weights", key="model.load_weights", metavar="FILE", help="must be there and whole")
    parser.add_key("--output", key="data.save_dir", metavar="FOLDER", help="must be writable, with room")
    parser.add_argument("--json", action="store_true", help="print findings for programs")
    return parser.parse_args(argv)


def _examined(arguments: argparse.Namespace) -> Iterator[Finding]:
    """All but the versions, which fit."""
    from torchreid_genext.checkpoints import shipped
    from torchreid_genext.cli import places
    from torchreid_genext.cli.parsing import configuration, set_up

    cfg = configuration(arguments)
    yield from (hosted := tried("torchreid", health.host))
    yield from tried("devices", health.devices)
    yield from tried("memory", health.memory)
    yield from tried("shipped weights", lambda: places.shipped_weights(shipped.PRETRAINED))
    yield from tried("weights", lambda: places.weights(cfg))
    if not any(finding.kind == FAULT for finding in hosted):
        set_up(arguments)
        yield from tried("data", lambda: places.datasets(cfg.data.root, _wanted(arguments, cfg)))
    yield from tried("folder", lambda: places.folders(_written(cfg)))
    yield from tried("extras", health.extras)


def _wanted(arguments: argparse.Namespace, cfg: CfgNode) -> list[str]:
    """Data sets that a recipe or the command line names; a bare default is no wish."""
    told = arguments.config_file or "data.targets" in {**arguments.standing, **arguments.keys}
    return [*cfg.data.targets] if told else []


def _written(cfg: CfgNode) -> dict[str, str]:
    named = {
        "data.save_dir": cfg.data.save_dir,
        "data.root": cfg.data.root,
        "genext.benchmark.cache_dir": cfg.genext.benchmark.cache_dir,
    }
    return {key: path for key, path in named.items() if path}


def _json(findings: Sequence[Finding], healthy: bool) -> str:
    return json.dumps({"ok": healthy, "findings": [asdict(finding) for finding in findings]}, indent=1)


def _text(findings: Sequence[Finding]) -> str:
    faults, notes = (_counted(findings, kind) for kind in (FAULT, NOTE))
    return "\n".join([*map(_paragraph, findings), "", f"{faults}, {notes}"])


def _counted(findings: Sequence[Finding], kind: str) -> str:
    count = sum(finding.kind == kind for finding in findings)
    return f"{count or 'no'} {kind}{'s' * (count != 1)}"


def _paragraph(finding: Finding) -> str:
    begin = f"{finding.kind:<6} {finding.subject:<16} "
    blank = " " * len(begin)
    whole = {"break_long_words": False, "break_on_hyphens": False}  # paths are there to be copied
    told = textwrap.fill(finding.told, _WIDTH, initial_indent=begin, subsequent_indent=blank, **whole)
    return f"{told}\n{blank}cure: {finding.cure}" if finding.cure else told
