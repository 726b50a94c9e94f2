"""The task of CamStyle: its losses by hand, what each phase trains, and exact resuming, pool included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.generators.networks import rand, seeded
from tests.training.tasks import options, same
from torchreid_genext import checkpoints
from torchreid_genext.data.generator_batches.orders import Batch
from torchreid_genext.evaluation.camera_colors import color_distance, color_statistics
from torchreid_genext.generators.camstyle import (
    CameraPair,
    CameraStyle,
    PairDiscriminator,
    PatchDiscriminator,
)
from torchreid_genext.training import fit
from torchreid_genext.training.camstyle import CameraStyleTask, EnlargedCrop, rate_factor
from torchreid_genext.training.task import check_task

SIZE = (16, 8)


def as_it_is(images: Tensor, random: torch.Generator) -> Tensor:
    return images


def batch(cameras: tuple[int, ...], seed: int = 0) -> Batch:
    """Each camera has a tone of its own."""
    camids = torch.tensor(cameras)
    tone = torch.tensor([[0.9, 0.5, 0.3], [0.3, 0.6, 0.9], [0.5, 0.9, 0.5]])[camids % 3]
    images = (rand(len(cameras), 3, *SIZE, seed=seed) * tone[:, :, None, None] * 255).byte()
    return Batch(images, torch.zeros_like(camids), camids, torch.arange(len(camids)))


def joint(**settings: Any) -> CameraStyleTask:
    torch.manual_seed(0)
    style = CameraStyle(3, image_size=SIZE, width=3, blocks=1)
    return task(style, PatchDiscriminator(3, width=4, layers=1), **settings)


def pair(official: bool = False, **settings: Any) -> CameraStyleTask:
    torch.manual_seed(0)
    style = CameraPair(4, 1, image_size=SIZE, width=2, blocks=1, official=official)
    return task(style, PairDiscriminator((4, 1), width=2, layers=1, norm="instance"), **settings)


def task(style: Any, discriminator: Any, rate: float = 0.002, **settings: Any) -> CameraStyleTask:
    optimizers = [torch.optim.Adam(each.parameters(), rate, (0.5, 0.999)) for each in (style, discriminator)]
    return CameraStyleTask(style, discriminator, *optimizers, **{"augment": as_it_is, "pool": 8, **settings})


KINDS = {
    "joint": (joint, (0, 1, 2, 2, 0, 1)),
    "pair": (pair, (4, 1, 1, 4)),
    "official": (lambda **settings: pair(True, **settings), (4, 1)),
}


def everyone(cameras: tuple[int, ...]) -> Callable[..., Iterator[Batch]]:
    def since(first: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        while True:
            yield batch(cameras, seed=first)
            first += 1

    return since


@pytest.mark.parametrize("kind", KINDS)
def test_phases_train_their_own_side_in_all_its_parts(kind: str) -> None:
    make, cameras = KINDS[kind]
    made = make()
    check_task(made)
    assert list(made.phases) == ["generator", "discriminator"]
    for phase, part in made.phases.items():
        loss, scalars = made.loss(phase, batch(cameras), seeded())
        assert loss.ndim == 0 and all(torch.as_tensor(value).isfinite() for value in scalars.values())
        own = [p for group in part.optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, own, allow_unused=True)
        assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_generators_loss_is_that_of_cyclegan(kind: str) -> None:
    make, cameras = KINDS[kind]
    made, shown = make(cycle=7.0, identity=0.25), batch(cameras)
    for module in made.modules.values():
        module.eval()
    loss, parts = made.loss("generator", shown, seeded(3))
    style, judge = made.modules["generator"], made.modules["discriminator"]
    x, source = shown.images / 127.5 - 1, shown.camids
    target = made._others(source, seeded(3))
    fake = style(x, source, target)
    wanted = {
        "adversarial": (judge(fake, target) - 1).square().mean(),
        "cycle": (style(fake, target, source) - x).abs().mean(),
        "identity": (style(x, source, source) - x).abs().mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(parts[name], value)
    whole = wanted["adversarial"] + 7 * wanted["cycle"] + 7 * 0.25 * wanted["identity"]
    torch.testing.assert_close(loss, whole)


def test_discriminator_tells_images_of_cameras_from_those_in_their_style() -> None:
    made, shown = joint(pool=0), batch((0, 1, 2, 2))
    for module in made.modules.values():
        module.eval()
    loss, scalars = made.loss("discriminator", shown, seeded(3))
    judge, x = made.modules["discriminator"], shown.images / 127.5 - 1
    target = made._others(shown.camids, seeded(3))
    real, fake = judge(x, shown.camids), judge(made.modules["generator"](x, shown.camids, target), target)
    torch.testing.assert_close(loss, 0.5 * ((real - 1).square().mean() + fake.square().mean()))
    torch.testing.assert_close(scalars["fake"], fake.mean())


def test_targets_are_all_other_cameras_alike() -> None:
    made, source = joint(), torch.tensor([0, 1, 2]).repeat(3000)
    target = made._others(source, seeded())
    counts = torch.zeros(3, 3).index_put((source, target), torch.ones(9000), accumulate=True)
    assert not counts.diagonal().any() and (counts[counts > 0] - 1500).abs().max() < 150
    other = pair()._others(torch.tensor([4, 1, 4]), seeded())
    assert other.tolist() == [1, 4, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_is_the_one_that_was_never_interrupted(kind: str, tmp_path: Path) -> None:
    make, cameras = KINDS[kind]

    def train(folder: str, steps: int, **changes: Any) -> dict[str, Tensor]:
        settings = options(tmp_path / folder, steps=steps, ema_decay=0.9, save_every=0, **changes)
        fitted = fit(make(), everyone(cameras), settings, description={"data": "toy"})
        return checkpoints.safe_load(fitted.checkpoint)

    whole = train("whole", 4)
    train("parts", 2)
    resumed = train("parts", 4, resume=True)
    assert same(whole, resumed)
    assert whole["modules/pool/count"] == 8 and whole["modules/pool/images"].any()


@pytest.mark.slow
def test_a_few_steps_bring_colors_towards_those_of_the_target(tmp_path: Path) -> None:
    made, shown = joint(rate=0.02, identity=0.1, cycle=1.0), batch((0, 1, 2) * 4, seed=99)
    source, target = shown.camids, (shown.camids + 1) % 3
    x, style = shown.images / 127.5 - 1, made.modules["generator"]

    def distance() -> float:
        fakes = style.eval().generate(x, source, target)
        pairs = [(fakes[target == c], x[source == c]) for c in range(3)]
        return sum(color_distance(*map(color_statistics, pair)) for pair in pairs)

    before = distance()
    fit(made, everyone((0, 1, 2) * 2), options(tmp_path, steps=100, save_every=0), description={})
    assert distance() < 0.6 * before


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_have_a_row_for_each_image_and_a_column_for_each_camera(kind: str) -> None:
    make, cameras = KINDS[kind]
    shown = batch(cameras[:2])
    made = make(examples=(shown.images, shown.camids))
    for module in made.modules.values():
        module.eval()
    picture = made.pictures(seeded())["cameras"]
    columns = 1 + len(made.modules["generator"].cameras)
    assert picture.size == (columns * (8 * 3 + 4) + 4, 2 * (16 * 3 + 4) + 4)
    first = np.asarray(picture)[4 : 4 + 48 : 3, 4 : 4 + 24 : 3]
    np.testing.assert_array_equal(first, shown.images[0].permute(1, 2, 0))
    assert make().pictures(seeded()) == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images of cameras \[1, 4\], got one of 2"):
        pair().loss("generator", batch((4, 2)), seeded())
    with pytest.raises(ValueError, match=r"expected images of cameras \[0, 1, 2\], got one of 3"):
        joint(examples=(batch((0, 3)).images, torch.tensor([0, 3])))
    for name in ("cycle", "identity", "pool"):
        with pytest.raises(ValueError, match=f"expected {name} >= 0, got -1"):
            joint(**{name: -1})
    with pytest.raises(ValueError, match="a pool of at least a batch, 6 images, got 5"):
        joint(pool=5).loss("discriminator", batch((0, 1, 2) * 2), seeded())
    with pytest.raises(ValueError, match=r"expected a scale in 1\.\.2, got 0.9"):
        EnlargedCrop(0.9)


def test_enlarged_crops_are_pieces_of_the_enlarged_image_and_half_are_mirrored() -> None:
    images = rand(1, 3, 16, 8).repeat(200, 1, 1, 1)
    found = EnlargedCrop(1.5)(images, seeded())
    large = torch.nn.functional.interpolate(images[:1], (24, 12), mode="bicubic").clamp(0, 1)[0]
    pieces = {}
    for y, x in np.ndindex(9, 5):
        pieces[False, y, x] = large[:, y : y + 16, x : x + 8]
        pieces[True, y, x] = pieces[False, y, x].flip(-1)
    places = [next(place for place, piece in pieces.items() if torch.equal(piece, image)) for image in found]
    assert {y for _, y, _ in places} == set(range(9)) and {x for _, _, x in places} == set(range(5))
    assert 70 < sum(mirrored for mirrored, _, _ in places) < 130
    torch.testing.assert_close(
        EnlargedCrop(1.0)(images[:1].repeat(2, 1, 1, 1), seeded(5)).sum(), 2 * images[0].sum()
    )


def test_rate_is_full_then_falls_to_nothing() -> None:
    factors = [rate_factor(epoch, constant=4, decay=3) for epoch in range(7)]
    assert factors == [1, 1, 1, 0.75, 0.5, 0.25, 0]
