"""A torchreid model with its preprocessing, exact in fp32 or fast in bf16.

In fp32 the features are those of torchreid's own engine. In bf16 batch normalisation is first folded, in
fp32, into the convolutions before it, which then run without it in bfloat16.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from torchreid_genext.extraction.fingerprint import fingerprint
from torchreid_genext.extraction.process import effective, versions

__all__ = ["PRECISIONS", "Encoder", "fold_batch_norm"]

PRECISIONS = ("fp32", "bf16")
_KEY_VERSION = 2  # raise when features change for the same model and images
_log = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A torchreid model with its preprocessing: bytes of images in, float32 features out.

    Args:
        model: any network that maps (B, 3, H, W) to (B, D) in evaluation mode; it is not changed.
        name: what the model is called; part of the key of cached features.
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.
        norm_mean: per channel, of images in [0, 1].
        norm_std: as `norm_mean`.
        precision: "bf16", or "fp32": as torchreid's engine computes it. On accelerators that is exact only
            where torch is told so: convolutions of cuDNN otherwise take TF32 (``torch.backends.cudnn``).
        channels_last: memory order of images and feature maps.
        flip: take the mean of an image's features and its mirror image's, at twice the cost.
        compile: translate the network with ``torch.compile``; needs a C++ compiler.
        device: where the network runs.
        interpolation, resize: of images, as `data.images.resizing.resized` takes them.
        camera: which is told to a network whose ``forward`` takes ``cameras``, a tensor (B,); -1 is unknown,
            and None tells it nothing.
        batch_size: images that pass the network together; None takes 16 on a CPU, in whose cache feature maps
            then stay, and 128 on an accelerator.

    Raises:
        ValueError: if `precision` is unknown, `camera` is told to a network that takes none, `batch_size` is
            below 1, there is no compiler for `compile`, or the model is for images of another size (it has an
            attribute ``image_size`` then).
    """

    def __init__(
        self,
        model: nn.Module,
        name: str = "",
        *,
        height: int = 256,
        width: int = 128,
        norm_mean: Sequence[float] = (0.485, 0.456, 0.406),
        norm_std: Sequence[float] = (0.229, 0.224, 0.225),
        precision: str = "fp32",
        channels_last: bool = False,
        flip: bool = False,
        compile: bool = False,
        device: torch.device | str = "cpu",
        interpolation: str = "bilinear",
        resize: str = "stretch",
        camera: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
        if compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
            raise ValueError("expected a C++ compiler (g++, clang++, cl or $CXX) for compile, got none")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"expected batch_size 1 or more, or None, got {batch_size}")
        _check_size(model, (height, width))
        self.name, self.kind = name, type(model).__name__
        self.differentiates = getattr(model, "differentiates", False)
        self.height, self.width, self.precision, self.compiled = height, width, precision, compile
        self.reading = (height, width, interpolation, resize)
        self.flip = flip
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device = torch.device(device)
        self.batch_size = batch_size or (16 if self.device.type == "cpu" else 128)
        self.register_buffer("mean", torch.tensor(norm_mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(norm_std, dtype=torch.float32).view(-1, 1, 1))
        self.camera, self.cameras = camera, getattr(model, "cameras", None)
        told = model if camera is None else _Told(model, camera)
        self.network, self.autocast = _prepared(told, precision, self.layout)
        self.to(self.device).eval()
        self.network.to(memory_format=self.layout)
        if compile:
            self.network = torch.compile(self.network, dynamic=False)

    @classmethod
    def like(cls, model: nn.Module, transform: Any, name: str = "", **options: Any) -> Encoder:
        """An encoder that sees images as torchreid's engines do in a test.

        Args:
            model: of the engine; one in ``DataParallel`` is taken out.
            transform: for tests, such as ``engine.datamanager.transform_te``: resize, to tensor, normalise.
            name: as `Encoder` takes it.
            options: as `Encoder` takes them; without `device` that of the model.

        Raises:
            ValueError: if the transform does something else; and as `Encoder`.
        """
        model = model.module if isinstance(model, nn.DataParallel) else model
        options = {"device": next((p.device for p in model.parameters()), "cpu")} | options
        return cls(model, name, **_preprocessing(transform), **options)

    @property
    def key(self) -> str:
        """Names everything, besides the images, that the features depend on now; looks at all weights."""
        images = (self.name, self.height, self.width, self.mean.tolist(), self.std.tolist())
        images += () if self.reading[2:] == ("bilinear", "stretch") else self.reading[2:]
        inference = (
            self.precision,
            self.autocast,
            str(self.layout),
            self.compiled,
            self.flip,
            self.device.type,
        )
        process = (versions(), sorted(effective().items(), key=str))
        words = (_KEY_VERSION, images, inference, process, fingerprint(self.network))
        return hashlib.sha256(repr(words).encode("utf-8", "surrogatepass")).hexdigest()

    def of_camera(self, camera: int) -> Encoder:
        """One of the same weights that tells its network another camera.

        Raises:
            ValueError: if this one tells none, or the network knows none of that number.
        """
        if self.camera is None or self.cameras is not None and not -1 <= camera < self.cameras:
            known = (
                "no camera" if self.camera is None or not self.cameras else f"one of {self.cameras} cameras"
            )
            raise ValueError(f"expected {known}, which {self.name or self.kind} knows, got {camera}")
        other = copy.deepcopy(self, {id(weight): weight for weight in self.parameters()})
        other.camera = camera
        getattr(other.network, "_orig_mod", other.network).camera.fill_(camera)
        return other

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) float32, on the encoder's device, of images (B, H, W, 3) uint8.

        Raises:
            ValueError: if the network returns anything but one feature an image.
        """
        with torch.inference_mode():
            features = self._features(images)
        return features.clone()  # which, made outside, can be used in a training

    def _features(self, images: Tensor) -> Tensor:
        x = self.normalized(self._filled_up(images))
        features = self._encoded(self.network, x)
        if self.flip:
            features = (features + self._encoded(self.network, x.flip(3))) / 2
        return features[: len(images)]

    def _encoded(self, network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return _checked(network(x), len(x), self.kind).float()

    def probe(self) -> None:
        """Let the network, not compiled, see two blank images, to tell before the work what it cannot do.

        Raises:
            ValueError: as `forward`, or if the network fails, as it may on images of this size.
        """
        blank = torch.zeros(2, self.height, self.width, 3, dtype=torch.uint8)
        try:
            with torch.inference_mode(), _one_thread():
                self._encoded(getattr(self.network, "_orig_mod", self.network), self.normalized(blank))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, IndexError, AssertionError) as error:
            rule = f"expected a network that takes images of {self.height} x {self.width}"
            raise ValueError(f"{rule}, got {self.kind}: {type(error).__name__}: {error}") from error

    def normalized(self, images: Tensor) -> Tensor:
        """What the network sees, (B, 3, H, W): torchreid's operations in its order, to the last bit."""
        x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        x = x.div_(255).sub_(self.mean).div_(self.std)
        return x.to(self._input_dtype, memory_format=self.layout)

    def _filled_up(self, images: Tensor) -> Tensor:
        """Compiled code is for one batch size, so the last batch gets blank images."""
        missing = self.batch_size - len(images) if self.compiled else 0
        return torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing > 0 else images

    @property
    def _input_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" and not self.autocast else torch.float32

    @property
    def runs_in_workers(self) -> bool:
        """Whether loading processes also run the network (and compile it, each for its one thread).

        Not one that differentiates: autograd refuses in a process that was forked after autograd had threads.
        """
        return self.device.type == "cpu" and not self.differentiates


class _Told(nn.Module):
    """A network that is told the same camera for all images."""

    def __init__(self, network: nn.Module, camera: int) -> None:
        if "cameras" not in inspect.signature(network.forward).parameters:
            cure = "set camera none in its card"
            raise ValueError(f"expected a network that takes cameras, got {type(network).__name__}; {cure}")
        super().__init__()
        self.network = network
        self.register_buffer("camera", torch.tensor(camera))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, cameras=self.camera.expand(x.shape[0]))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Two images are too little to share, and threads would wait long for each other beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _checked(output: Any, images: int, kind: str) -> Tensor:
    """Features (B, D) from what a network returned; (B, D, 1, 1) and one image's (D,) are meant alike."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if images == 1 and len(shape) == 1:
        return output[None]
    fits = len(shape) >= 2 and shape[0] == images and shape[1] and set(shape[2:]) <= {1}
    if not fits or not output.is_floating_point():
        rule = f"expected features (B, D) from {kind} in evaluation mode, got {_described(output)}"
        raise ValueError(f"{rule} for {images} images; wrap it in a module that returns the features alone")
    return output.flatten(1)


def _described(output: Any) -> str:
    """In words: what kind of thing, and the shapes of the tensors in it."""
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
    if isinstance(output, Mapping):
        parts = ", ".join(f"{key}: {_described(value)}" for key, value in output.items())
        return f"a {type(output).__name__} of {parts or 'nothing'}"
    if isinstance(output, list | tuple):
        return f"a {type(output).__name__} of {', '.join(map(_described, output)) or 'nothing'}"
    return f"a {type(output).__name__}"


def _preprocessing(transform: Any) -> dict[str, Any]:
    """Size, mean and deviation of a test transform as torchreid makes it."""
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    if list(steps) != ["Resize", "ToTensor", "Normalize"] or isinstance(steps["Resize"].size, int):
        rule = "expected a transform for tests that resizes to (height, width), makes a tensor and normalises"
        raise ValueError(f"{rule}, as torchreid's does, got {transform!r}")
    (height, width), last = steps["Resize"].size, steps["Normalize"]
    mean, std = (torch.as_tensor(each).tolist() for each in (last.mean, last.std))
    return {"height": height, "width": width, "norm_mean": mean, "norm_std": std}


def _check_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Tell at once what the model would tell from inside a loading process, at length."""
    height, width = getattr(model, "image_size", size)
    if (height, width) != size:
        rule = f"data.height {height} and data.width {width}, for which {type(model).__name__} was made"
        raise ValueError(f"expected {rule}, got {size[0]} and {size[1]}")


def _prepared(model: nn.Module, precision: str, layout: torch.memory_format) -> tuple[nn.Module, bool]:
    """A copy of `model` to run, and whether it needs autocasting to bfloat16."""
    model = copy.deepcopy(model).eval().float()  # also where torch's default is another
    if precision == "fp32" and layout == torch.contiguous_format:
        return model, False
    try:
        traced = _traced(model)
    except (ValueError, RuntimeError, TypeError, NameError, AttributeError) as error:
        reason = str(error).partition(". ")[0]
        _log.info("%s runs as it is, since it cannot be traced: %s", type(model).__name__, reason)
        return model, precision == "bf16"
    return (traced if precision == "fp32" else _fold(traced).to(torch.bfloat16)), False


def fold_batch_norm(model: nn.Module) -> fx.GraphModule:
    """Put each batch normalisation that directly follows a convolution or linear layer into its weights.

    Args:
        model: a network in evaluation mode; its layers are not changed.

    Returns:
        The traced network, which computes the same up to rounding. It takes images alone: other arguments of
        ``forward`` keep their defaults.

    Raises:
        torch.fx.proxy.TraceError: if control flow depends on the input; tracing may fail in other ways too.
    """
    return _fold(_traced(model))


def _traced(model: nn.Module) -> fx.GraphModule:
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    traced = fx.GraphModule(model, fx.Tracer().trace(model, concrete_args=defaults))
    for node in traced.graph.find_nodes(op="call_method", target="view"):
        node.target = "reshape"  # the same numbers, but also for other memory orders than the author had
    traced.recompile()
    return traced


def _fold(traced: fx.GraphModule) -> fx.GraphModule:
    for layer, norm in _foldable(traced):
        parent, _, name = layer.target.rpartition(".")
        folded = _folded(traced.get_submodule(layer.target), traced.get_submodule(norm.target))
        setattr(traced.get_submodule(parent), name, folded)
        norm.replace_all_uses_with(layer)
        traced.graph.erase_node(norm)
    traced.recompile()
    return traced


def _foldable(traced: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Calls (layer, normalisation) where nobody else uses the layer, its output or the normalisation."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    kinds = {(nn.Conv2d, nn.BatchNorm2d), (nn.Linear, nn.BatchNorm1d)}
    pairs = [(node.args[0], node) for node in calls if node.args and node.args[0] in calls]
    return [
        (layer, norm)
        for layer, norm in pairs
        if (type(traced.get_submodule(layer.target)), type(traced.get_submodule(norm.target))) in kinds
        and times[layer.target] == times[norm.target] == len(layer.users) == 1
    ]


def _folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    fold = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
    return fold(layer, norm)
