"""TransReID (He et al., ICCV 2021) as a torchreid model: the network of the IPG with its heads for training.

It reads its authors' checkpoints, Pose2ID's ``transformer_20.pth``, plain vision transformers of timm, and
checkpoints of others that began with this code (TransReID-SSL, PASS, PersonViT), as far as names agree.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_genext.backbones import names
from torchreid_genext.backbones.necks import Necked
from torchreid_genext.generators.ipg.transreid import TransReID

__all__ = ["TransReIDBackbone"]

_log = logging.getLogger(__name__)
_PARTS = 4
_HEAD_WIDTH = 64  # of an attention, in all published sizes
_CLASSES = ("head.", "fc.", "pre_logits.")  # of ImageNet
_UNUSED = (*_CLASSES, *(f"body.{name}" for name in _CLASSES))
_HEADS = ("bottleneck", "classifier", "b1.", "b2.", *_CLASSES)  # beside a transformer, not in it
_NAMES = (
    ("base.patch_embed.proj.", "body.patches."), ("base.sie_embed", "sie"), ("base.", "body."),
    ("b1.", "body.whole."), ("b2.", "body.part."), ("bottleneck.", "necks.0."),
    *((f"bottleneck_{i}.", f"necks.{i}.") for i in range(1, _PARTS + 1)),
    ("classifier.weight", "classifier.0.weight"),
    *((f"classifier_{i}.", f"classifier.{i}.") for i in range(1, _PARTS + 1)),
)  # fmt: skip


class TransReIDBackbone(Necked):
    """`TransReID` with embeddings of camera and view, BNNecks and classifiers.

    Args:
        num_classes, loss, feature: as `Necked` takes them.
        jpm: also describe four shuffled parts (JPM): features are (B, 5 width), else (B, width).
        cameras: that it tells apart; 0: none.
        views: likewise, such as front and back of vehicles.
        side: weight of the embedding of camera and view; SIE_COE of the authors.
        config: of `TransReID`; officially sized unless told otherwise.

    Raises:
        ValueError: as `Necked`.
    """

    def __init__(
        self,
        num_classes: int = 1,
        loss: str = "softmax",
        feature: str = "before",
        *,
        jpm: bool = True,
        cameras: int = 0,
        views: int = 0,
        side: float = 3.0,
        **config: Any,
    ) -> None:
        body = TransReID(**config)
        width = body.cls_token.shape[-1]
        super().__init__([width] * (1 + _PARTS if jpm else 1), num_classes, loss, feature)
        self.body, self.cameras, self.views, self.side = body, cameras, views, side
        if not jpm:
            body.part = None
        rows = max(cameras, 1) * max(views, 1)
        self.register_parameter("sie", nn.Parameter(torch.zeros(rows, 1, width)) if rows > 1 else None)
        _initialise(self)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images, in pixels."""
        return self.body.image_size

    @property
    def options(self) -> dict[str, Any]:
        """What makes another one like this, but for the weights."""
        kept = ("image_size", "stride", "width", "depth", "heads", "shift", "groups")
        config = {name: self.body.config[name] for name in kept}
        own = {name: getattr(self, name) for name in ("cameras", "views", "side", "feature")}
        return {"jpm": self.body.part is not None, **own, **config}

    def forward(
        self, x: Tensor, cameras: Tensor | None = None, views: Tensor | None = None
    ) -> Tensor | tuple[Any, Any] | list[Tensor]:
        """Images (B, 3, H, W) to features (B, D); while training as `Necked` says.

        Args:
            x: normalised with mean and deviation 0.5.
            cameras: of the images (B,), counted from 0; a negative one is unknown and adds nothing.
            views: likewise; None: the first.

        Raises:
            ValueError: if the images have another size.
        """
        if tuple(x.shape[2:]) != self.image_size:
            raise ValueError(f"expected images (B, 3, {self.image_size}), got {tuple(x.shape)}")
        tokens = self.body.tokens(x, self._side(cameras, views))
        if self.body.part is None:
            return self.answer([self.body.whole(tokens)[:, 0]])
        whole, parts = self.body.described(tokens)
        # The whole counts as much as its parts together, as in the authors' loss.
        scales, votes = (1.0, *[1 / _PARTS] * _PARTS), (_PARTS, *[1] * _PARTS)
        return self.answer([whole, *parts.unbind(1)], scales, votes)

    def _side(self, cameras: Tensor | None, views: Tensor | None) -> Tensor | float:
        if self.sie is None or cameras is None and views is None:
            return 0.0
        known = [places for places in (cameras, views) if places is not None]
        zeros = torch.zeros_like(known[0])
        cameras = zeros if cameras is None else cameras
        rows = cameras * max(self.views, 1) + (zeros if views is None else views)
        embedded = self.side * self.sie[rows.clamp_min(0)]
        return torch.where((cameras < 0)[:, None, None], torch.zeros_like(embedded), embedded)

    def fit_to(self, image_size: Sequence[int]) -> None:
        """Become one for images of another size; its position embeddings go with it."""
        if tuple(image_size) != self.image_size:
            state, old = self.state_dict(), self._grid
            self._become(image_size=tuple(image_size))
            positions = names.resized_positions(state["body.pos_embed"], old, self._grid)
            self.load_state_dict(state | {"body.pos_embed": positions})

    def adapt(self, metadata: Mapping[str, Any], state: Mapping[str, Tensor], source: str | Path) -> None:
        """Take the size of the network whose weights these are, as their names and shapes tell it.

        Raises:
            ValueError: if they are not TransReID's or a vision transformer's; names `source`.
        """
        state = _ours(state)
        if "body.cls_token" not in state:
            found = ", ".join(list(state)[:8])
            raise ValueError(f"expected weights of TransReID or a vision transformer, got {source}: {found}")
        self._become(**self._described(state))

    def _described(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        width, (number, *_) = state["body.cls_token"].shape[-1], state["body.pos_embed"].shape[1:]
        blocks = {name.split(".")[2] for name in state if name.startswith("body.blocks.")}
        ours = "body.whole.0.norm1.weight" in state
        bare = ours and not any(
            name.startswith("body.norm.") for name in state
        )  # the authors keep the block that heads copy, too
        _, stride = names.grid_of(number - 1, self.image_size)
        heads = self.body.config["heads"] if width == self._width else max(width // _HEAD_WIDTH, 1)
        found = {"width": width, "heads": heads, "stride": (stride, stride)}
        found["depth"] = len(blocks) if bare else len(blocks) - 1
        trained = ours or "necks.0.weight" in state
        found["jpm"] = "body.part.0.norm1.weight" in state or not trained and self.body.part is not None
        return found | self._sides(state)

    @property
    def _width(self) -> int:
        return self.body.cls_token.shape[-1]

    def _sides(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Cameras and views, which only their product tells apart: all cameras, unless views were named."""
        rows = len(state["sie"]) if "sie" in state else 0
        return {"cameras": rows // max(self.views, 1), "views": self.views if rows else 0}

    def translated(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Tensors of a file under the names and in the sizes of this network.

        Of a plain transformer the last block becomes that of each head, as the authors begin.
        """
        state = names.without(_ours(state), _UNUSED, source)
        last = {f"body.blocks.{len(self.body.blocks)}.": "0.", "body.norm.": "1."}
        if "body.whole.0.norm1.weight" in state:
            state = names.without(state, tuple(last), source)
        else:
            state = _with_heads(state, last, ["whole", "part"] if self.body.part is not None else ["whole"])
        return self.completed(self._at_this_size(state), source)

    def _at_this_size(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        positions = state["body.pos_embed"]
        if positions.shape == self.body.pos_embed.shape:
            return dict(state)
        old, _ = names.grid_of(positions.shape[1] - 1, self.image_size)
        new = self._grid
        _log.info("position embeddings of %d x %d patches become those of %d x %d", *old, *new)
        return {**state, "body.pos_embed": names.resized_positions(positions, old, new)}

    @property
    def _grid(self) -> tuple[int, int]:
        rows, columns = (
            (size - 16) // step + 1 for size, step in zip(self.image_size, self.body.config["stride"])
        )
        return rows, columns

    def _become(self, **changes: Any) -> None:
        options = {**self.options, **changes}
        if options != self.options:
            fresh = TransReIDBackbone(self.num_classes, self.loss, **options)
            vars(self).update(vars(fresh.to(self.body.cls_token).train(self.training)))


def _ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of `TransReIDBackbone`, whoever wrote them."""
    if "body.cls_token" in state:
        return dict(state)
    state = names.peeled(state, ("base.cls_token", "cls_token"))
    if "cls_token" in state:  # a plain transformer
        state = {name if name.startswith(_HEADS) else f"base.{name}": x for name, x in state.items()}
    return names.renamed(state, _NAMES)


def _with_heads(
    state: Mapping[str, Tensor], last: Mapping[str, str], heads: Sequence[str]
) -> dict[str, Tensor]:
    """With the last block and normalisation, by their beginnings, as those of each head."""
    found = {}
    for name, tensor in state.items():
        beginning = next((each for each in last if name.startswith(each)), None)
        places = [f"body.{head}.{last[beginning]}" for head in heads] if beginning else [""]
        found |= {place + name.removeprefix(beginning or ""): tensor for place in places}
    return found


def _initialise(network: TransReIDBackbone) -> None:
    """Linear layers, embeddings and tokens as the authors begin without weights."""
    for module in network.body.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    tables = (network.body.cls_token, network.body.pos_embed, network.sie)
    for table in tables:
        if table is not None:
            nn.init.trunc_normal_(table, std=0.02)
