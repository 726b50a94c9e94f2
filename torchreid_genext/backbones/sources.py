"""Where networks come from, told by the first word of their name.

osnet_x1_0                          torchreid's registry, and what is registered there
timm:vit_base_patch16_224           timm
onnx:model.onnx                     a file that onnxruntime runs
module:package.module.function      a function of yours that returns a network
features:market1501.npz             no network, but features by the names of images
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from torchreid_genext import compat
from torchreid_genext.backbones import MODELS

__all__ = ["SOURCES", "build", "check", "fetches_weights", "holds_weights", "source_of"]

SOURCES = ("timm", "onnx", "module", "features")
# What torchreid fetches no weights for, whatever `pretrained` says.
_WITHOUT_WEIGHTS = {"hacnn", "mudeep", "mlfn", "shufflenet", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"}


def source_of(architecture: str) -> tuple[str, str]:
    """One of `SOURCES`, or "" for torchreid's registry, and the name there."""
    source, colon, name = architecture.partition(":")
    return (source, name) if colon and source in SOURCES else ("", architecture)


def check(architecture: str) -> None:
    """Tell before any work whether a name means something.

    Raises:
        ValueError: naming rule, offender and choices.
        ImportError: if a package is missing; the message names the cure.
    """
    source, name = source_of(architecture)
    if source and not name:
        raise ValueError(f"expected a name behind '{source}:', got none")
    if source == "timm":
        from torchreid_genext.backbones import timm_models

        timm_models.check_name(name)
    elif source == "module":
        _function(name)
    elif not source and name not in compat.model_names():
        kinds = ", ".join(f"{each}:" for each in SOURCES)
        choices = ", ".join(compat.model_names())
        raise ValueError(f"unknown model {name!r}; choose from {choices}, or begin with {kinds}")


def fetches_weights(architecture: str) -> bool:
    """Whether a network comes with weights where none are named and ``pretrained`` is on."""
    source, name = source_of(architecture)
    if source:
        return source == "timm"
    return name not in MODELS and name not in _WITHOUT_WEIGHTS


def holds_weights(architecture: str) -> bool:
    """Whether the name itself stands for weights: a file, or a function that knows its own."""
    return source_of(architecture)[0] in ("onnx", "module", "features")


def build(
    architecture: str,
    num_classes: int,
    *,
    loss: str = "softmax",
    pretrained: bool = False,
    use_gpu: bool = False,
    image_size: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network on the CPU.

    Args:
        architecture: as above; not of ``features:``.
        num_classes, loss, pretrained, use_gpu: as torchreid's factories take them.
        image_size: height and width in pixels, of a network that is made for one size.
        options: further ones of its constructor; torchreid's own take none.

    Raises:
        ValueError: if name or options mean nothing, or the network is none.
        ImportError: if a package is missing; the message names the cure.
    """
    check(architecture)
    source, name = source_of(architecture)
    host = {"num_classes": num_classes, "loss": loss, "pretrained": pretrained, "use_gpu": use_gpu}
    model = _BUILDERS[source](name, host, image_size, dict(options or {}))
    if image_size is not None and hasattr(model, "fit_to"):
        model.fit_to(image_size)
    return model


def _of_registry(name: str, host: dict[str, Any], size: Any, options: dict[str, Any]) -> nn.Module:
    if not options:
        return compat.build_model(name, host.pop("num_classes"), **host)
    if name not in MODELS:
        raise ValueError(f"expected options that {name} takes, got {options}; it takes none")
    try:
        return MODELS[name](**host, **options)
    except TypeError as error:
        rule = f"expected options that {name} takes"
        raise ValueError(f"{rule}, got {options}: {error}") from error


def _of_timm(name: str, host: dict[str, Any], size: Any, options: dict[str, Any]) -> nn.Module:
    from torchreid_genext.backbones.timm_models import TimmBackbone

    host.pop("use_gpu")
    return TimmBackbone(name, **host, image_size=size or (256, 128), **options)


def _of_onnx(name: str, host: dict[str, Any], size: Any, options: dict[str, Any]) -> nn.Module:
    from torchreid_genext.backbones.onnx_model import OnnxModel

    if options:
        raise ValueError(f"expected no options of an ONNX file, got {options}")
    return OnnxModel(name)


def _of_module(name: str, host: dict[str, Any], size: Any, options: dict[str, Any]) -> nn.Module:
    """What a function returns, given those of torchreid's arguments that it takes."""
    function = _function(name)
    taken = inspect.signature(function).parameters
    every = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    given = {key: value for key, value in host.items() if every or key in taken}
    try:
        model = function(**given, **options)
    except TypeError as error:
        raise ValueError(
            f"expected a function of {list(given) + list(options)}, got {name}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module from {name}, got a {type(model).__name__}")
    return model


def _of_features(name: str, host: dict[str, Any], size: Any, options: dict[str, Any]) -> nn.Module:
    raise ValueError(f"expected a network, got features:{name}, which holds features only")


_BUILDERS = {
    "": _of_registry, "timm": _of_timm, "onnx": _of_onnx, "module": _of_module, "features": _of_features,
}  # fmt: skip


def _function(name: str) -> Any:
    """What a dotted name means."""
    module, _, function = name.rpartition(".")
    if not module:
        raise ValueError(f"expected module:package.function, got 'module:{name}'")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        cure = "see that Python finds it (PYTHONPATH), or install its package"
        raise ImportError(
            f"module:{name} needs the module '{error.name}', which is missing; {cure}"
        ) from error
    except AttributeError as error:
        raise ValueError(f"expected a function of {module}, got 'module:{name}': {error}") from error
    if not callable(found):
        raise ValueError(f"expected a function that returns a network, got {type(found).__name__} {name}")
    return found
