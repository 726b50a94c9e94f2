"""The inverter of GenerativePersonReID as a torchreid model: a person's feature is the code that makes them.

``genid`` gives the code in one pass; ``genid_refined`` then asks a frozen generator for the code that
explains the image best.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_genext import checkpoints
from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, refine

__all__ = ["LOSSES", "IdentityBackbone", "RefinedIdentityBackbone"]

LOSSES = ("softmax", "triplet")
_NO_GENERATOR = "expected genext.inverter.refine.generator, a trained generator, got none"
_NOTE = "classifier.network"  # in state dicts: the configuration, beside the layers that are exchanged freely
_NOTE_BYTES = 512  # whatever the configuration, since torchreid loads only tensors of the size it knows
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, with which torchreid normalises


class IdentityBackbone(Inverter):
    """`Inverter` with torchreid's manners: normalised images in; logits while training, codes otherwise.

    One name stands for networks of many sizes, and torchreid's checkpoints hold nothing but tensors, so the
    configuration travels in them as one.

    Args:
        num_classes: identities of the classifier, which sits behind a BatchNorm and which codes do not pass.
        loss: ``softmax`` (logits) or ``triplet`` (logits and codes).
        norm_mean, norm_std: per channel, with which images come; undone, since inverters take [0, 1].
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
        self.classifier.register_buffer("network", _noted(self.config))
        for name, values in (("norm_mean", norm_mean), ("norm_std", norm_std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @classmethod
    def load(cls, path: str | Path) -> IdentityBackbone:
        """Read what `checkpoints.load_weights` reads, in evaluation mode; raises as it does."""
        network = cls()
        checkpoints.load_weights(network, path)
        return network.eval()

    def adapt(self, metadata: Mapping[str, Any], state: Mapping[str, Tensor], source: str | Path) -> None:
        """Take the size of the network whose weights these are, if metadata or tensors tell it.

        Raises:
            ValueError: if they are of another kind of network; names `source`.
        """
        kind = metadata.get("kind", self.kind)
        if kind != self.kind:
            raise ValueError(f"expected weights of kind {self.kind!r}, got {source} of {kind!r}")
        config = metadata.get("network") or _described(state) or self.config
        if config != self.config:
            vars(self).update(vars(self._resized(config)))

    def _resized(self, config: Mapping[str, Any]) -> IdentityBackbone:
        """A fresh one of another configuration, else like this one."""
        head = {"norm_mean": self.norm_mean.flatten().tolist(), "norm_std": self.norm_std.flatten().tolist()}
        fresh = IdentityBackbone(self.classifier[-1].out_features, self.loss, **head, **config)
        return fresh.to(self.norm_mean).train(self.training)

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
        """As `torch.nn.Module.load_state_dict`.

        Raises:
            ValueError: if the weights say that they are of another size, of which torchreid's
                ``load_pretrained_weights`` would leave out what does not fit, and go on.
        """
        config = _described(state_dict) or self.config
        if config != self.config:
            raise ValueError(
                f"expected weights of {self.config}, got those of {config}; "
                "torchreid_genext.checkpoints.load_weights takes the size from the file"
            )
        return super().load_state_dict(state_dict, *arguments, **options)

    @property
    def fingerprint(self) -> str:
        """What codes depend on beside the state dict, for those who cache them."""
        return repr((self.config, self.norm_mean.tolist(), self.norm_std.tolist()))

    def configure(
        self,
        norm_mean: Sequence[float],
        norm_std: Sequence[float],
        *,
        network: Mapping[str, Any] | None = None,
        **refinement: Any,
    ) -> None:
        """Take what a configuration says of images, and of the size where no weights are going to tell it.

        `refinement` concerns `RefinedIdentityBackbone` only.
        """
        config = {**self.config, **(network or {})}
        if config != self.config:
            vars(self).update(vars(self._resized(config)))
        self.norm_mean.copy_(torch.tensor(norm_mean)[:, None, None])
        self.norm_std.copy_(torch.tensor(norm_std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalised as the host does, to codes (B, D); while training as `loss` says.

        Raises:
            ValueError: if the images have another size; ``data.height`` and ``data.width`` set it.
        """
        self._check_size(x)
        images = x * self.norm_std + self.norm_mean
        code = self.code(images)
        if not self.training:
            return code
        logits = self.classifier(code)
        return logits if self.loss == "softmax" else (logits, code)

    def _check_size(self, x: Tensor) -> None:
        (height, width), got = self.image_size, tuple(x.shape)
        if got[1:] != (3, height, width):
            cure = f"set data.height {height} and data.width {width}"
            raise ValueError(f"expected images (B, 3, {height}, {width}), got {got}; {cure}")

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

    differentiates = True  # also when it only extracts features

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
        self,
        norm_mean: Sequence[float],
        norm_std: Sequence[float],
        *,
        network: Mapping[str, Any] | None = None,
        generator: str = "",
        **refinement: Any,
    ) -> None:
        """As `IdentityBackbone.configure`; `generator` is a file, `refinement` as of `use`.

        Raises:
            FileNotFoundError: if the generator's file does not exist.
            ValueError: if none is named or it is not a generator's, or as `use`.
        """
        super().configure(norm_mean, norm_std, network=network)
        if not generator:
            raise ValueError(_NO_GENERATOR)
        self.use(IdentityGenerator.load(generator), **refinement)

    def use(self, generator: IdentityGenerator | None, **refinement: Any) -> None:
        """Refine by a copy of this generator; `refinement` are keyword arguments of `refine`.

        Raises:
            ValueError: as `refine`.
        """
        self._generators: dict[torch.device, IdentityGenerator] = {}  # by device; not submodules
        self._refinement = refinement
        if generator is not None:
            frozen = copy.deepcopy(generator).eval().requires_grad_(False)
            self._generators[frozen.table.weight.device] = frozen
            _try(frozen, refinement)

    @property
    def fingerprint(self) -> str:
        """As `IdentityBackbone.fingerprint`, with generator and refinement."""
        generators = [(g.config, _digest(g)) for g in list(self._generators.values())[:1]]
        return repr((super().fingerprint, generators, sorted(self._refinement.items())))

    def code(self, images: Tensor) -> Tensor:
        """As `IdentityBackbone.code`, refined unless training.

        Raises:
            ValueError: if there is no generator, or one for images or codes of another size.
        """
        code = super().code(images)
        if self.training:
            return code
        generator = self._generator_on(images.device)
        # Compilers make nothing of a descent by autograd but many small pieces, anew for each step.
        run = torch.compiler.disable(refine) if torch.compiler.is_compiling() else refine
        return run(generator, images.float(), code.float(), unit=self.unit, **self._refinement)

    @torch.inference_mode(False)  # weights made inside it could not be differentiated through
    def _generator_on(self, device: torch.device) -> IdentityGenerator:
        if not self._generators:
            raise ValueError(_NO_GENERATOR)
        generator = next(iter(self._generators.values()))
        self._check_generator(generator)
        if device not in self._generators:
            self._generators[device] = copy.deepcopy(generator).to(device)
        return self._generators[device]

    def _check_generator(self, generator: IdentityGenerator) -> None:
        wanted = self.image_size, self.code_width
        found = generator.image_size, generator.table.embedding_dim
        if wanted != found:
            (height, width), code = wanted
            rule = f"a generator of images {height} x {width} from codes of {code}, as the weights say"
            (height, width), code = found
            raise ValueError(f"expected {rule}, got {height} x {width} from {code}")


def _try(generator: IdentityGenerator, refinement: Mapping[str, Any]) -> None:
    """Let `refine` refuse its arguments now, not in the middle of an evaluation."""
    weight = generator.table.weight
    images = weight.new_zeros(1, 3, *generator.image_size)
    refine(generator, images, torch.zeros_like(weight[:1]), **{**refinement, "steps": 0})


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _noted(config: Mapping[str, Any]) -> Tensor:
    """A configuration as bytes (512,)."""
    text = json.dumps(config, sort_keys=True).encode().ljust(_NOTE_BYTES)
    return torch.tensor(list(text), dtype=torch.uint8)


def _described(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The configuration that a state dict holds, if it does."""
    return json.loads(bytes(state[_NOTE].tolist())) if _NOTE in state else None
