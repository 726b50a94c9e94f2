"""Which keys there are, and what is said of those that are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

__all__ = ["check_key", "check_tree"]

_NEAREST = 3
# What became of keys of earlier versions; the first pattern that is the whole of a key counts.
_STAGES = "genext.training.{} holds for all stages, genext.training.stages for one, such as 'prior(lr=1e-4)'"
_OFFICIAL = "it is genext.identity.official"
_SIZE = "it is genext.training.image_size [height, width]"
_BECAME = (
    (r"genext\.ipg\.sampling\.(height|width)", "it is genext.sampling.image_size [height, width]"),
    (r"genext\.ipg\.(sampling|generator)\.style", "it is that of genext.sampling.pipeline"),
    (r"genext\.ipg\.sampling\.(?!cache_every$)(.+)", "it is genext.sampling.{}"),
    (r"genext\..*\.train\.(.+)", _STAGES),
    (r"genext\.(identity|ipg\.generator|pg2|deformable|camstyle)\.(height|width)", _SIZE),
    (r"genext\.(ipg\.generator|pg2|deformable)\.poses", "it is genext.joints, a list of files"),
    (r"genext\.(?:ipg\.generator|pg2|deformable|camstyle)\.(partners|flip)", "it is genext.training.{}"),
    (r"genext\.ipg\.generator\.encoder_(weights|size)", "it is part of genext.ipg.generator.encoder"),
    (r"genext\.ipg\.generator\.(base_model|vae)", "it is a folder in that of genext.ipg.generator.init"),
    (r"genext\.(?:identity\.(prediction|loss|table|labels|rows|shuffle)|prior\.rows)", _OFFICIAL),
    (r"genext\.(identity|prior)\.steps", "it is genext.sampling.steps"),
    (r"genext\.inverter\.widths", "it is genext.identity.widths"),
    (r"genext\.deformable\.(encoder|decoder)", "it is genext.deformable.widths"),
    (r"genext\.pg2\.discriminator", "it is genext.pg2.official"),
    (r"genext\.camstyle\.images", "it is genext.training.batch_size, of all cameras together"),
)


def check_tree(cfg: CfgNode, tree: Mapping[Any, Any]) -> None:
    """Refuse what a file says and `cfg` does not know, or knows to be of another kind.

    Raises:
        ValueError: naming the first such key, and the nearest that there are.
    """
    for key, value in _said(tree):
        check_key(cfg, key, value)


def check_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Refuse a key that is in no tree, a value in place of a node, and a node in place of a value.

    Raises:
        ValueError: naming what has become of the key, or the nearest ones.
    """
    *above, name = key.split(".")
    node = _node(cfg, above)
    if node is None or name not in node:
        raise ValueError(_unknown(cfg, key))
    known, given = isinstance(node[name], CfgNode), isinstance(value, Mapping)
    if known and not given:
        raise ValueError(f"expected keys below {key}, such as {key}.{next(iter(node[name]))}, got {value!r}")
    if given and not known:
        raise ValueError(f"expected a value of {key}, got keys below it: {', '.join(map(str, value))}")


def _said(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, nodes before what is below them."""
    for name, value in tree.items():
        if not isinstance(name, str):
            raise ValueError(f"expected names as keys{f' below {above[:-1]}' if above else ''}, got {name!r}")
        yield f"{above}{name}", value
        if isinstance(value, Mapping):
            yield from _said(value, f"{above}{name}.")


def _node(cfg: CfgNode, names: Sequence[str]) -> CfgNode | None:
    for name in names:
        cfg = cfg.get(name) if isinstance(cfg, CfgNode) else None
    return cfg if isinstance(cfg, CfgNode) else None


def _unknown(cfg: CfgNode, key: str) -> str:
    for pattern, now in _BECAME:
        if found := re.fullmatch(pattern, key):
            return f"there is no key {key} any more; {now.format(*found.groups()[:1])}"
    known = [path for path, value in _said(cfg) if not isinstance(value, Mapping)]
    nearest = difflib.get_close_matches(key, known, _NEAREST, cutoff=0.0)
    return f"there is no key {key}; the nearest are {', '.join(nearest)}"
