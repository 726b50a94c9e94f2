"""TransReID as a torchreid model: its formula, its heads, and files under the names of others.

No released file of TransReID-SSL, PASS or PersonViT was ever seen here: their names are those of TransReID's
code, from which they come. The names and shapes of Pose2ID's ``transformer_20.pth`` are recorded.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import ROOT
from tests.test_engine import build_engine, pictures, tiny_config, tiny_datasets  # noqa: F401
from torchreid_genext import checkpoints
from torchreid_genext.backbones import names, sources
from torchreid_genext.backbones.transreid import TransReIDBackbone
from torchreid_genext.generators.ipg import official
from torchreid_genext.generators.ipg.transreid import TransReID

SMALL: dict[str, Any] = {"image_size": (64, 32), "width": 8, "depth": 2, "heads": 2}
pytestmark = pytest.mark.usefixtures("registered")


def backbone(**options: Any) -> TransReIDBackbone:
    """With weights of a training: nothing is zero or one."""
    network = TransReIDBackbone(3, **{**SMALL, **options})
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.1 if tensor.ndim == 1 else 0.3 * torch.randn_like(tensor)
            )
    return network.eval()


def images(number: int = 3) -> Tensor:
    return torch.randn(number, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def as_authors_save(network: TransReIDBackbone, prefix: str = "") -> dict[str, Tensor]:
    """Under the names of TransReID's code, with the last block and the classes that nothing uses."""
    depth, named = len(network.body.blocks), {}
    beginnings = {
        "body.patches.": "base.patch_embed.proj.", "body.whole.": "b1.", "body.part.": "b2.", "body.": "base.",
        "sie": "base.sie_embed", "necks.0.": "bottleneck.", "classifier.0.": "classifier.",
        **{f"necks.{i}.": f"bottleneck_{i}." for i in range(1, 5)},
        **{f"classifier.{i}.": f"classifier_{i}." for i in range(1, 5)},
    }  # fmt: skip
    if network.body.part is None:
        beginnings = {"body.whole.0.": f"base.blocks.{depth}.", "body.whole.1.": "base.norm."} | beginnings
    for name, tensor in network.state_dict().items():
        ours = next(each for each in beginnings if name.startswith(each))
        named[prefix + beginnings[ours] + name.removeprefix(ours)] = tensor
    if network.body.part is not None:
        named |= {
            f"{prefix}base.blocks.{depth}.norm1.bias": torch.zeros(8),
            f"{prefix}base.norm.bias": torch.zeros(8),
        }
    return named | {f"{prefix}base.fc.weight": torch.zeros(1000, 8)}


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


# The formula


def test_a_feature_is_that_of_the_identity_encoder() -> None:
    network = backbone()
    encoder = TransReID(**SMALL).eval()
    encoder.load_state_dict(network.body.state_dict())
    assert torch.equal(network(images()), encoder(images()))


def test_after_the_neck_each_part_is_normalised_by_itself() -> None:
    network = backbone()
    network.feature = "before"
    parts = network(images()).unflatten(1, (5, 8)) * torch.tensor([1.0, 4, 4, 4, 4])[:, None]
    necked = [neck(parts[:, i]) / (1 if i == 0 else 4) for i, neck in enumerate(network.necks)]
    network.feature = "after"
    assert torch.allclose(network(images()), torch.cat(necked, 1), atol=1e-6)
    network.feature = "concatenated"
    assert torch.allclose(network(images())[:, 40:], torch.cat(necked, 1), atol=1e-6)


def test_a_camera_and_a_view_are_told_to_every_token() -> None:
    network = backbone(cameras=3, views=2)
    found = network(images(), cameras=torch.tensor([2, 0, -1]), views=torch.tensor([1, 1, 1]))
    for row, place in enumerate((5, 1, None)):
        told = backbone()
        told.load_state_dict({name: x for name, x in network.state_dict().items() if name != "sie"})
        if place is not None:
            told.body.pos_embed.data += 3.0 * network.sie[place]
        assert torch.allclose(found[row], told(images())[row], atol=1e-6)
    assert torch.equal(network(images()), network(images(), cameras=torch.full((3,), -1)))


def test_the_whole_counts_as_much_as_its_parts_in_the_loss() -> None:
    network = backbone(loss="triplet").train()
    logits, features = network(images())
    criterion, labels = nn.CrossEntropyLoss(), torch.tensor([0, 1, 2])
    losses = [criterion(each, labels).item() for each in logits]
    found = sum(losses) / len(losses)
    whole, parts = losses[0], set(losses[4:])
    assert len(features) == len(logits) and losses[:4] == [whole] * 4 and len(parts) == 4
    assert found == pytest.approx(0.5 * whole + 0.5 * sum(parts) / 4)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images \(B, 3, \(64, 32\)\), got \(1, 3, 32, 32\)"):
        backbone()(torch.zeros(1, 3, 32, 32))


# Files


@pytest.mark.parametrize("prefix", ["", "module.", "model.module.", "_orig_mod.", "image_encoder."])
@pytest.mark.parametrize("options", [{}, {"jpm": False}, {"cameras": 6}, {"stride": (16, 16)}, {"depth": 3}])
def test_the_authors_checkpoints_are_read(prefix: str, options: dict[str, Any], tmp_path: Path) -> None:
    network = backbone(**options)
    path = saved({"state_dict": as_authors_save(network, prefix), "epoch": 3}, tmp_path / "w.pth")
    again = TransReIDBackbone(1, **SMALL)
    checkpoints.load_weights(again, path)
    cameras = torch.tensor([0, 5, 1]) if network.cameras else None
    for feature in ("before", "after"):
        network.feature = again.feature = feature
        assert torch.equal(again.eval()(images(), cameras), network(images(), cameras))


def test_our_own_checkpoints_are_read(tmp_path: Path) -> None:
    network, again = backbone(cameras=4), TransReIDBackbone(9, **SMALL)
    path = checkpoints.save_backbone(tmp_path / "w.safetensors", network, {})
    left = checkpoints.load_weights(again, path)
    assert torch.equal(again.eval()(images()), network(images())) and again.cameras == 4
    assert left == [f"classifier.{i}.weight" for i in range(5)]


def test_every_recorded_tensor_of_pose2id_finds_its_place(tmp_path: Path, caplog: Any) -> None:
    table = json.loads(gzip.decompress((ROOT / "tests/data/official_ipg.json.gz").read_bytes()))
    shapes = table["transformer_20.pth"]
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        network = TransReIDBackbone(751)
    network.adapt({}, state, "transformer_20.pth")
    translated = network.translated(state, "transformer_20.pth")
    own = network.state_dict()
    assert {name: x.shape for name, x in translated.items()} == {name: x.shape for name, x in own.items()}
    assert network.feature_dim == 3840 and network.body.blocks[10] and len(network.body.blocks) == 11
    unused = [name for name in shapes if name.startswith(("base.norm.", "base.fc.", "base.blocks.11."))]
    assert len(translated) == len(shapes) - len(unused)


def test_it_gives_what_the_pipeline_reads_from_the_same_file(tmp_path: Path) -> None:
    network, encoder = backbone(), TransReID(**SMALL).eval()
    path = saved(as_authors_save(network), tmp_path / "transformer_20.pth")
    official.fill(encoder, path)
    again = TransReIDBackbone(1, **SMALL)
    checkpoints.load_weights(again, path)
    assert torch.equal(again.eval()(images()), encoder(images()))


def test_a_plain_transformer_begins_both_heads_with_its_last_block(tmp_path: Path, caplog: Any) -> None:
    network = backbone(jpm=False)
    state = as_authors_save(network)
    plain = {name.removeprefix("base."): x for name, x in state.items() if name.startswith("base.")}
    path = saved(plain | {"head.weight": torch.zeros(10, 8)}, tmp_path / "vit.pth")
    begun = TransReIDBackbone(3, **SMALL)
    with caplog.at_level("INFO"):
        checkpoints.load_weights(begun, path)
    assert begun.body.part is not None and len(begun.necks) == 5
    for head in (begun.body.whole, begun.body.part):
        for name, tensor in head.state_dict().items():
            assert torch.equal(tensor, network.body.whole.state_dict()[name])
    assert "vit.pth has no neck" in caplog.text and "head.weight" in caplog.text


def test_a_file_decides_on_the_size_and_the_run_on_that_of_images(tmp_path: Path) -> None:
    network = backbone(width=16, heads=4)
    path = saved(as_authors_save(network), tmp_path / "w.pth")
    again = sources.build("transreid", 1, image_size=(96, 32), options={**SMALL, "heads": 4})
    with pytest.raises(
        ValueError, match="expected position embeddings of images of a usual size, got 10 patches"
    ):
        checkpoints.load_weights(again, path)
    usual = backbone(image_size=(256, 128))
    path = saved(as_authors_save(usual), tmp_path / "usual.pth")
    again = sources.build("transreid", 1, image_size=(384, 128), options={**SMALL, "image_size": (256, 128)})
    checkpoints.load_weights(again, path)
    assert again.eval()(torch.zeros(1, 3, 384, 128)).shape == (1, 40)
    old, new = usual.body.pos_embed, again.body.pos_embed
    assert old.shape[1] == 1 + 21 * 10 and new.shape[1] == 1 + 31 * 10
    assert torch.equal(old[:, 0], new[:, 0])


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = saved({"conv1.weight": torch.zeros(3), "conv2.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match="expected weights of TransReID or a vision transformer, got .*w.pth: conv1"
    ):
        checkpoints.load_weights(TransReIDBackbone(1, **SMALL), path)


# Names


def test_positions_are_resized_as_an_image_is() -> None:
    positions = torch.randn(1, 1 + 6, 5)
    found = names.resized_positions(positions, (3, 2), (5, 4))
    for channel in range(5):
        image = positions[0, 1:, channel].reshape(1, 1, 3, 2)
        wanted = nn.functional.interpolate(image, (5, 4), mode="bilinear")
        assert torch.allclose(found[0, 1:, channel], wanted.flatten())
    assert torch.equal(found[:, 0], positions[:, 0])


@pytest.mark.parametrize(
    "number, size, grid, stride",
    [
        (210, (256, 128), (21, 10), 12), (128, (256, 128), (16, 8), 16), (310, (384, 128), (31, 10), 12),
        (196, (256, 128), (14, 14), 16), (210, (384, 128), (21, 10), 12), (192, (256, 128), (24, 8), 16),
    ],
)  # fmt: skip
def test_grids_are_told_by_their_number(number: int, size: Any, grid: Any, stride: int) -> None:
    assert names.grid_of(number, size) == (grid, stride)
    assert math.prod(grid) == number


# torchreid's engines


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
@pytest.mark.parametrize("jpm", [True, False])
def test_torchreids_engines_train_it(loss: str, jpm: bool, tiny_datasets: None, tmp_path: Path) -> None:  # noqa: F811
    name = f"transreid(image_size=(32,16), width=8, depth=1, heads=2, jpm={jpm})"
    sampler = [
        "sampler.train_sampler",
        "RandomIdentitySampler",
        "train.batch_size",
        "8",
        "loss.triplet.weight_x",
        "1.",
    ]
    cfg = tiny_config("model.name", name, *sampler, loss=loss)
    engine = build_engine(cfg)
    before = {key: x.clone() for key, x in engine.model.state_dict().items()}
    engine.run(save_dir=str(tmp_path), max_epoch=1, print_freq=100)
    after = engine.model.state_dict()
    still = {key for key in before if torch.equal(before[key], after[key])}
    assert still == {f"necks.{i}.bias" for i in range(5 if jpm else 1)}
