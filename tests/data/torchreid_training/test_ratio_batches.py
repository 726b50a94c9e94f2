"""Real and generated images in fixed shares of a batch, and their two passes through a network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.data.torchreid_training import test_label_smoothing
from tests.data.torchreid_training.test_label_smoothing import PEOPLE, SIZE, build, naive
from torchreid_genext import compat
from torchreid_genext import engine as hooks
from torchreid_genext.data.torchreid_training.datasets import GeneratedImage
from torchreid_genext.data.torchreid_training.label_smoothing import smooth_generated
from torchreid_genext.data.torchreid_training.ratio_batches import (
    RatioSampler,
    mix_batches,
    parse_ratio,
    separate_softmax_engine,
)

data = test_label_smoothing.data  # the same crowd: 12 real and 12 generated images of 3 people
MARKS = [False] * 10 + [True] * 7


@pytest.mark.parametrize(
    ("ratio", "batch", "fakes"),
    [("3:1", 4, 1), ("128:46", 8, 2), ("1:9", 4, 3), ("9:1", 4, 1), ("1:2", 4, 3)],
)
def test_every_batch_has_its_share_and_an_epoch_every_real_image_once(
    ratio: str, batch: int, fakes: int
) -> None:
    sampler = RatioSampler(MARKS, batch, ratio)
    order = list(sampler)
    assert len(order) == len(sampler) == batch * (10 // (batch - fakes))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    assert all(sum(MARKS[row] for row in rows) == fakes for rows in batches)
    real = [row for row in order if not MARKS[row]]
    assert len(set(real)) == len(real) and set(order) <= set(range(17))


def test_generated_images_come_in_turns_and_epochs_differ() -> None:
    sampler = RatioSampler(MARKS, 4, "1:3")  # 10 batches with 30 of the 7
    orders = [list(sampler) for _ in range(3)]
    counts = Counter(row for row in orders[0] if MARKS[row])
    assert len(counts) == 7 and max(counts.values()) - min(counts.values()) <= 1
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("ratio", ["3", "3:0", "0:1", "3:1:1", "a:b", "1.5:1", ""])
def test_other_ratios_are_refused(ratio: str) -> None:
    with pytest.raises(ValueError, match=f"as real:generated, such as 3:1, got '{ratio}'"):
        parse_ratio(ratio)


def test_batches_that_cannot_be_filled_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 12 real and 4 generated images or more .*, got 10 and 7"):
        RatioSampler(MARKS, 16, "3:1")
    with pytest.raises(ValueError, match="expected 8 real and 8 generated images or more .*, got 10 and 7"):
        RatioSampler(MARKS, 16, "1:1")
    with pytest.raises(ValueError, match="two or more images of both kinds, got 1"):
        RatioSampler(MARKS, 1, "3:1")


def test_loader_of_torchreid_serves_the_ratio(data: Path) -> None:
    engine, _ = build(data)
    manager, before = engine.datamanager, engine.datamanager.train_loader
    assert mix_batches(manager, "") is manager and manager.train_loader is before
    loader = mix_batches(manager, "3:1").train_loader
    batches = list(loader)
    assert len(batches) == len(loader) == 12 // 9
    for batch in batches:
        assert Counter(isinstance(path, GeneratedImage) for path in batch["impath"]) == {False: 9, True: 3}
    assert (loader.dataset, loader.batch_size, loader.drop_last) == (before.dataset, 12, True)


def test_other_orders_than_a_random_one_are_refused(data: Path) -> None:
    engine, _ = build(data, sampler__train_sampler="RandomIdentitySampler")
    with pytest.raises(ValueError, match="RandomSampler with genext.augmented.batch_ratio, got RandomIdent"):
        mix_batches(engine.datamanager, "3:1")


class Normalized(nn.Module):
    """With BatchNorm, which tells one pass from two."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 5), nn.BatchNorm1d(5))
        self.classifier = nn.Linear(5, PEOPLE)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(images))


def separate(root: Path, ratio: str = "3:1", smooth: bool = False) -> Any:
    manager = mix_batches(build(root)[0].datamanager, ratio)
    torch.manual_seed(0)
    model = Normalized()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return separate_softmax_engine()(manager, model, optimizer, use_gpu=False, label_smooth=smooth)


def halves(batch: dict[str, Any]) -> tuple[list[int], list[int]]:
    kinds = [isinstance(path, GeneratedImage) for path in batch["impath"]]
    return [row for row, kind in enumerate(kinds) if not kind], [
        row for row, kind in enumerate(kinds) if kind
    ]


def test_engine_is_torchreids_and_has_two_passes_and_two_means(data: Path) -> None:
    engine = separate(data)
    assert isinstance(engine, compat.engine_class("image", "softmax"))
    smooth_generated(engine, 0.1)
    batch, twin = next(iter(engine.train_loader)), Normalized()
    twin.load_state_dict(engine.model.state_dict())
    real, fake = halves(batch)
    losses = []
    for rows, epsilon in ((real, 0.0), (fake, 0.1)):  # each by its own statistics of BatchNorm, in this order
        logits = twin(batch["img"][rows])
        losses.append(naive(logits.detach(), batch["pid"][rows], [epsilon] * len(rows)))
    found = engine.forward_backward(batch)
    assert found["loss_real"] == pytest.approx(losses[0], rel=1e-5)
    assert found["loss_generated"] == pytest.approx(losses[1], rel=1e-5)
    assert found["loss"] == pytest.approx(sum(losses), rel=1e-5)
    statistics = (engine.model.body[2].running_mean, twin.body[2].running_mean)
    torch.testing.assert_close(*statistics)


def test_update_is_that_of_the_sum_and_a_fake_weighs_more(data: Path) -> None:
    engine = separate(data)
    batch, twin = next(iter(engine.train_loader)), Normalized()
    twin.load_state_dict(engine.model.state_dict())
    real, fake = halves(batch)
    loss = sum(
        nn.functional.cross_entropy(twin(batch["img"][rows]), batch["pid"][rows]) for rows in (real, fake)
    )
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= 0.1 * parameter.grad
    engine.forward_backward(batch)
    for ours, theirs in zip(engine.model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs)


def test_batch_of_one_kind_has_one_pass_and_is_torchreids(data: Path) -> None:
    engine = separate(data, smooth=True)
    batch = next(iter(engine.train_loader))
    real, _ = halves(batch)
    alone = {name: values[real] if isinstance(values, torch.Tensor) else [values[row] for row in real]
             for name, values in batch.items()}  # fmt: skip
    plain = compat.engine_class("image", "softmax")(
        engine.datamanager, Normalized(), engine.optimizer, use_gpu=False, label_smooth=True
    )
    plain.model.load_state_dict(engine.model.state_dict())
    wanted, found = plain.forward_backward(alone), engine.forward_backward(alone)
    assert found["loss"] == pytest.approx(wanted["loss"]) and found["acc"] == wanted["acc"]
    assert "loss_generated" not in found


def test_engine_trains_an_epoch_under_the_hook(data: Path) -> None:
    engine = separate(data)
    cfg = build(data, genext__augmented__label_smoothing=0.1)[1]
    hooks.attach(engine, cfg)
    before = engine.model.classifier.weight.clone()
    engine.max_epoch = 1
    engine.train(print_freq=1)
    assert not torch.equal(before, engine.model.classifier.weight)
