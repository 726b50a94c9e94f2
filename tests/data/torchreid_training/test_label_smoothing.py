"""Label smoothing of generated images alone, in torchreid's own engines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import torchreid_genext as genext
from torchreid_genext import compat, config
from torchreid_genext import engine as hooks
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.torchreid_training.datasets import GeneratedImage, augmenting
from torchreid_genext.data.torchreid_training.label_smoothing import smooth_generated, smoothed_cross_entropy

PEOPLE, SIZE = 3, (16, 8)


def naive(logits: Tensor, labels: Tensor, epsilons: list[float]) -> float:
    """One image and one person after the other."""
    total = 0.0
    for row, label, epsilon in zip(logits.double().tolist(), labels.tolist(), epsilons):
        exponentials = [math.exp(logit) for logit in row]
        for person, exponential in enumerate(exponentials):
            target = epsilon / len(row) + (1 - epsilon if person == label else 0)
            total -= target * math.log(exponential / sum(exponentials))
    return total / len(labels)


@pytest.mark.parametrize("epsilons", [[0.0] * 5, [1.0] * 5, [0.1, 0.0, 1.0, 0.5, 0.25]])
def test_formula_is_that_of_each_image_and_person(epsilons: list[float]) -> None:
    logits, labels = torch.randn(5, 7) * 3, torch.tensor([0, 3, 6, 3, 1])
    ours = smoothed_cross_entropy(logits, labels, torch.tensor(epsilons))
    assert ours.item() == pytest.approx(naive(logits, labels, epsilons), rel=1e-6)


def test_formula_with_one_smoothing_for_all_is_torchreids() -> None:
    logits, labels = torch.randn(9, 4) * 3, torch.randint(4, (9,))
    for smooth, epsilon in ((True, 0.1), (False, 0.0)):
        theirs = compat.host().losses.CrossEntropyLoss(4, use_gpu=False, label_smooth=smooth)(logits, labels)
        ours = smoothed_cross_entropy(logits, labels, torch.full((9,), epsilon))
        torch.testing.assert_close(ours, theirs)


class Network(nn.Module):
    """Answers as torchreid's models do: what the loss expects while training."""

    def __init__(self, loss: str, heads: int = 1) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * SIZE[0] * SIZE[1], 5)
        self.classifiers = nn.ModuleList(nn.Linear(5, PEOPLE) for _ in range(heads))
        self.loss = loss

    def forward(self, images: Tensor) -> Any:
        features = self.embed(images.flatten(1))
        logits = [classify(features) for classify in self.classifiers]
        logits = logits[0] if len(logits) == 1 else logits
        return (logits, features) if self.loss == "triplet" else logits


@pytest.fixture
def data(tmp_path: Path) -> Any:
    """A root with `crowd`: three people in four images each, and a generated one of each of these."""
    store = ImageStore.create(tmp_path / "crowd_generated" / "ipg")
    items = [(str(tmp_path / f"{i}.png"), i // 4, i % 2) for i in range(4 * PEOPLE)]
    for number, (path, _, _) in enumerate(items):
        picture = Image.effect_noise((SIZE[1], SIZE[0]), 10 + number).convert("RGB")
        picture.save(path)
        store.add(picture, split="train", reference=Path(path).name, pose="1", provenance={})

    class Crowd(compat.ImageDataset):
        def __init__(self, root: str = "", **options: Any) -> None:
            super().__init__(items, items[:1], items[1:], **options)

    compat.register_image_dataset("crowd", Crowd)
    genext.register()
    yield tmp_path
    genext.unregister()
    compat.unregister_image_dataset("crowd", Crowd)


def build(root: Path, source: str = "crowd_ipg", heads: int = 1, **changes: Any) -> tuple[Any, Any]:
    """An engine as `tools/main.py` builds it, but for the network, and the configuration."""
    keys = {
        "data.root": root, "data.sources": [source], "data.targets": ["crowd"], "data.height": SIZE[0],
        "data.width": SIZE[1], "data.workers": 0, "data.transforms": [], "use_gpu": False,
        "train.batch_size": 12, "loss.triplet.weight_x": 0.7,
    }  # fmt: skip
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    cfg = config.load_config(opts=[str(word) for pair in keys.items() for word in pair])
    manager = hooks.build_datamanager(cfg)
    model = Network(cfg.loss.name, heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return hooks.build_engine(cfg, manager, model, optimizer, None), cfg


def expected(engine: Any, batch: dict[str, Any], real: float, generated: float) -> float:
    """Mean cross-entropy over the heads of the network."""
    epsilons = [generated if isinstance(path, GeneratedImage) else real for path in batch["impath"]]
    assert {real, generated} == set(epsilons)
    outputs = engine.model(batch["img"])
    outputs = outputs[0] if engine.model.loss == "triplet" else outputs
    heads = outputs if isinstance(outputs, list) else [outputs]
    return sum(naive(logits.detach(), batch["pid"], epsilons) for logits in heads) / len(heads)


@pytest.mark.parametrize("sampler", ["RandomSampler", "RandomIdentitySampler"])
@pytest.mark.parametrize("loss", ["softmax", "triplet"])
@pytest.mark.parametrize(("smooth", "real"), [(True, 0.1), (False, 0.0)])
def test_generated_images_have_their_own_and_real_ones_torchreids(
    data: Path, loss: str, sampler: str, smooth: bool, real: float
) -> None:
    keys = {"loss__name": loss, "sampler__train_sampler": sampler, "loss__softmax__label_smooth": smooth}
    engine, cfg = build(data, **keys, genext__augmented__label_smoothing=0.6)
    hooks.attach(engine, cfg)
    name = "loss_x" if loss == "triplet" else "loss"
    for batch in engine.train_loader:
        assert engine.forward_backward(batch)[name] == pytest.approx(
            expected(engine, batch, real, 0.6), rel=1e-5
        )


def test_every_head_of_a_network_is_smoothed(data: Path) -> None:
    engine, cfg = build(data, heads=2, genext__augmented__label_smoothing=1.0)
    batch = next(iter(hooks.attach(engine, cfg).train_loader))
    assert engine.forward_backward(batch)["loss"] == pytest.approx(
        expected(engine, batch, 0.1, 1.0), rel=1e-5
    )


def test_triplets_stay_as_they_are(data: Path) -> None:
    engine, _ = build(data, loss__name="triplet")
    batch = next(iter(engine.train_loader))
    plain = engine.forward_backward(batch)
    smooth_generated(engine, 0.9)
    smoothed = engine.forward_backward(batch)
    assert smoothed["loss_t"] == plain["loss_t"] and smoothed["loss_x"] != plain["loss_x"]


def test_nothing_to_smooth_leaves_the_engine_as_it_is(data: Path) -> None:
    engine, cfg = build(data)
    before = dict(vars(engine))
    assert vars(hooks.attach(engine, cfg)) == before


def test_detaching_and_attaching_again_give_everything_back(data: Path) -> None:
    engine, cfg = build(data, genext__augmented__label_smoothing=0.5)
    parsed = []

    def mine(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        parsed.append(batch)
        return batch["img"], batch["pid"]

    criterion, engine.parse_data_for_train = engine.criterion, mine
    for _ in range(2):
        hooks.attach(engine, cfg)
    batch = next(iter(engine.train_loader))
    assert engine.forward_backward(batch)["loss"] == pytest.approx(
        expected(engine, batch, 0.1, 0.5), rel=1e-5
    )
    assert len(parsed) == 1
    hooks.detach(engine)
    assert engine.criterion is criterion and engine.parse_data_for_train is mine
    del engine.parse_data_for_train
    before = dict(vars(engine))
    hooks.detach(hooks.attach(engine, cfg))
    assert vars(engine) == before


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan")])
def test_smoothing_out_of_range_is_refused(data: Path, epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"genext.augmented.label_smoothing in 0..1, got {epsilon}"):
        smooth_generated(build(data)[0], epsilon)


def test_smoothing_of_nothing_is_refused_before_the_training(data: Path) -> None:
    key = {"genext__augmented__label_smoothing": 0.1}
    engine, cfg = build(data, "crowd", **key)
    with pytest.raises(
        ValueError, match="a source with generated images .* 0.1, such as market1501_ipg, got none"
    ):
        hooks.attach(engine, cfg)
    engine, cfg = build(data, loss__name="triplet", loss__triplet__weight_x=0.0, **key)
    before = dict(vars(engine))
    with pytest.raises(
        ValueError, match="expected a loss with cross-entropy .*got ImageTripletEngine without"
    ):
        hooks.attach(engine, cfg)
    assert vars(engine) == before


def test_dataset_made_by_torchreid_itself_can_be_smoothed(data: Path) -> None:
    with augmenting(ratio=0.5):
        manager = compat.host().data.ImageDataManager(
            root=str(data), sources="crowd_ipg", height=16, width=8, use_gpu=False, workers=0
        )
    model = Network("softmax")
    engine = compat.host().engine.ImageSoftmaxEngine(
        manager, model, torch.optim.SGD(model.parameters()), use_gpu=False
    )
    hooks.attach(engine, config.load_config(opts=["genext.augmented.label_smoothing", "0.1"]).genext)
    assert sum(isinstance(item[0], GeneratedImage) for item in manager.train_loader.dataset.train) == 6
    assert "parse_data_for_train" in vars(engine)
