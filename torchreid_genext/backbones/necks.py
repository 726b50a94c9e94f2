"""torchreid's manners for networks that have none: logits while training, a feature otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchreid_genext.backbones.card import FEATURES

__all__ = ["LOSSES", "Necked"]

LOSSES = ("softmax", "triplet")
_log = logging.getLogger(__name__)


class Necked(nn.Module):
    """Features, each with a BNNeck and a classifier behind it.

    In training a network gives what torchreid's engines take: logits for ``softmax``, and logits and features
    before the neck for ``triplet``. Otherwise it gives one feature an image.

    Args:
        widths: of the features.
        num_classes: of each classifier, which has no bias.
        loss: one of `LOSSES`.
        feature: what is given in evaluation, one of `FEATURES`.

    Raises:
        ValueError: if loss or feature are unknown.
    """

    feature = "before"

    def __init__(self, widths: Sequence[int], num_classes: int, loss: str, feature: str = "before") -> None:
        super().__init__()
        for value, choices in ((loss, LOSSES), (feature, FEATURES)):
            if value not in choices:
                raise ValueError(f"expected one of {', '.join(choices)}, got {value!r}")
        self.loss, self.feature, self.num_classes = loss, feature, num_classes
        self.necks = nn.ModuleList(map(_neck, widths))
        self.classifier = nn.ModuleList(nn.Linear(width, num_classes, bias=False) for width in widths)
        self.feature_dim = sum(widths)
        for linear in self.classifier:
            nn.init.normal_(linear.weight, std=0.001)

    def answer(
        self, features: Sequence[Tensor], scales: Sequence[float] = (1.0,), votes: Sequence[int] = (1,)
    ) -> Tensor | tuple[list[Tensor] | Tensor, list[Tensor] | Tensor] | list[Tensor]:
        """What is given for the features of a batch.

        Args:
            features: each (B, D).
            scales: with which they stand in the feature of evaluation.
            votes: how many parts each has in the loss; engines take the mean over what they are given.
        """
        after = [neck(feature) for neck, feature in zip(self.necks, features)]
        if not self.training:
            given = {"before": [features], "after": [after]}.get(self.feature, [features, after])
            return torch.cat([x * scale for part in given for x, scale in zip(part, scales)], dim=1)
        logits = _repeated([linear(x) for linear, x in zip(self.classifier, after)], votes)
        return logits if self.loss == "softmax" else (logits, _repeated(features, votes))

    def completed(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Tensors of a file, with this network's own necks if it has none, which the log then tells."""
        if any(name.startswith("necks.") for name in state):
            return dict(state)
        _log.info("%s has no neck; the network's is left as it is", source)
        own = self.state_dict()
        return {name: own[name] for name in own if name.startswith("necks.")} | dict(state)


def _neck(width: int) -> nn.BatchNorm1d:
    """A normalisation that learns no shift, so that classes are told by direction alone."""
    neck = nn.BatchNorm1d(width)
    del neck.bias
    neck.register_buffer(
        "bias", torch.zeros(width)
    )  # a parameter would be trained: torchreid opens all layers
    return neck


def _repeated(parts: Sequence[Tensor], votes: Sequence[int]) -> list[Tensor] | Tensor:
    """Each as often as it has votes; a single one as it is."""
    found = [part for part, number in zip(parts, votes) for _ in range(number)]
    return found if len(found) > 1 else found[0]
