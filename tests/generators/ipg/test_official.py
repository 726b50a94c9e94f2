"""The authors' five files, as they would come: whole, missing, truncated, of another network, or worse."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.generators.ipg.networks import CHANNELS, TOKENS, WIDTH, unet, vae
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGPipeline,
    PoseGuider,
    TransReID,
    official,
    without_head,
)

FILES = "reference_unet.pth, denoising_unet.pth, pose_guider.pth, IFR.pth, transformer_20.pth"


def encoder() -> TransReID:
    return TransReID((64, 32), width=8, depth=1, heads=2)


def under_official_names(network: nn.Module) -> dict[str, Tensor]:
    """As the authors save it, with what they never use."""
    state = network.state_dict()
    if isinstance(network, IdentityProjector):
        return {
            name.replace("projection", "proj_motion").replace("norm.", "norm_motion."): v
            for name, v in state.items()
        }
    if isinstance(network, TransReID):
        heads = {"patches.": "base.patch_embed.proj.", "whole.": "b1.", "part.": "b2."}
        named = {}
        for name, tensor in state.items():
            start = next((start for start in heads if name.startswith(start)), "")
            named[f"module.{heads.get(start, 'base.')}{name.removeprefix(start)}"] = tensor
        unused = (
            "base.norm.weight",
            "base.fc.bias",
            "base.blocks.1.norm1.bias",
            "classifier_2.weight",
            "bottleneck.bias",
        )
        return named | {f"module.{name}": torch.zeros(3) for name in unused}
    return state


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder of weights, and beside it base model and autoencoder."""
    torch.manual_seed(0)
    base = unet()
    networks = (
        without_head(unet()),
        base,
        PoseGuider(CHANNELS[0]),
        IdentityProjector(40, TOKENS, WIDTH),
        encoder(),
    )
    folder = tmp_path / "pretrained"
    folder.mkdir()
    for network, name in zip(networks, FILES.split(", "), strict=True):
        torch.save(under_official_names(network), folder / name)
    base.save_config(tmp_path / "base" / "unet")
    vae().save_pretrained(tmp_path / "vae")
    return folder


def read(folder: Path) -> IPGPipeline:
    beside = folder.parent
    return IPGPipeline.from_official(folder, beside / "base", beside / "vae", reid_encoder=encoder())


def test_the_five_files_become_a_pipeline(released: Path) -> None:
    pipe = read(released)
    for name, file in official.FILES.items():
        wanted = {
            name.removeprefix("module."): t
            for name, t in torch.load(released / file, weights_only=True).items()
        }
        found = under_official_names(getattr(pipe, name))
        same = [
            torch.equal(tensor, wanted[key.removeprefix("module.")])
            for key, tensor in found.items()
            if tensor.any()
        ]
        assert same and all(same), file
    assert not any(network.training for network in pipe.components.values() if isinstance(network, nn.Module))


def test_missing_files_are_all_named(released: Path) -> None:
    for name in ("IFR.pth", "pose_guider.pth"):
        (released / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"expected {FILES} in .*pretrained, got no pose_guider.pth, IFR.pth"
    ):
        read(released)


def test_weights_that_do_not_fit_are_named(released: Path) -> None:
    path = released / "pose_guider.pth"
    state = torch.load(path, weights_only=True)
    state["conv_outer.weight"], state["conv_in.bias"] = state.pop("conv_out.weight"), torch.zeros(3)
    torch.save(state, path)
    with pytest.raises(ValueError, match="expected weights of PoseGuider, got .*pose_guider.pth") as raised:
        read(released)
    for part in (
        "missing (conv_out.weight)",
        "unexpected (conv_outer.weight)",
        "conv_in.bias (3,) instead of (16,)",
    ):
        assert part in str(raised.value)


def test_projectors_of_something_else_are_refused(released: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, released / "IFR.pth")
    with pytest.raises(
        ValueError, match="expected weights of IFR, proj_motion and norm_motion, got .*IFR.pth"
    ):
        read(released)


def test_truncated_files_and_those_with_code_are_refused(released: Path) -> None:
    path = released / "denoising_unet.pth"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="denoising_unet.pth"):
        read(released)
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ValueError, match="denoising_unet.pth"):
        read(released)
    assert not Path("pwned").exists()


class Evil:
    def __reduce__(self) -> tuple:
        return Path("pwned").touch, ()


def test_official_sizes_have_the_official_weights() -> None:
    """Shapes only: nothing is allocated."""
    with torch.device("meta"):
        networks = {"IFR": IdentityProjector(), "pose_guider": PoseGuider(), "transformer_20": TransReID()}
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counts["IFR"] == 58_999_296 and counts["pose_guider"] == 514_896
