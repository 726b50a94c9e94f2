"""Write what is known elsewhere: pages of all keys and of all arguments of steps, and tables as bars.

python -m scripts.write_docs

What a key means is the comment beside it in the code, or what a step says of its field. Bars are those of the
first column of numbers of a page's first table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import Field, astuple, fields
from math import inf
from pathlib import Path

from yacs.config import CfgNode

from scripts.bars import Bar, drawn
from torchreid_genext import config
from torchreid_genext.recipes.training import schedules
from torchreid_genext.retrieval.steps import STEPS
from torchreid_genext.retrieval.steps.base import Step

DOCS = Path(__file__).resolve().parent.parent / "docs"
WRITTEN = "<!-- Written by scripts/write_docs.py, never by hand: `make docs`. -->"
CONFIGURATION = """# Configuration

A configuration is torchreid's own tree of keys, and the node `genext` of this package. A YAML file, options and
`KEY VALUE` on the command line set keys. In Python `torchreid_genext.config.get_default_config()` is the whole tree.

- Unknown keys are refused. The message names the nearest known one.
- The merged configuration is written beside the results of each run.
- With every switch of `genext` off the numbers are torchreid's own, bit for bit.
"""
SCHEDULES = """
## Schedules

What each stage of training has of its own, where `genext.training` says nothing. `genext.training` says what holds for
all stages of a command. `genext.training.stages` says what holds for one stage, such as
`genext.training.stages "['prior(lr=1e-4,steps=3000)']"`. CamStyle's batch of 0 is two images of each camera.

"""
OFFICIAL = """
With `genext.identity.official True` these stages learn as their authors have it:

"""
ARGUMENTS = """# Arguments of steps

A chain such as `nfc(k1=3)+rerank` gives arguments to its steps. [Steps](steps.md) tells how chains are written, and
what the steps do. Here stand all arguments. A value outside its range is refused when the chain is read.
"""
_ASSIGNED = re.compile(r"^ +cfg\.(?P<key>[\w.]+) = .*?(?:  # (?P<meaning>.*))?$", flags=re.MULTILINE)


def comments() -> dict[str, str]:
    """key -> the comment beside it in the code."""
    found = {}
    for name in ("host", "genext"):
        text = Path(config.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        found |= {match["key"]: match["meaning"] or "" for match in _ASSIGNED.finditer(text)}
    return found


def meanings() -> dict[str, str]:
    """key -> what it means, for the keys whose code says so."""
    found = comments() | {"use_gpu": "True where torch sees a GPU"}
    for step, node in config.STEP_NODES.items():
        found[f"genext.{node}.enabled"] = f"the step `{step}`: {summary(STEPS[step])}".rstrip(".")
        found |= {f"genext.{node}.{field.name}": said(field) for field in fields(STEPS[step])}
    return found


def said(field: Field) -> str:
    """What a step says of one of its fields: the meaning, and the choices if there are any."""
    choices = " | ".join(field.metadata["choices"])
    return field.metadata["help"] + (f": {choices}" if choices else "")


def summary(step: type[Step]) -> str:
    """What a step does, as its docstring says first."""
    return step.__doc__.partition("\n")[0].partition("; see")[0].replace("``", "`").rstrip(".") + "."


def nodes(tree: CfgNode, name: str = "") -> Iterable[tuple[str, dict[str, object]]]:
    """Each node of a tree that has values, with these."""
    values = {key: value for key, value in tree.items() if not isinstance(value, CfgNode)}
    if values:
        yield name, values
    for key, value in tree.items():
        if isinstance(value, CfgNode):
            yield from nodes(value, f"{name}.{key}".lstrip("."))


def cell(text: object) -> str:
    """What stands in a table: a bar would end the cell, and brackets could be a link."""
    return re.sub(r"([|\[\]<])", r"\\\1", str(text))


def code(value: object) -> str:
    """A value as Python writes it, in a table."""
    return "`" + repr(value).replace("|", r"\|") + "`"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def keys_of(name: str, values: dict[str, object], meaning: dict[str, str]) -> str:
    """The section of a node."""
    full = {f"{name}.{key}".lstrip("."): value for key, value in values.items()}
    rows = [[f"`{key}`", code(value), cell(meaning.get(key, ""))] for key, value in full.items()]
    return f"### {name or 'top'}\n\n" + table(["key", "default", "meaning"], rows)


def default_tree() -> CfgNode:
    """The configuration as it is on a machine without a GPU."""
    tree = config.get_default_config()
    tree.use_gpu = False
    return tree


def configuration() -> str:
    """The page of all keys."""
    tree, meaning = default_tree(), meanings()
    ours = CfgNode({"genext": tree.pop("genext")})
    text = CONFIGURATION
    for title, part in (("Keys of this package", ours), ("Keys of torchreid", tree)):
        sections = [keys_of(name, values, meaning) for name, values in nodes(part)]
        text += "\n".join([f"\n## {title}\n", *sections])
    return text + SCHEDULES + schedule(schedules.OWN) + OFFICIAL + schedule(schedules.OFFICIAL)


def schedule(stages: dict[str, schedules.Schedule]) -> str:
    """A table with a row for each stage."""
    heading = ["stage", *(f"`{field.name}`" for field in fields(schedules.Schedule))]
    return table(heading, [[f"`{stage}`", *map(str, astuple(own))] for stage, own in stages.items()])


def arguments() -> str:
    """The page of all arguments that steps take."""
    text = ARGUMENTS
    for name, step in STEPS.items():
        uses = ", ".join(step().uses) or "nothing"
        text += f"\n## {name}\n\n{summary(step)}\n\nBesides the two images it uses: {uses}.\n"
        rows = [
            [f"`{item.name}`", code(item.default), bounds(item), cell(said(item))] for item in fields(step)
        ]
        text += "\n" + table(["argument", "default", "range", "meaning"], rows) if rows else ""
    return text


def bounds(field: Field) -> str:
    """The range of numbers that a field takes, in words."""
    least, above, most = (field.metadata[name] for name in ("least", "above", "most"))
    low = f"from {least}" if least > -inf else f"above {above}" if above > -inf else ""
    return f"{low} {f'to {most}' if most < inf else ''}".strip()


def bars(page: str, title: str) -> str:
    """The picture of a page's first table; arguments in parentheses would take all of its width."""
    lines = re.findall(r"^\| (.+?) \| ([\d.]+) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    labels = [re.sub(r"\([^()]*\)", "(..)", label.strip("`")) for label, _ in lines]
    return drawn(title, [Bar(label, float(value)) for label, (_, value) in zip(labels, lines)])


PAGES = {"configuration.md": configuration, "step-arguments.md": arguments}
BARS = {
    "results/market1501-steps": "mAP on Market-1501, weights a",
    "results/ipg-speed": "images/s on two CPU threads",
}


def main(folder: Path = DOCS) -> None:
    """Write all of them into a folder."""
    (folder / "results").mkdir(exist_ok=True)
    for name, text in PAGES.items():
        (folder / name).write_text(text().replace("\n\n", f"\n\n{WRITTEN}\n\n", 1), encoding="utf-8")
    for name, title in BARS.items():
        (folder / f"{name}.svg").write_text(bars(f"{name}.md", title), encoding="utf-8")


if __name__ == "__main__":
    main()
