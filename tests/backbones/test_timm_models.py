"""Models of timm as backbones, and files of others that its architectures take.

The files are made here, under the names that the code of CLIP, CLIP-ReID, TransReID-SSL and SOLIDER gives and
with random weights: no released file of theirs was ever seen.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.reference import solider
from tests.test_engine import build_engine, pictures, tiny_config, tiny_datasets  # noqa: F401
from torchreid_genext import checkpoints
from torchreid_genext.backbones import sources
from torchreid_genext.backbones.timm_models import TimmBackbone

timm = pytest.importorskip("timm", reason="needs the extra timm")
SMALL: dict[str, Any] = {"image_size": (64, 32), "depth": 2, "embed_dim": 8, "num_heads": 2}


def backbone(name: str = "test_vit", **options: Any) -> TimmBackbone:
    options = {**(SMALL if "vit" in name else {"image_size": (64, 32)}), **options}
    network = TimmBackbone(name, 3, **options)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.1 if tensor.ndim == 1 else 0.3 * torch.randn_like(tensor)
            )
    return network.eval()


def images(number: int = 3, height: int = 64) -> Tensor:
    return torch.randn(number, 3, height, 32, generator=torch.Generator().manual_seed(1))


# Features


@pytest.mark.parametrize(
    "name, width", [("test_vit", 8), ("test_convnext", 64), ("test_resnet", 96), ("test_vit4", 8)]
)
def test_a_feature_is_what_timm_gives_without_classes(name: str, width: int) -> None:
    network = backbone(name)
    assert torch.equal(network(images()), network.body(images()))
    assert network(images()).shape == (3, width)


def test_class_token_and_mean_of_patches_are_features() -> None:
    network = backbone(pool="both")
    tokens = network.body.forward_features(images())
    first = network.body.num_prefix_tokens
    wanted = torch.cat([tokens[:, 0], tokens[:, first:].mean(1)], 1)
    assert torch.allclose(network(images()), wanted)
    for pool, part in (("token", wanted[:, :8]), ("mean", wanted[:, 8:])):
        alone = backbone(pool=pool)
        alone.body.load_state_dict(network.body.state_dict())
        assert torch.allclose(alone(images()), part)


def test_the_neck_stands_behind_the_feature() -> None:
    network = backbone()
    before = network(images())
    network.feature = "after"
    assert torch.allclose(network(images()), network.necks[0](before))


def test_what_timm_says_of_images() -> None:
    assert backbone().preprocessing == {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    "name, options, words",
    [
        (
            "timm:vit_base_patch16",
            {},
            "expected a model that timm .* knows, got 'vit_base_patch16'; near are ",
        ),
        ("timm:", {}, "expected a name behind 'timm:', got none"),
        ("timm:test_vit", {"pool": "max"}, "unknown pool 'max'; choose from token, mean, both"),
        (
            "timm:test_resnet",
            {"pool": "token"},
            "expected a model with a class token for pool 'token', got timm:test_resnet",
        ),
        ("timm:test_resnet", {"zzz": 1}, "expected options that timm's test_resnet takes, got {'zzz': 1}"),
    ],
)
def test_mistakes_are_told(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sources.build(name, 1, image_size=(64, 32), options=options)


def test_weights_that_cannot_be_fetched_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries again and again
    with pytest.raises(
        ValueError, match="expected timm's test_vit for .*; name a file, or set model.pretrained False"
    ):
        sources.build("timm:test_vit", 1, pretrained=True)


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match="timm: need the module 'timm', .*`pip install timm`"):
        sources.check("timm:test_vit")


# Files


def read(network: TimmBackbone, state: dict[str, Tensor], folder: Path) -> None:
    torch.save(state, folder / "w.pth")
    checkpoints.load_weights(network, folder / "w.pth")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "base.", "backbone.", "module.base.", "net.", "encoder.", "image_encoder."]
)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_bare_networks_of_timm_are_read(name: str, prefix: str, tmp_path: Path) -> None:
    network, again = backbone(name), backbone(name)
    plain = {prefix + key: x for key, x in network.body.state_dict().items()}
    read(again, {"model": plain, "epoch": 3}, tmp_path)
    assert torch.equal(again(images()), network(images()))


def test_the_teacher_of_a_self_distillation_is_read(tmp_path: Path) -> None:
    network, again = backbone(), backbone()
    student = {f"module.backbone.{key}": x + 1 for key, x in network.body.state_dict().items()}
    teacher = {f"module.backbone.{key}": x for key, x in network.body.state_dict().items()}
    read(again, {"student": student, "teacher": teacher}, tmp_path)
    assert torch.equal(again(images()), network(images()))


def test_our_own_checkpoints_are_read(tmp_path: Path) -> None:
    network, again = backbone(), backbone()
    checkpoints.save_backbone(tmp_path / "w.safetensors", network, {})
    checkpoints.load_weights(again, tmp_path / "w.safetensors")
    network.feature = again.feature = "concatenated"
    assert torch.equal(again(images()), network(images()))


def test_a_transformer_with_the_neck_of_transreid_is_read(tmp_path: Path) -> None:
    """As TransReID-SSL, PASS and PersonViT save theirs, which are plain transformers."""
    network, again = backbone(), backbone()
    state = {f"base.{key}": x for key, x in network.body.state_dict().items()}
    state |= {f"bottleneck.{key}": x for key, x in network.necks[0].state_dict().items()}
    read(
        again,
        state | {"classifier.weight": torch.zeros(751, 8), "base.fc.weight": torch.zeros(9, 8)},
        tmp_path,
    )
    network.feature = again.feature = "concatenated"
    assert torch.equal(again(images()), network(images()))


def as_clip_reid(network: TimmBackbone) -> dict[str, Tensor]:
    inner = {
        ".norm1.": ".ln_1.", ".norm2.": ".ln_2.", ".attn.qkv.": ".attn.in_proj_", ".attn.proj.": ".attn.out_proj.",
        ".mlp.fc1.": ".mlp.c_fc.", ".mlp.fc2.": ".mlp.c_proj.",
    }  # fmt: skip
    outer = {
        "cls_token": "class_embedding", "pos_embed": "positional_embedding", "patch_embed.proj.": "conv1.",
        "norm_pre.": "ln_pre.", "norm.": "ln_post.", "blocks.": "transformer.resblocks.",
    }  # fmt: skip
    named = {}
    for name, tensor in network.body.state_dict().items():
        for ours, theirs in inner.items():
            name = name.replace(ours, theirs)
        ours = next(each for each in outer if name.startswith(each))
        name = "image_encoder." + outer[ours] + name.removeprefix(ours)
        named[name] = (
            tensor.flatten() if "class_emb" in name else tensor[0] if "positional" in name else tensor
        )
    named |= {f"bottleneck.{key}": x for key, x in network.necks[0].state_dict().items()}
    unused = ("image_encoder.proj", "cv_embed", "text_encoder.ln_final.weight", "prompt_learner.cls_ctx")
    return named | {
        name: torch.zeros(3) for name in (*unused, "classifier_proj.weight", "bottleneck_proj.bias")
    }


def test_clip_reids_image_encoder_is_read_into_that_of_timm(tmp_path: Path, caplog: Any) -> None:
    options = {"pre_norm": True, "act_layer": "quick_gelu"}
    network, again = (backbone("vit_base_patch16_clip_quickgelu_224", **options) for _ in range(2))
    with caplog.at_level("INFO"):
        read(again, as_clip_reid(network), tmp_path)
    network.feature = again.feature = "concatenated"
    assert torch.equal(again(images()), network(images()))
    assert (
        "left out" in caplog.text
        and "text_encoder.ln_final.weight" in caplog.text
        and "cv_embed" in caplog.text
    )


def test_clip_attends_and_normalises_as_its_authors_wrote(tmp_path: Path) -> None:
    """A block by hand, from CLIP's own names."""
    network = backbone("vit_base_patch16_clip_quickgelu_224", depth=1)
    s = {name.removeprefix("image_encoder."): x for name, x in as_clip_reid(network).items()}
    x = nn.functional.conv2d(images(), s["conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([s["class_embedding"].expand(3, 1, 8), x], 1) + s["positional_embedding"]
    norm = lambda x, name: nn.functional.layer_norm(x, (8,), s[f"{name}.weight"], s[f"{name}.bias"])  # noqa: E731
    x, block = norm(x, "ln_pre"), "transformer.resblocks.0."
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    start = f"{block}attn."
    attention.load_state_dict({key.removeprefix(start): x for key, x in s.items() if key.startswith(start)})
    y = norm(x, f"{block}ln_1")
    x = x + attention(y, y, y, need_weights=False)[0]
    y = nn.functional.linear(
        norm(x, f"{block}ln_2"), s[f"{block}mlp.c_fc.weight"], s[f"{block}mlp.c_fc.bias"]
    )
    y = y * torch.sigmoid(1.702 * y)
    x = x + nn.functional.linear(y, s[f"{block}mlp.c_proj.weight"], s[f"{block}mlp.c_proj.bias"])
    assert torch.allclose(network(images()), norm(x, "ln_post")[:, 0], atol=1e-4)


def test_positions_of_a_usual_size_are_resized(tmp_path: Path, caplog: Any) -> None:
    network, again = backbone(image_size=(256, 128)), backbone(image_size=(384, 128))
    with caplog.at_level("INFO"):
        read(again, network.body.state_dict(), tmp_path)
    assert "position embeddings of 16 x 8 patches become those of 24 x 8" in caplog.text
    assert again(torch.zeros(1, 3, 384, 128)).shape == (1, 8)
    assert torch.equal(again.body.pos_embed[:, 0], network.body.pos_embed[:, 0])


SWIN = {"embed_dim": 4, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4)}
SEEN = {"image_size": (192, 64)}  # windows of 7 fit into none of the stages


@pytest.mark.parametrize("weight", [0.2, 0.9])
@pytest.mark.parametrize("prefix", ["base.", "module.base."])
def test_a_solider_gives_the_features_of_its_authors(tmp_path: Path, weight: float, prefix: str) -> None:
    state = solider.random_state(4, SWIN["depths"], SWIN["num_heads"])
    named = {name.replace("base.", prefix): tensor for name, tensor in state.items()}
    network = TimmBackbone("swin_tiny_patch4_window7_224", 3, semantic=weight, **SEEN, **SWIN)
    read(network, named, tmp_path)
    picture = torch.randn(2, 3, 192, 64, generator=torch.Generator().manual_seed(2))
    wanted = [solider.features(state, x, SWIN["depths"], SWIN["num_heads"], weight) for x in picture]
    torch.testing.assert_close(network.eval()(picture), torch.stack(wanted), rtol=1e-4, atol=1e-4)
    assert torch.equal(network.necks[0].running_mean, state["bottleneck.running_mean"])
    # What is written of it is read again, by another process, too.
    again = TimmBackbone("swin_tiny_patch4_window7_224", 3, **SEEN, **SWIN)
    checkpoints.load_weights(again, checkpoints.save(tmp_path / "again.safetensors", network.state_dict()))
    assert torch.equal(pickle.loads(pickle.dumps(again.eval()))(picture), network(picture))


@pytest.mark.slow
def test_a_solider_of_the_official_size_fits(tmp_path: Path) -> None:
    """Of the tiny one; others differ by numbers of blocks, channels and heads."""
    state = solider.random_state(96, (2, 2, 6, 2), (3, 6, 12, 24), classes=751)
    network = TimmBackbone("swin_tiny_patch4_window7_224", image_size=(384, 128))
    read(network, state, tmp_path)
    assert network.eval()(torch.zeros(1, 3, 384, 128)).shape == (1, 768)


def test_solider_needs_a_swin(tmp_path: Path) -> None:
    state = solider.random_state(4, SWIN["depths"], SWIN["num_heads"])
    with pytest.raises(
        ValueError, match="expected a Swin for weights of SOLIDER, such as .*, got timm:test_vit"
    ):
        read(backbone(), state, tmp_path)
    with pytest.raises(ValueError, match="expected semantic in 0..1, got 2"):
        backbone(semantic=2)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = backbone().body.state_dict()
    state["blocks.7.norm1.weight"] = torch.zeros(8)
    del state["norm.bias"]
    with pytest.raises(
        ValueError, match=r"1 missing \(body.norm.bias\); 1 unexpected \(body.blocks.7.norm1.weight\)"
    ):
        read(backbone(), state, tmp_path)


# Training


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_torchreids_engines_train_it(loss: str, tiny_datasets: None, tmp_path: Path) -> None:  # noqa: F811
    name = "timm:test_vit(depth=1, embed_dim=8, num_heads=2)"
    sampler = ["sampler.train_sampler", "RandomIdentitySampler", "loss.triplet.weight_x", "1."]
    engine = build_engine(tiny_config("model.name", name, "train.batch_size", "8", *sampler, loss=loss))
    before = {key: x.clone() for key, x in engine.model.state_dict().items()}
    engine.run(save_dir=str(tmp_path), max_epoch=1, print_freq=100)
    assert [k for k, x in engine.model.state_dict().items() if torch.equal(x, before[k])] == ["necks.0.bias"]
