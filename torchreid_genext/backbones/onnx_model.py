"""A network in an ONNX file, run by onnxruntime, as one that extracts features."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreid_genext.backbones.packages import needed

__all__ = ["OnnxModel"]


class OnnxModel(nn.Module):
    """Images in, features out; it cannot be trained.

    Args:
        path: file with one input (B, 3, H, W), normalised images, and one output, features (B, D). A fixed
            number of images B is kept to.

    Attributes:
        image_size: height and width in pixels, where the file fixes them.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if onnxruntime is missing; the message names the cure.
        ValueError: if onnxruntime cannot read the file, or inputs and outputs are others.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(os.path.expanduser(path))
        if not self.path.is_file():
            raise FileNotFoundError(f"expected an ONNX file, got {path}, which does not exist")
        self.digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        session = self._session("cpu")
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self._check([each.name for each in inputs], [each.name for each in outputs], inputs[0].shape)
        self.batch, self.input = inputs[0].shape[0], inputs[0].name
        self.dtype = np.float16 if "float16" in inputs[0].type else np.float32
        if all(isinstance(size, int) for size in inputs[0].shape[2:]):
            self.image_size = tuple(inputs[0].shape[2:])

    def _check(self, inputs: list[str], outputs: list[str], shape: list[Any]) -> None:
        if len(inputs) != 1 or len(outputs) != 1:
            rule = "expected one input, images, and one output, features; export it so"
            raise ValueError(f"{rule}; got {', '.join(inputs)} and {', '.join(outputs)} in {self.path}")
        if len(shape) != 4 or isinstance(shape[1], int) and shape[1] != 3:
            raise ValueError(f"expected an input (B, 3, H, W), got {tuple(shape)} in {self.path}")

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to features (B, D).

        Raises:
            ValueError: in training.
        """
        if self.training:
            raise ValueError(f"expected a network that can be trained, got {self.path}; ONNX files only run")
        images, size = x.detach().cpu().numpy().astype(self.dtype), len(x)
        step = self.batch if isinstance(self.batch, int) else size
        found = [
            self._run(images[start : start + step], step, x.device.type) for start in range(0, size, step)
        ]
        return torch.from_numpy(np.concatenate(found)).float().to(x.device)

    def _run(self, images: np.ndarray, size: int, device: str) -> np.ndarray:
        """A batch of one size: missing images are blank."""
        blank = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
        given = {self.input: np.concatenate([images, blank])}
        return self._session(device).run(None, given)[0][: len(images)]

    def _session(self, device: str) -> Any:
        # Not kept here: it cannot be copied, and its threads do not follow into another process.
        return _session(self.path, self.digest, device, torch.get_num_threads(), os.getpid())


@functools.lru_cache(maxsize=4)
def _session(path: Path, digest: str, device: str, threads: int, process: int) -> Any:
    runtime = needed("onnxruntime", "models named onnx:")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"] if device == "cpu" else runtime.get_available_providers()
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of onnxruntime's own kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"expected an ONNX file, got {path}, which cannot be read: {reason}") from error
