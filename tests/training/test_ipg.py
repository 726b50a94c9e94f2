"""IPG's training loss against one that is worked out image by image, and what may be trained of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.generators.ipg.networks import embedded
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.training import Options, fit
from torchreid_genext.training.ipg import PARTS, IPGTask, min_snr_weight
from torchreid_genext.training.task import check_task

SIZE = (16, 8)


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


def task(pipe: IPGPipeline | None = None, **changes: Any) -> IPGTask:
    pipe = pipe or embedded()
    parts = changes.get("parts", PARTS)
    optimizer = torch.optim.SGD([p for part in parts for p in getattr(pipe, part).parameters()], 0.01)
    return IPGTask(pipe, optimizer, poses=pixels(9, 4), **{"augment": as_it_is} | changes)


def random_parts(pipe: IPGPipeline, share: float, count: int, offset: float) -> tuple[int, Tensor, Tensor]:
    """What the task draws, in its order: who has no condition, noise, times."""
    random, shape = seeded(7), (count, 12, SIZE[0] // 2, SIZE[1] // 2)
    nobody = int((torch.rand(count, generator=random) < share).sum())
    noise = torch.randn(shape, generator=random) + offset * torch.randn(*shape[:2], 1, 1, generator=random)
    return nobody, noise, torch.randint(1000, (count,), generator=random)


@pytest.mark.parametrize("share", (0.0, 0.5, 1.0))
def test_loss_is_that_of_every_image_by_itself(share: float) -> None:
    pipe, shown = embedded(), batch()
    made = task(pipe, unconditional=share, augment=mirrored)
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
        error = (found - (a.sqrt() * own - (1 - a).sqrt() * clean)).square().mean()
        snr = (a / (1 - a)).item() if a > 0 else 0.0
        losses.append(min(snr, 5.0) / (snr + 1) * error)
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_weights_by_signal_to_noise_ratio_are_finite_at_both_ends() -> None:
    signal = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    torch.testing.assert_close(min_snr_weight(signal), torch.tensor([0.0, 0.25, 0.5, 0.5, 0.0]))
    made = task(snr_gamma=0.0, unconditional=0.0)
    loss, parts = made.loss("denoise", batch(), seeded())
    torch.testing.assert_close(loss, parts["denoising"])


@pytest.mark.parametrize("parts", (PARTS, ("pose_guider",), ("denoising_unet", "identity_projector")))
def test_what_is_trained_is_reached_and_the_rest_keeps_its_weights(
    parts: tuple[str, ...], tmp_path: Any
) -> None:
    pipe = embedded()
    before = {
        name: {k: v.clone() for k, v in getattr(pipe, name).state_dict().items()}
        for name in (*PARTS, "reid_encoder")
    }
    made = task(pipe, parts=parts, examples=(pixels(2, 5), pixels(2, 6), pixels(2, 7)))
    check_task(made)
    options = Options(steps=2, folder=tmp_path, log_every=1, save_every=2, picture_every=2)
    fit(made, lambda first, rank, world: iter([batch()] * 2), options, description={})
    changed = {
        name
        for name, state in before.items()
        if any(not torch.equal(v, getattr(pipe, name).state_dict()[k]) for k, v in state.items())
    }
    assert changed == set(parts)
    assert (tmp_path / "samples/step-00000002-people.png").is_file()


def test_unknown_parts_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown part 'vae'; choose from reference_unet, denoising_unet"):
        task(parts=("vae",))
    with pytest.raises(ValueError, match="expected a share without condition in 0..1, got 2"):
        task(unconditional=2)
