"""Networks in ONNX files: the numbers that onnxruntime gives, in any process, and files that will not do."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchreid_genext.backbones import sources
from torchreid_genext.backbones.onnx_model import OnnxModel
from torchreid_genext.extraction import Encoder, extract

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def model(path: Path, shape: Any = ("B", 3, "H", "W"), inputs: int = 1, outputs: int = 1) -> Path:
    """Mean colour times a matrix."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["features"]),
    ]
    given = [helper.make_tensor_value_info(name, kind, shape) for name in ("images", "more")[:inputs]]
    results = [helper.make_tensor_value_info(name, kind, None) for name in ("features", "flat")[:outputs]]
    graph = helper.make_graph(nodes, "g", given, results, [onnx.numpy_helper.from_array(WEIGHT, "weight")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return path


def images(number: int = 5) -> Tensor:
    return torch.randn(number, 3, 8, 4, generator=torch.Generator().manual_seed(1))


def wanted(x: Tensor) -> Tensor:
    return x.mean((2, 3)) @ torch.from_numpy(WEIGHT)


@pytest.mark.parametrize("batch", ["B", 1, 2, 8])
def test_features_are_those_of_the_file(batch: Any, tmp_path: Path) -> None:
    network = OnnxModel(model(tmp_path / "m.onnx", (batch, 3, "H", "W"))).eval()
    assert torch.allclose(network(images()), wanted(images()), atol=1e-5)


def test_a_file_may_fix_the_size_of_images(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", ("B", 3, 8, 4))
    assert OnnxModel(path).image_size == (8, 4)
    with pytest.raises(
        ValueError, match="expected data.height 8 and data.width 4, for which OnnxModel was made"
    ):
        Encoder(OnnxModel(path), height=16, width=4)
    assert not hasattr(OnnxModel(model(path)), "image_size")


def test_it_can_be_copied_and_sent_and_is_known_by_its_content(tmp_path: Path) -> None:
    network = OnnxModel(model(tmp_path / "m.onnx")).eval()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(images()), network(images()))
    key = Encoder(network, height=8, width=4).key
    assert Encoder(OnnxModel(tmp_path / "m.onnx"), height=8, width=4).key == key
    model(tmp_path / "m.onnx", ("N", 3, "H", "W"))
    assert Encoder(OnnxModel(tmp_path / "m.onnx"), height=8, width=4).key != key


def test_loading_processes_run_it(tmp_path: Path, pictures: list[str]) -> None:
    encoder = Encoder(OnnxModel(model(tmp_path / "m.onnx")), height=8, width=4, batch_size=2)
    alone = extract(encoder, pictures, workers=0, progress=False).features
    assert torch.equal(extract(encoder, pictures, workers=2, progress=False).features, alone)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    from PIL import Image

    paths = [str(tmp_path / f"{number}.png") for number in range(9)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((8, 4, 3), 20 * number, np.uint8)).save(path)
    return paths


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"outputs": 2},
            "expected one input, images, and one output, features; export it so; got images and features, flat",
        ),
        ({"shape": ("B", 3, "W")}, r"expected an input \(B, 3, H, W\), got"),
    ],
)
def test_files_of_other_networks_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        OnnxModel(model(tmp_path / "m.onnx", **options))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("not a network")
    with pytest.raises(ValueError, match="expected an ONNX file, got .*m.onnx, which cannot be read"):
        sources.build(f"onnx:{tmp_path}/m.onnx", 1)
    with pytest.raises(
        FileNotFoundError, match="expected an ONNX file, got .*none.onnx, which does not exist"
    ):
        sources.build(f"onnx:{tmp_path}/none.onnx", 1)
    with pytest.raises(ValueError, match="expected no options of an ONNX file, got {'a': 1}"):
        sources.build(f"onnx:{tmp_path}/m.onnx", 1, options={"a": 1})


def test_it_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a network that can be trained, got .*ONNX files only run"):
        OnnxModel(model(tmp_path / "m.onnx")).train()(images())


def test_a_missing_onnxruntime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="onnx: need the module 'onnxruntime', .*`pip install onnxruntime`"):
        OnnxModel(model(tmp_path / "other.onnx"))
