"""IPG's training loss against one that is worked out image by image, and what may be trained of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tests.generators.ipg.networks import embedded, pipeline
from tests.training.processes import in_two_processes
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.generators.ipg.lora import LowRank
from torchreid_genext.processes import StepGenerator
from torchreid_genext.training import Options, fit, trained_weights
from torchreid_genext.training.ipg import PARTS, IPGTask, learners, min_snr_weight
from torchreid_genext.training.state import fingerprint
from torchreid_genext.training.task import check_task

SIZE = (16, 8)
RATE = 100.0  # at which a single step by small gradients shows


class Pairs(NamedTuple):
    images: Tensor
    indices: Tensor
    others: Tensor


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 3, *SIZE), dtype=torch.uint8, generator=seeded(seed))


def batch(count: int = 4) -> Pairs:
    return Pairs(pixels(count, 1), torch.randint(9, (count,), generator=seeded(2)), pixels(count, 3))


def as_it_is(images: Tensor, random: torch.Generator) -> Tensor:
    return images


def mirrored(images: Tensor, random: torch.Generator) -> Tensor:
    return images.flip(3)


def task(
    pipe: IPGPipeline | None = None, *, kind: type[IPGTask] = IPGTask, rate: float = 0.01, **changes: Any
) -> IPGTask:
    pipe = pipe or embedded()
    parts = changes.get("parts", PARTS)
    optimizer = torch.optim.SGD([p for part in parts for p in getattr(pipe, part).parameters()], rate)
    return kind(pipe, optimizer, **{"poses": pixels(9, 4), "augment": as_it_is} | changes)


def random_parts(pipe: IPGPipeline, share: float, count: int, offset: float) -> tuple[int, Tensor, Tensor]:
    """What the task draws, in its order: who has no condition, noise, times."""
    random, shape = seeded(7), (count, 12, SIZE[0] // 2, SIZE[1] // 2)
    nobody = int((torch.rand(count, generator=random) < share).sum())
    noise = torch.randn(shape, generator=random) + offset * torch.randn(*shape[:2], 1, 1, generator=random)
    return nobody, noise, torch.randint(1000, (count,), generator=random)


@pytest.mark.parametrize(
    ("share", "weights"), ((0.0, None), (0.5, None), (1.0, None), (0.5, torch.arange(12) / 5.5))
)
def test_loss_is_that_of_every_image_by_itself(share: float, weights: Tensor | None) -> None:
    pipe, shown = embedded(), batch()
    made = task(pipe, unconditional=share, augment=mirrored, channel_weights=weights)
    loss, _ = made.loss("denoise", shown, seeded(7))
    nobody, noise, times = random_parts(pipe, share, 4, 0.05)
    alphas, losses, grey = pipe.scheduler.alphas_cumprod, [], torch.zeros(1, 3, *pipe.reid_encoder.image_size)
    for row in range(4):
        clean = pipe.encode(shown.images[row : row + 1] / 127.5 - 1)
        reference = (shown.others[row : row + 1] / 127.5 - 1).flip(3)
        a, own = alphas[times[row]], noise[row : row + 1]
        seen = None
        if row < nobody:
            tokens = pipe.identity_tokens(grey)
        else:
            large = torch.nn.functional.interpolate(
                reference, pipe.reid_encoder.image_size, mode="bicubic", antialias=True
            )
            tokens = pipe.identity_tokens(large.clamp(-1, 1))
            seen = pipe.denoiser.see([pipe.encode(reference)], tokens)
        pose = pipe.pose_guider(made.poses[shown.indices[row]][None] / 255)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * own
        found = pipe.denoiser(noisy, times[row], tokens, pose=pose, seen=seen)
        squares = (found - (a.sqrt() * own - (1 - a).sqrt() * clean)).square().mean(dim=(0, 2, 3))
        error = (squares if weights is None else weights * squares).mean()
        snr = (a / (1 - a)).item() if a > 0 else 0.0
        losses.append(min(snr + 1, 5.0) / (snr + 1) * error)
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_weights_by_signal_to_noise_ratio_are_finite_at_both_ends() -> None:
    signal = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    torch.testing.assert_close(min_snr_weight(signal), torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0]))
    made = task(snr_gamma=0.0, unconditional=0.0)
    loss, parts = made.loss("denoise", batch(), seeded())
    torch.testing.assert_close(loss, parts["denoising"])


def test_pure_noise_where_sampling_begins_has_full_weight() -> None:
    """Times with more noise than a fifth weigh alike, so the last fifth of the times has its share."""
    weights = task()._weights(torch.arange(1000))
    assert weights[999] == 1 and weights[500] == 1
    assert weights[100].item() == pytest.approx(0.566, abs=1e-3)
    assert (weights[800:].sum() / weights.sum()).item() == pytest.approx(0.219, abs=1e-3)


def test_times_of_much_noise_are_likelier_if_asked() -> None:
    """With a density that grows as t, a quarter of the times is in the first half."""
    like = torch.zeros(20_000, 1)
    times = task(noise_bias=1.0)._times(like, seeded())
    assert times.dtype == torch.int64 and 0 <= times.min() and times.max() == 999
    assert (times < 500).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(task()._times(like, seeded()), torch.randint(1000, (20_000,), generator=seeded()))
    with pytest.raises(ValueError, match="expected noise_bias >= 0, got -1"):
        task(noise_bias=-1.0)


def test_errors_on_the_person_may_weigh_more() -> None:
    error, poses = torch.ones(1, 2, 2, 2), torch.zeros(1, 3, 16, 16)
    poses[0, 1, 3, 12] = 0.2  # in the upper right quarter alone
    found = task(person_weight=4.0)._of_places(error, poses)
    torch.testing.assert_close(found, torch.tensor([[4.0, 16.0], [4.0, 4.0]]).expand(1, 2, 2, 2) / 7)
    assert task()._of_places(error, poses) is error
    with pytest.raises(ValueError, match="expected person_weight > 0, got 0"):
        task(person_weight=0)


@pytest.mark.parametrize("parts", (PARTS, ("pose_guider",), ("denoising_unet", "identity_projector")))
def test_what_is_trained_is_reached_and_the_rest_keeps_its_weights(
    parts: tuple[str, ...], tmp_path: Any
) -> None:
    pipe = embedded()
    before = {name: fingerprint(getattr(pipe, name).state_dict()) for name in (*PARTS, "reid_encoder")}
    made = task(pipe, parts=parts)
    check_task(made)
    options = Options(steps=2, folder=tmp_path, log_every=1, save_every=2)
    fit(made, lambda first, rank, world: iter([batch()] * 2), options, description={})
    changed = {name for name, old in before.items() if fingerprint(getattr(pipe, name).state_dict()) != old}
    assert changed == set(parts)


def gradients(made: IPGTask, shown: Any = None, random: torch.Generator | None = None) -> dict[str, Tensor]:
    """By names of trained modules and their parameters, of those that get any."""
    made.loss("denoise", batch() if shown is None else shown, random or seeded(7))[0].backward()
    return {
        f"{module}.{name}": parameter.grad
        for module in made.phases["denoise"].modules
        for name, parameter in made.modules[module].named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("network", (embedded, pipeline))
def test_images_that_are_encoded_once_teach_the_same(network: Any) -> None:
    images = pixels(9, 1)
    rows, others = torch.tensor([3, 8, 0, 3]), torch.tensor([2, 2, 5, 1])
    each = gradients(task(network()), shown=Pairs(images[rows], rows, images[others]))
    once = gradients(task(network(), images=images), shown=Pairs(rows, rows, others))
    assert each.keys() == once.keys()
    for name, gradient in each.items():
        torch.testing.assert_close(once[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_images_are_encoded_once_and_in_full_precision() -> None:
    pipe, images = embedded(), pixels(40, 1)
    calls = []
    pipe.reid_encoder.register_forward_hook(lambda _, inputs, output: calls.append(output.dtype))
    made = task(pipe, images=images, poses=pixels(40, 4))
    rows = torch.tensor([39, 0])
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            made.loss("denoise", Pairs(rows, rows, rows.flip(0)), seeded())
    assert calls == [torch.float32] * 2  # 32 images and 8
    torch.testing.assert_close(made.encoder.latents(rows), pipe.encode(images[rows] / 127.5 - 1))


def test_features_that_are_computed_twice_give_the_same_gradients() -> None:
    kept = gradients(task(unconditional=0.5))
    again = gradients(task(unconditional=0.5, gradient_checkpointing=True))
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_features_are_not_kept_with_gradient_checkpointing() -> None:
    kept = []
    for checkpointing in (False, True):
        sizes: list[int] = []
        made = task(gradient_checkpointing=checkpointing)
        with saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor, identity
        ):
            made.loss("denoise", batch(), seeded())
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


def identity(tensor: Tensor) -> Tensor:
    return tensor


LOW_RANK = {"reference_unet_lora", "denoising_unet_lora", "pose_guider", "identity_projector"}


def low_rank(rate: float = 0.01, parts: tuple[str, ...] = PARTS, **options: Any) -> IPGTask:
    """A task with changes of rank 2, and Adam."""
    pipe = embedded()
    changes = {part: LowRank(getattr(pipe, part), 2, seeded()) for part in PARTS[:2]}
    trained = learners(pipe, parts, changes)
    optimizer = torch.optim.Adam([p for module in trained.values() for p in module.parameters()], rate)
    options |= {"poses": pixels(9, 4), "augment": as_it_is}
    return IPGTask(pipe, optimizer, parts=parts, changes=changes, **options)


def test_changes_of_low_rank_are_learnt_and_the_networks_keep_their_weights(tmp_path: Path) -> None:
    made = low_rank(gradient_checkpointing=True)
    check_task(made)
    before = {name: fingerprint(module.state_dict()) for name, module in made.modules.items()}
    options = Options(steps=2, folder=tmp_path, ema_decay=0.9)
    checkpoint = fit(made, lambda *_: iter([batch()] * 2), options, description={}).checkpoint
    changed = {name for name, old in before.items() if fingerprint(made.modules[name].state_dict()) != old}
    assert changed == set(trained_weights(checkpoint)) == LOW_RANK


def test_changes_of_low_rank_alone_bring_the_loss_down() -> None:
    made, losses = low_rank(0.03, parts=PARTS[:2], unconditional=0.0), []
    optimizer = made.phases["denoise"].optimizer
    for _ in range(16):
        losses.append(made.loss("denoise", batch(), seeded())[0])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_frozen_parts_get_no_gradients_while_another_one_is_trained(tmp_path: Path) -> None:
    made, seen = task(parts=("pose_guider",)), []

    def look(module: nn.Module, inputs: Any) -> None:
        seen.append({n for n, m in made.modules.items() if any(p.requires_grad for p in m.parameters())})

    made.pipe.denoising_unet.conv_in.register_forward_pre_hook(look)
    wanted = {name: [p.requires_grad for p in m.parameters()] for name, m in made.modules.items()}
    fit(made, lambda *_: iter([batch()]), Options(steps=1, folder=tmp_path), description={})
    assert seen == [{"pose_guider"}]
    frozen = [p for name, m in made.modules.items() if name != "pose_guider" for p in m.parameters()]
    assert all(parameter.grad is None for parameter in frozen)
    assert wanted == {name: [p.requires_grad for p in m.parameters()] for name, m in made.modules.items()}


def test_what_the_reference_network_has_after_its_last_attention_is_left_alone(tmp_path: Path) -> None:
    """It gets no gradient, which neither averages nor several processes may mind."""
    made = task()
    reached = {
        name.removeprefix("reference_unet.") for name in gradients(made) if name.startswith("reference")
    }
    idle = [name for name, _ in made.pipe.reference_unet.named_parameters() if name not in reached]
    last = "up_blocks.1.attentions.1.transformer_blocks.0."
    assert f"{last}attn1.to_q.weight" in idle and f"{last}norm1.weight" in reached
    before = {name: made.pipe.reference_unet.get_parameter(name).clone() for name in idle}
    options = Options(steps=2, folder=tmp_path, ema_decay=0.9, clip_norm=1.0)
    checkpoint = fit(made, lambda *_: iter([batch()] * 2), options, description={}).checkpoint
    averaged = trained_weights(checkpoint)["reference_unet"]
    for name, old in before.items():
        torch.testing.assert_close(averaged[name], old, msg=name)
        assert torch.equal(made.pipe.reference_unet.get_parameter(name), old), name


class Remembered(IPGTask):
    """It keeps the randomness of its batch."""

    def loss(self, phase: str, batch: Any, random: torch.Generator) -> tuple[Tensor, dict]:
        self.random = random.get_state()
        return super().loss(phase, batch, random)


def of_rank(rank: int) -> dict[str, Any]:
    """One process draws people as their references show them, the other one draws nobody."""
    return {"unconditional": float(rank)}


def one_of_two(rank: int, folder: Path) -> None:
    made = task(kind=Remembered, rate=RATE, **of_rank(rank))
    fit(made, lambda *_: iter([batch(2 + rank)]), Options(1, folder), description={})
    torch.save({"random": made.random, **made.pipe.reference_unet.state_dict()}, folder / f"rank-{rank}.pt")


def test_processes_of_which_one_never_looks_at_references_train_together(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    a, b = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    found: dict[str, Tensor] = {}
    for rank, random in enumerate([a.pop("random"), b.pop("random")]):
        made, again = task(**of_rank(rank)), StepGenerator()
        again.share = rank, 2
        again.set_state(random)
        for name, gradient in gradients(made, batch(2 + rank), again).items():
            found[name] = found.get(name, 0) + gradient / 2
    for name, before in embedded().reference_unet.state_dict().items():
        gradient = found.get(f"reference_unet.{name}", torch.zeros_like(before))
        torch.testing.assert_close((before - a[name]) / RATE, gradient, rtol=1e-3, atol=1e-7, msg=name)
        assert torch.equal(a[name], b[name]), name
    assert found["reference_unet.conv_in.weight"].abs().max() > 1e-5


def test_unknown_parts_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown part 'vae'; choose from reference_unet, denoising_unet"):
        task(parts=("vae",))
    with pytest.raises(
        ValueError, match="expected changes to parts that are trained, got some to reference_"
    ):
        learners(embedded(), ("pose_guider",), {"reference_unet": LowRank(embedded().reference_unet, 1)})
    with pytest.raises(ValueError, match="expected a share without condition in 0..1, got 2"):
        task(unconditional=2)
