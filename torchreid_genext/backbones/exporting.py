"""A network written as an ONNX file, which other programs run without PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from torchreid_genext.backbones.packages import needed

__all__ = ["export_onnx"]

_NEEDS = ("onnx", "onnxscript")


def export_onnx(network: nn.Module, path: str | Path, image_size: Sequence[int]) -> None:
    """Write a network with its weights; the number of images stays free.

    Args:
        network: maps normalised images (B, 3, H, W) to features (B, D) in evaluation mode; on the CPU.
        path: of the file, with input ``images`` and output ``features``.
        image_size: height and width in pixels, which the file fixes.

    Raises:
        ImportError: if a package is missing; the message names the cure.
        ValueError: if torch cannot write the network so.
    """
    for name in _NEEDS:
        needed(name, "exports")
    images = torch.zeros(2, 3, *image_size)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (images,), str(path), input_names=["images"], output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, external_data=False,
            )  # fmt: skip
    except Exception as error:  # of torch's own kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"expected a network that torch writes as ONNX, got {reason}") from error


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
