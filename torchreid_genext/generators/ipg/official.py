"""The authors' weight files: what they hold, under which names, and what of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from torchreid_genext import checkpoints
from torchreid_genext.generators.ipg.conditions import IdentityProjector
from torchreid_genext.generators.ipg.transreid import TransReID

__all__ = ["FILES", "fill", "find_files", "projector_sizes"]

# network of the pipeline -> file of the authors
FILES = {
    "reference_unet": "reference_unet.pth",
    "denoising_unet": "denoising_unet.pth",
    "pose_guider": "pose_guider.pth",
    "identity_projector": "IFR.pth",
    "reid_encoder": "transformer_20.pth",
}

# beginning of an official name -> ours; the U-Nets and the pose guider have the same
_PROJECTOR = {"proj_motion.": "projection.", "norm_motion.": "norm."}
_ENCODER = {"base.patch_embed.proj.": "patches.", "base.": "", "b1.": "whole.", "b2.": "part."}
_UNUSED = ("base.norm.", "base.fc.", "classifier", "bottleneck")  # by features before the BNNecks


def find_files(folder: str | Path) -> dict[str, Path]:
    """The authors' five files, by network; also from a clone of their hub, which has them one folder deeper.

    Raises:
        FileNotFoundError: if some are missing; names them all.
    """
    deeper = Path(folder, "pretrained")
    folder = deeper if deeper.is_dir() else folder
    files = {network: Path(folder, name) for network, name in FILES.items()}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise FileNotFoundError(
            f"expected {', '.join(FILES.values())} in {folder}, got no {', '.join(missing)}"
        )
    return files


def fill(network: nn.Module, path: str | Path) -> None:
    """Fill a network from an official file, in place.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, holds more than tensors, or weights that do not fit; says which.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in checkpoints.safe_load(path).items()}
    checkpoints.fill(network, _renamed(network, state), path)


def projector_sizes(path: str | Path) -> tuple[int, int, int]:
    """Width of features, number of tokens and their width, as the weights of a projector tell them."""
    state = checkpoints.safe_load(path)
    if not {"proj_motion.weight", "norm_motion.weight"} <= state.keys():
        raise ValueError(f"expected weights of IFR, proj_motion and norm_motion, got {path}")
    (outputs, features), width = state["proj_motion.weight"].shape, len(state["norm_motion.weight"])
    return features, outputs // width, width


def _renamed(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, without those that no forward pass uses."""
    if isinstance(network, IdentityProjector):
        return {_name(name, _PROJECTOR): tensor for name, tensor in state.items()}
    if isinstance(network, TransReID):
        unused = (*_UNUSED, f"base.blocks.{len(network.blocks)}.")
        return {
            _name(name, _ENCODER): tensor for name, tensor in state.items() if not name.startswith(unused)
        }
    return dict(state)


def _name(official: str, beginnings: Mapping[str, str]) -> str:
    for beginning, ours in beginnings.items():
        if official.startswith(beginning):
            return ours + official.removeprefix(beginning)
    return official
