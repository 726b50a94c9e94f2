"""Cards of backbones: read beside weights or in them, refused where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from torchreid_genext import checkpoints
from torchreid_genext.backbones.card import Card, Preprocessing, read_card, write_card
from torchreid_genext.backbones.spec import Backbone

CARD = {
    "architecture": "osnet_x0_25",
    "preprocessing": {"height": 64, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize": "letterbox"},
    "camera": "none",
    "licence": "MIT",
    "trained_on": ["market1501"],
    "expected": {"market1501": {"base": {"mAP": 79.88, "rank1": 91.48}}},
}  # fmt: skip


def weights(folder: Path, metadata: dict[str, Any] | None = None) -> Path:
    return checkpoints.save(folder / "w.safetensors", {"a.b": torch.ones(1)}, metadata)


def test_a_card_lies_beside_its_weights(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(CARD))
    for name in ("w.pth", "w.safetensors", "w.json"):
        card = read_card(tmp_path / name)
        assert card == Card(**CARD) and card.to_json() == {k: v for k, v in CARD.items() if k != "camera"}
    assert card.expect("market1501", "base") == {"mAP": 79.88, "rank1": 91.48}
    assert card.expect("market1501", "l2") == card.expect("msmt17", "base") == {}


def test_a_card_may_stand_in_the_metadata(tmp_path: Path) -> None:
    assert read_card(weights(tmp_path)) is None
    assert read_card(weights(tmp_path, {"card": CARD})) == Card(**CARD)
    (tmp_path / "w.json").write_text("{}")  # the one beside is easier to mend
    assert read_card(tmp_path / "w.safetensors") == Card()


def test_a_card_is_written_beside_weights(tmp_path: Path) -> None:
    path = write_card(tmp_path / "w.pth", Card(**CARD))
    assert path == tmp_path / "w.json" and read_card(tmp_path / "w.pth") == Card(**CARD)


def test_no_card_is_none(tmp_path: Path) -> None:
    assert read_card(tmp_path / "w.pth") is None


def test_what_a_card_leaves_out_is_the_configurations() -> None:
    default = Preprocessing(256, 128, (0.1, 0.2, 0.3))
    seen = Card(**CARD).preprocess(default)
    assert seen == Preprocessing(64, 128, (0.5, 0.5, 0.5), default.std, "bicubic", "letterbox")
    assert Card().preprocess(default) == default


@pytest.mark.parametrize(
    "change, words",
    [
        ({"feature": "neck"}, "unknown feature 'neck'; choose from before, after, concatenated"),
        ({"camera": 0}, "unknown camera 0; choose from none, image, zero"),
        ({"trainedon": []}, r"expected names that are known, got 'trainedon'; did you mean trained_on\?"),
        ({"zzz": 1}, "expected names that are known, got 'zzz'; choose from architecture"),
        ({"trained_on": "market1501"}, "expected trained_on as a list of data sets, got 'market1501'"),
        ({"trained_on": [1]}, "expected trained_on as a list of data sets"),
        ({"licence": None}, "expected licence as a text, got None"),
        ({"options": [1]}, r"expected options as names with values, got \[1\]"),
        ({"preprocessing": 3}, "expected preprocessing as names with values, got 3"),
        (
            {"preprocessing": {"hight": 3}},
            r"expected names that are known, got 'hight'; did you mean height\?",
        ),
        (
            {"preprocessing": {"height": 0}},
            r"expected height and width in whole pixels, 1 at least, got \(0, 128\)",
        ),
        ({"preprocessing": {"height": 2.5}}, "expected height and width in whole pixels"),
        ({"preprocessing": {"mean": [1, 2]}}, r"expected mean as three numbers, one a channel, got \[1, 2\]"),
        ({"preprocessing": {"mean": "abc"}}, "expected mean as three numbers"),
        ({"preprocessing": {"std": [1, 0, 1]}}, "expected mean in 0..1 and std above 0"),
        ({"preprocessing": {"mean": [123.7, 116.3, 103.5]}}, "got .123.7, .*; divide those of images in 0..255 by 255"),
        ({"preprocessing": {"std": [58.4, 57.1, 57.4]}}, "divide those of images in 0..255 by 255"),
        ({"preprocessing": {"mean": [0.5, 0.5, float("nan")]}}, "expected mean in 0..1"),
        ({"preprocessing": {"size": [128, 64]}}, "did you mean resize. choose from height, width, mean"),
        (
            {"preprocessing": {"interpolation": "cubic"}},
            "unknown interpolation 'cubic'; choose from .*bicubic",
        ),
        ({"preprocessing": {"resize": "crop"}}, "unknown resize 'crop'; choose from stretch, letterbox"),
        (
            {"expected": {"market1501": {"base": [1, 2]}}},
            "expected under a data set and a chain: mAP and rank1",
        ),
        ({"expected": {"market1501": {"base": {"map": 1}}}}, "expected under a data set and a chain"),
        ({"expected": {"market1501": {"base": {"mAP": 101}}}}, "in per cent, got {'mAP': 101}"),
        (
            {"expected": {"market1501": 3}},
            "expected what is expected on a data set as chains with rates, got 3",
        ),
    ],
)
def test_a_wrong_card_is_refused_with_its_name(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(change))
    with pytest.raises(ValueError, match=f"{words}.*, in the card .*w.json"):
        read_card(tmp_path / "w.pth")


@pytest.mark.parametrize("text", ["", "{", "not json", "\x00"])
def test_what_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ValueError, match="expected a card in JSON, got .*w.json"):
        read_card(tmp_path / "w.pth")


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_json_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ValueError, match="expected the card as names with values, got .*w.json"):
        read_card(tmp_path / "w.pth")


# What a run names


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("timm:vit@64x32", ("vit@64x32", "timm:vit", "", (64, 32), {})),
        ("a=timm:vit(pool=both)", ("a", "timm:vit", "", None, {"pool": "both"})),
        (
            "transreid(cameras=6, jpm=False)@d/w.pth",
            ("transreid@w", "transreid", "d/w.pth", None, {"cameras": 6, "jpm": False}),
        ),
        ("transreid(stride=(16,16))", ("transreid", "transreid", "", None, {"stride": (16, 16)})),
        ("onnx:d/a=b@c(1).onnx@64x32", ("a=b@c(1)@64x32", "onnx:d/a=b@c(1).onnx", "", (64, 32), {})),
        ("x=features:d/m.npz", ("x", "features:d/m.npz", "", None, {})),
        ("module:a.b.net@w.pth", ("a.b.net@w", "module:a.b.net", "w.pth", None, {})),
    ],
)
def test_backbones_are_read(text: str, wanted: tuple[Any, ...]) -> None:
    label, name, file, size, options = wanted
    assert Backbone.parse(text) == Backbone(label, name, file, size, options=options)


@pytest.mark.parametrize("text", ["vit(3)", "vit(a=)", "vit(a=b.c)", "vit(**x)"])
def test_options_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected options as "):
        Backbone.parse(text)


def test_a_run_takes_what_the_card_says(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({**CARD, "options": {"a": 1, "b": 2}}))
    found = Backbone("x", "osnet_x0_25", str(tmp_path / "w.pth"), options={"b": 3}).with_card()
    assert found.options == {"a": 1, "b": 3} and found.saw("market1501") and not found.saw("msmt17")
    assert found.preprocessing(Preprocessing(10, 20)).size == (64, 20)
    sized = Backbone("x", "osnet_x0_25", str(tmp_path / "w.pth"), (48, 24)).with_card()
    assert sized.preprocessing(Preprocessing(10, 20)).size == (48, 24)


def test_a_card_of_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(CARD))
    with pytest.raises(ValueError, match="expected a card of resnet50, got one of osnet_x0_25 for .*w.pth"):
        Backbone("x", "resnet50", str(tmp_path / "w.pth")).with_card()


def test_a_card_in_place_of_weights_names_them(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"weights": "deep/w.pth", "source": "fetch it there"}))
    backbone = Backbone("x", "osnet_x0_25", str(tmp_path / "card.json"))
    with pytest.raises(
        FileNotFoundError, match="expected the weights deep/w.pth of .*card.json, .*; fetch it there"
    ):
        backbone.with_card()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.pth").touch()
    assert backbone.with_card().weights == str(tmp_path / "deep" / "w.pth")
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a card that names its weights, got .*card.json without"):
        backbone.with_card()


@pytest.mark.parametrize(
    "name, pretrained, random",
    [
        ("osnet_x0_25", True, False),
        ("osnet_x0_25", False, True),
        ("hacnn", True, True),
        ("genid", True, True),
        ("transreid", True, True),
        ("timm:test_vit", True, False),
        ("timm:test_vit", False, True),
        ("onnx:m.onnx", False, False),
        ("features:m.npz", False, False),
        ("module:a.b", False, False),
    ],
)
def test_whoever_has_no_weights_is_called_random(name: str, pretrained: bool, random: bool) -> None:
    backbone = Backbone("x", name, "", pretrained=pretrained)
    assert backbone.title == ("x (random weights)" if random else "x")
    assert not Backbone("x", name, "w.pth", pretrained=pretrained).is_random
