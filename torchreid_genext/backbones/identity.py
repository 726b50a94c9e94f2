"""The inverter of GenerativePersonReID as a torchreid model: a person's feature is the code that generates them.

``genid`` gives the code in one pass; ``genid_refined`` then asks a frozen generator for the code that explains
the image best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, refine

__all__ = ["LOSSES", "IdentityBackbone", "RefinedIdentityBackbone"]

LOSSES = ("softmax", "triplet")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, with which torchreid normalises


class IdentityBackbone(Inverter):
    """`Inverter` with torchreid's manners: normalised images in; logits while training, codes otherwise.

    Args:
        num_classes: identities of the classifier, which sits behind a BatchNorm and which codes do not pass.
        loss: ``softmax`` (logits) or ``triplet`` (logits and codes).
        norm_mean, norm_std: per channel, with which images come; they are undone, since inverters take [0, 1].
        config: of `Inverter`; officially sized unless told otherwise.

    Raises:
        ValueError: if the loss is unknown, or as `Inverter`.
    """

    def __init__(
        self,
        num_classes: int = 1,
        loss: str = "softmax",
        *,
        norm_mean: Sequence[float] = _MEAN,
        norm_std: Sequence[float] = _STD,
        **config: Any,
    ) -> None:
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; choose from {', '.join(LOSSES)}")
        super().__init__(**config)
        self.loss, self.feature_dim = loss, self.code_width
        linear = nn.Linear(self.code_width, num_classes)
        self.classifier = nn.Sequential(nn.BatchNorm1d(self.code_width), linear)
        for name, values in (("norm_mean", norm_mean), ("norm_std", norm_std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def adapt(self, metadata: Mapping[str, Any]) -> None:
        """Take the size of the inverter whose weights file says this; other files change nothing."""
        if metadata.get("kind") != self.kind or metadata["network"] == self.config:
            return
        head = {"norm_mean": self.norm_mean.flatten().tolist(), "norm_std": self.norm_std.flatten().tolist()}
        classes = self.classifier[-1].out_features
        fresh = IdentityBackbone(classes, self.loss, **head, **metadata["network"]).train(self.training)
        vars(self).update(vars(fresh))

    def configure(self, norm_mean: Sequence[float], norm_std: Sequence[float], **refinement: Any) -> None:
        """Take what a configuration says of images; `refinement` concerns `RefinedIdentityBackbone` only."""
        self.norm_mean.copy_(torch.tensor(norm_mean)[:, None, None])
        self.norm_std.copy_(torch.tensor(norm_std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalised as the host does, to codes (B, D), or while training as `loss` says.

        Raises:
            ValueError: if the images have another size; ``data.height`` and ``data.width`` set it.
        """
        images = x * self.norm_std + self.norm_mean
        code = self.code(images)
        if not self.training:
            return code
        logits = self.classifier(code)
        return logits if self.loss == "softmax" else (logits, code)

    def code(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to codes (B, D)."""
        return super().forward(images)


class RefinedIdentityBackbone(IdentityBackbone):
    """The same, with codes refined by `refine` in evaluation.

    The generator is no part of the weights: those of ``genid`` fit.

    Args:
        generator: what `use` sets later; None at first.
        refinement: keyword arguments of `refine`.
        arguments: of `IdentityBackbone`.
    """

    def __init__(
        self,
        *arguments: Any,
        generator: IdentityGenerator | None = None,
        refinement: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.use(generator, **(refinement or {}))

    def configure(
        self, norm_mean: Sequence[float], norm_std: Sequence[float], *, generator: str = "", **refinement: Any
    ) -> None:
        """As `IdentityBackbone.configure`; `generator` is a file, `refinement` as of `use`.

        Raises:
            FileNotFoundError: if the generator's file does not exist.
            ValueError: if it is not a generator's.
        """
        super().configure(norm_mean, norm_std)
        self.use(IdentityGenerator.load(generator) if generator else None, **refinement)

    @property
    def fingerprint(self) -> str:
        """What codes depend on beside the weights, for those who cache them."""
        weights = [t for generator in self._generator for t in generator.state_dict().values()]
        sums = [tensor.double().sum().item() for tensor in weights]
        return repr((sorted(self._refinement.items()), sums))

    def use(self, generator: IdentityGenerator | None, **refinement: Any) -> None:
        """Refine by this generator; `refinement` are keyword arguments of `refine`."""
        self._generator = [generator.eval().requires_grad_(False)] if generator else []  # not a submodule
        self._refinement = refinement

    def code(self, images: Tensor) -> Tensor:
        """As `IdentityBackbone.code`, refined unless training.

        Raises:
            ValueError: if there is no generator.
        """
        code = super().code(images)
        if self.training:
            return code
        if not self._generator:
            raise ValueError("expected genext.inverter.refine.generator, a trained generator, got none")
        generator = self._generator[0].to(images.device)
        return refine(generator, images.float(), code.float(), **self._refinement)
