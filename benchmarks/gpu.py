"""What only a GPU can tell, in one run of a few minutes: tests, speed, and shares of the card's limits.

    python benchmarks/gpu.py --minutes 8 --output gpu    # all parts, the most worth first
    python benchmarks/gpu.py --only ipg --profile ipg    # one part, with the kernels that take longest
    python benchmarks/gpu.py --device cpu --tiny         # does everything run? no GPU needed
    python benchmarks/gpu.py --pack .whl                 # wheels for a machine without a network
    python benchmarks/gpu.py --only tests --tests tests/gpu/test_training.py    # some of the tests
    python benchmarks/gpu.py --file a/gpu.json b/gpu.json    # keep results under benchmarks/results, as one

Each part is a process of its own under a limit of time, so that a crash or a hang costs no other part. A part
gets what it is promised, and what earlier ones have left; the last ones go short where time does. `gpu.json`
and its table `gpu.md` are written every few seconds: a run that is cut off loses nothing. "of_product" is the
share of the rate that one large square matrix product reaches on this card in the same precision; FLOP are
those of products and convolutions, by torch's counter, what checkpointing does twice included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WRITE_EVERY = 2.0  # seconds
# seconds that each part is promised, in order of worth
BUDGETS = {
    "ceilings": 40, "tests": 85, "ipg": 175, "ipg_training": 55, "trainings": 65, "retrieval": 55,
    "extraction": 40, "retrieval_cpu": 25,
}  # fmt: skip
TESTS = [f"tests/gpu/test_{name}.py" for name in ("training", "extraction", "retrieval", "generators")]
SLOW = ("torchrun", "compiled")  # tests that start processes or compilers


def main() -> None:
    arguments = parse_arguments()
    if arguments.pack:
        from _gpu_pack import pack

        print(pack(arguments.pack))
    elif arguments.file:
        print(*filed(arguments.file), sep="\n")
    elif arguments.part:
        work(arguments)
    else:
        run(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="in all (default: 8)")
    parser.add_argument("--only", nargs="+", choices=BUDGETS, default=[*BUDGETS], metavar="PART",
                        help=", ".join(BUDGETS))  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder of gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--profile", nargs="+", choices=BUDGETS, default=[], metavar="PART")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="fetch the wheels that such a machine lacks")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="in this order, slow ones last")
    parser.add_argument("--file", type=Path, nargs="+", metavar="JSON",
                        help="keep results of one card in benchmarks/results, the last run last")  # fmt: skip
    parser.add_argument("--part", choices=BUDGETS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


# All parts, from outside: nothing here may fail, or wait, because of one of them.


def run(arguments: argparse.Namespace) -> None:
    arguments.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "parts": {}
    }  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = [part for part in BUDGETS if part in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            left = end - time.monotonic()
            promised = sum(BUDGETS[later] for later in parts[number + 1 :])
            limit = min(left, max(BUDGETS[part], left - promised))
            run_part(arguments, part, max(limit, 1.0), Path(folder), found)
            print(f"{part}: {summary(found['parts'][part])}", flush=True)
    print((arguments.output / "gpu.md").read_text())


def run_part(
    arguments: argparse.Namespace, part: str, limit: float, folder: Path, found: dict[str, Any]
) -> None:
    """Start a part, keep what it has written so far, and end all that it has started at its limit."""
    result, log = folder / f"{part}.json", folder / f"{part}.log"
    command = [
        sys.executable, __file__, "--part", part, "--result", str(result), "--seconds", f"{limit:.0f}",
        "--device", arguments.device, *["--tiny"] * arguments.tiny, "--tests", *arguments.tests,
        *["--profile", *arguments.profile] * bool(arguments.profile),
    ]  # fmt: skip
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=surroundings(), preexec_fn=os.setpgrp
        )
        try:
            ended = False
            while not ended and time.monotonic() - begun < limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(WRITE_EVERY)
                    ended = True
                found["parts"][part] = so_far(result, log, process.poll(), time.monotonic() - begun, limit)
                write(found, arguments.output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def surroundings() -> dict[str, str]:
    """The package need not be installed, here or in what parts start."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def so_far(result: Path, log: Path, code: int | None, seconds: float, limit: float) -> dict[str, Any]:
    """What a part has written, how it ended, and what it said where that was not well."""
    try:
        found = json.loads(result.read_text())
    except (OSError, ValueError):
        found = {"rows": [], "errors": []}
    states = {None: "stopped at its limit" if seconds >= limit else "running", 0: "done"}
    found |= {
        "state": states.get(code, f"ended with {code}"),
        "wall": round(seconds, 1),
        "limit": round(limit),
    }
    if code != 0:
        found["output"] = log.read_text(errors="replace")[-4000:]
    return found


def summary(part: dict[str, Any]) -> str:
    counts = f"{len(part['rows'])} rows, {len(part['errors'])} errors"
    return f"{part['state']} after {part['wall']:.0f} of {part['limit']} s, {counts}"


def commit() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def write(found: dict[str, Any], folder: Path) -> None:
    for name, text in (("gpu.json", json.dumps(found, indent=1)), ("gpu.md", markdown(found))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / name)


def markdown(found: dict[str, Any]) -> str:
    """All parts as tables, failures and what was left out among them."""
    machine = next((part["machine"] for part in found["parts"].values() if "machine" in part), {})
    lines = [f"# {machine.get('card', 'unknown card')}, {found['date']}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine.items()) + f", commit {found['commit']}"]
    for name, part in found["parts"].items():
        lines += ["", f"## {name}: {summary(part)}", ""]
        lines += table([flat(row) for row in part["rows"]])
        lines += [f"- {error['row']}: {error['error']}".replace("\n", " ") for error in part["errors"]]
        for row, text in part.get("profiles", {}).items():
            lines += ["", f"{row}:", "```", text, "```"]
        lines += ["```", part["output"][-1500:], "```"] if not part["rows"] and part.get("output") else []
    return "\n".join(lines) + "\n"


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing; what is below a key comes as a sentence."""
    told = {}
    for name, value in row.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {shown(each)}" for key, each in value.items())
        if value not in (None, ""):
            told[name] = value
    return told


def table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return []
    cells = [columns, ["---"] * len(columns), *([shown(row.get(name)) for name in columns] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in cells]


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def filed(paths: Sequence[Path]) -> Iterator[Path]:
    """Copies of the results and their table, by card and day; of a part, the last that has rows."""
    found = without_logs(merged([json.loads(path.read_text()) for path in paths]))
    stem = f"{re.sub('[^a-z0-9]+', '-', card_of(found).lower()).strip('-')}-{found['date'][:10]}"
    RESULTS.mkdir(exist_ok=True)
    for suffix, text in ((".json", json.dumps(found, indent=1) + "\n"), (".md", markdown(found))):
        (RESULTS / f"{stem}{suffix}").write_text(text)
        yield RESULTS / f"{stem}{suffix}"


def without_logs(found: Any) -> Any:
    """Results without what names the folders of a machine."""
    if isinstance(found, dict):
        return {k: without_logs(v) for k, v in found.items() if k not in ("traceback", "output")}
    return [without_logs(each) for each in found] if isinstance(found, list) else found


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one: of a part the last, and rows that only earlier ones have; each names its commit.

    Raises:
        ValueError: if they are of several cards.
    """
    if len(cards := {card_of(run) for run in runs}) > 1:
        raise ValueError(f"expected runs on one card, got {', '.join(sorted(cards))}")
    parts: dict[str, Any] = {}
    for run in runs:
        for name, part in run["parts"].items():
            rows = {identity(row): row for row in parts.get(name, {"rows": []})["rows"]}
            rows |= {identity(row): row | {"commit": run["commit"]} for row in part["rows"]}
            parts[name] = (part if part["rows"] else parts.get(name, part)) | {"rows": [*rows.values()]}
    return runs[-1] | {"parts": {name: parts[name] for name in BUDGETS if name in parts}}


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("row", "precision", "device", "batch"))


def card_of(found: dict[str, Any]) -> str:
    return next((part["machine"]["card"] for part in found["parts"].values() if "machine" in part), "unknown")


# One part, from inside.


def work(arguments: argparse.Namespace) -> None:
    import torch
    from _gpu import Part

    part = Part(
        arguments.part, arguments.result, device=torch.device(arguments.device), tiny=arguments.tiny,
        seconds=arguments.seconds, profile=arguments.part in arguments.profile,
    )  # fmt: skip
    with part.trying(arguments.part):
        if arguments.part == "tests":
            tests(part, arguments.tests)
        else:
            body_of(arguments.part)(part)
    part.write()


def body_of(name: str) -> Callable[[Any], None]:
    """Each part imports what it needs: what one lacks does not stop another."""
    if name == "ceilings":
        return ceilings
    if name.startswith("ipg"):
        import _gpu_ipg

        return {"ipg": _gpu_ipg.sampling, "ipg_training": _gpu_ipg.training}[name]
    if name == "trainings":
        import _gpu_training

        return _gpu_training.trainings
    import _gpu_features

    return getattr(_gpu_features, name)


def ceilings(part: Any) -> None:
    """What the card can do at most: products in each precision, and copies of its memory."""
    import torch
    from _gpu import GIB, TERA

    for precision in ("bf16", "fp16", "tf32", "fp32"):
        with part.trying(precision):
            part.add(f"product, {precision}", tflops=part.product(precision) / TERA)
    with part.trying("copy"):
        count = 2**20 if part.tiny else 4 * GIB
        source = torch.empty(count, dtype=torch.uint8, device=part.device).random_()
        target = torch.empty_like(source)
        target.copy_(source)
        part.add(
            "copy, read and written",
            gb_per_second=2 * count / part.timed("copy", lambda: target.copy_(source), 5) / 1e9,
        )


class Recorder:
    """A plugin of pytest that writes every outcome at once."""

    def __init__(self, part: Any) -> None:
        self.part, self.counts = part, {"passed": 0, "failed": 0, "skipped": 0}
        part.found["rows"].append(self.counts)
        self.counts["row"] = "tests/gpu"

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: any(word in item.name for word in SLOW))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1
        if report.failed:
            text = str(report.longrepr)
            last = next((line for line in reversed(text.splitlines()) if line.startswith("E ")), text[-200:])
            self.part.found["errors"].append(
                {"row": f"{report.nodeid}, {report.when}", "error": last[:500], "traceback": text[-4000:]}
            )
        if report.when == "teardown":
            self.counts["seconds"] = round(self.counts.get("seconds", 0.0) + report.duration, 2)
            self.part.write()


def tests(part: Any, wished: Sequence[str]) -> None:
    """All that are wished, whatever fails."""
    import pytest

    os.environ["GENEXT_TEST_DEVICE"] = str(part.device)
    os.chdir(ROOT)
    words = ["-q", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    words += ["-o", "faulthandler_timeout=40"]
    words += ["-k", "retrieval and base or camstyle and average"] if part.tiny else []
    pytest.main([*words, *wished], plugins=[Recorder(part)])


if __name__ == "__main__":
    main()
