"""The authors' five files, as they would come: whole, missing, truncated, of another network, or worse."""

from __future__ import annotations

import pickle
import shutil
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
    load_any,
    official,
    without_head,
)
from torchreid_genext.generators.ipg.sampler import weights_digest

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
    return release(tmp_path)


def release(tmp_path: Path) -> Path:
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


def test_one_loader_reads_saved_pipelines_and_official_files(released: Path, tmp_path: Path) -> None:
    read(released).save_pretrained(tmp_path / "saved")
    beside = {"base_model": tmp_path / "base", "vae": tmp_path / "vae"}
    deeper = tmp_path / "clone" / "pretrained"
    shutil.copytree(released, deeper)
    for name, source in (("stable-diffusion-v1-5", "base"), ("sd-vae-ft-mse", "vae")):
        shutil.copytree(tmp_path / source, deeper.parent / name)
    made = [
        load_any(tmp_path / "saved"),
        load_any(released, **beside, reid_encoder=encoder()),
        load_any(deeper.parent, reid_encoder=encoder()),  # which finds the others beside
    ]
    digests = {weights_digest(pipe) for pipe in made}
    assert len(digests) == 1 and {pipe.config.pose_style for pipe in made} == {"official"}


def test_what_is_no_pipeline_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of a saved pipeline or .*got '/no/such'"):
        load_any("/no/such")
    with pytest.raises(FileNotFoundError, match=f"expected {FILES} in .*, got no reference_unet.pth"):
        load_any(tmp_path)


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
