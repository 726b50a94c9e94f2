"""The chain of steps that a configuration asks for."""

from __future__ import annotations

from dataclasses import fields

from yacs.config import CfgNode

from torchreid_genext.config import STEP_NODES
from torchreid_genext.retrieval.protocol import STEPS, Chain, Step

__all__ = ["build_chain", "build_step"]

_ORDER = ("camera_norm", "tracklets", "nfc", "dba", "alpha_qe", "st")  # after generated images


def build_chain(genext: CfgNode, *, normalize: bool = False) -> Chain:
    """The steps that are switched on, in the order in which they apply.

    Args:
        genext: the node ``cfg.genext``; its ``evaluation.chain``, if there is one, stands for all switches.
        normalize: L2-normalise (the host's ``test.normalize_feature``), after generated images are added.

    Raises:
        ValueError: if a key of a step that is on is out of its range, or a switch is on beside a chain that
            does not hold its step.
    """
    steps = _written(genext) if genext.evaluation.chain else _switched_on(genext)
    normalize = normalize or not genext.evaluation.chain and genext.ipg.enabled and genext.ipg.normalize_after
    if normalize and not any(step.name == "l2" for step in steps):
        after = sum(step.name == "fuse" for step in steps)
        steps.insert(after, STEPS["l2"]())
    return Chain(tuple(steps))


def build_step(name: str, genext: CfgNode) -> Step:
    """A step with the keys of its node; raises as `build_chain`."""
    step, node = STEPS[name], genext[STEP_NODES[name]]
    return step(**{field.name: node[field.name] for field in fields(step)})


def _switched_on(genext: CfgNode) -> list[Step]:
    names = [name for name in ("fuse", *_ORDER) if genext[STEP_NODES[name]].enabled]
    return [build_step(name, genext) for name in names]


def _written(genext: CfgNode) -> list[Step]:
    steps = list(Chain.parse(genext.evaluation.chain).steps)
    for name in ("fuse", *_ORDER):
        node = STEP_NODES[name]
        if genext[node].enabled and name not in [step.name for step in steps]:
            rule = f"expected the step {name} in genext.evaluation.chain with genext.{node}.enabled"
            raise ValueError(f"{rule}, got {genext.evaluation.chain!r}; write it there, or switch it off")
    return steps
