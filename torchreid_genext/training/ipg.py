"""What IPG learns: to draw the person of one image in the pose of another image of the same person.

The authors published no training code; this follows the settings that they did publish (Pose2ID, CVPR 2025):
v-prediction with zero terminal signal-to-noise ratio, noise with an offset, weights by min-SNR, and a tenth
of the images denoised for nobody: by tokens of a grey picture and without a reference, as in inference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from torchreid_genext import visualization
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.training.identity import Augment, to_float
from torchreid_genext.training.task import Phase

__all__ = ["PARTS", "IPGTask", "min_snr_weight"]

PARTS = ("reference_unet", "denoising_unet", "pose_guider", "identity_projector")
_FROZEN = ("vae", "reid_encoder")


def min_snr_weight(signal: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight of the squared error of v (Hang et al., ICCV 2023): min(SNR, gamma) / (SNR + 1).

    Args:
        signal: share of the signal's variance, ``alphas_cumprod`` (B,) in 0 .. 1; 0 gives 0.
        gamma: largest ratio of signal to noise that counts.
    """
    return torch.minimum(signal, gamma * (1 - signal))  # SNR = signal / (1 - signal), multiplied out


class IPGTask:
    """Parts of the pipeline, trained together.

    Args:
        pipe: trained in place.
        optimizer: of the parameters of the parts.
        poses: drawn skeletons of all images of the data set, in its order, (N, 3, H, W) uint8.
        augment: changes references.
        parts: which are trained, some of `PARTS`.
        unconditional: share of images denoised for nobody.
        noise_offset: how far the noise of an image differs in brightness, as a standard deviation.
        snr_gamma: of `min_snr_weight`; 0 weights all times alike.
        examples: what is drawn in pictures: references, skeletons and targets, each (E, 3, H, W) uint8.

    Raises:
        ValueError: if a part is unknown or the share is none.
    """

    def __init__(
        self,
        pipe: IPGPipeline,
        optimizer: Optimizer,
        *,
        poses: Tensor,
        augment: Augment,
        parts: Sequence[str] = PARTS,
        unconditional: float = 0.1,
        noise_offset: float = 0.05,
        snr_gamma: float = 5.0,
        examples: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        if unknown := [part for part in parts if part not in PARTS]:
            raise ValueError(f"unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}")
        if not 0 <= unconditional <= 1:
            raise ValueError(f"expected a share without condition in 0..1, got {unconditional}")
        self.pipe, self.poses, self.augment, self.examples = pipe, poses, augment, examples
        self.unconditional, self.noise_offset, self.snr_gamma = unconditional, noise_offset, snr_gamma
        self.modules: dict[str, nn.Module] = {name: getattr(pipe, name) for name in (*PARTS, *_FROZEN)}
        self.phases = {"denoise": Phase(optimizer, tuple(parts))}

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`; `batch` has uint8 `images`, their `indices` in the data set, and `others`."""
        nobody = self._rows_of_nobody(len(batch.images), random)
        clean = self.pipe.encode(_signed(batch.images))
        references = 2 * self.augment(to_float(batch.others[nobody:]), random) - 1
        poses = to_float(self.poses[batch.indices].to(clean.device))
        noise, times = self._noise(clean, random), self._times(clean, random)
        scheduler = self.pipe.scheduler
        with sdpa_kernel(SDPBackend.MATH) if clean.device.type == "cpu" else contextlib.nullcontext():
            # on CPUs, the gradient of fused attention takes several times as long as that of plain products
            found = self._predict(scheduler.add_noise(clean, noise, times), times, references, poses, nobody)
        error = (found.float() - scheduler.get_velocity(clean, noise, times)).square().mean(dim=(1, 2, 3))
        return (self._weights(times) * error).mean(), {"denoising": error.mean()}

    def _rows_of_nobody(self, count: int, random: Generator) -> int:
        """How many images have no condition; they are the first, for batches are in random order."""
        return int((torch.rand(count, generator=random, device=random.device) < self.unconditional).sum())

    def _predict(
        self, noisy: Tensor, times: Tensor, references: Tensor, poses: Tensor, nobody: int
    ) -> Tensor:
        grey = references.new_zeros(1, *references.shape[1:])
        blank, tokens = self._tokens(torch.cat([grey, references])).split([1, len(references)])
        seen = self.pipe.denoiser.see([self.pipe.encode(references)], tokens) if len(references) else None
        everyone = torch.cat([blank.expand(nobody, -1, -1), tokens])
        return self.pipe.denoiser(noisy, times, everyone, pose=self.pipe.pose_guider(poses), seen=seen)

    def _tokens(self, images: Tensor) -> Tensor:
        """Of images (B, 3, H, W) in [-1, 1], of any size."""
        size = self.pipe.reid_encoder.image_size
        if tuple(images.shape[2:]) != tuple(size):
            images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return self.pipe.identity_tokens(images)

    def _noise(self, like: Tensor, random: Generator) -> Tensor:
        noise = torch.randn(like.shape, generator=random, device=like.device)
        offset = torch.randn(*like.shape[:2], 1, 1, generator=random, device=like.device)
        return noise + self.noise_offset * offset

    def _times(self, like: Tensor, random: Generator) -> Tensor:
        steps = self.pipe.scheduler.config.num_train_timesteps
        return torch.randint(steps, (len(like),), generator=random, device=like.device)

    def _weights(self, times: Tensor) -> Tensor:
        signal = self.pipe.scheduler.alphas_cumprod.to(times.device)[times]
        return min_snr_weight(signal, self.snr_gamma) if self.snr_gamma else torch.ones_like(signal)

    def pictures(self, random: Generator) -> dict[str, Image.Image]:
        """As `Task.pictures`: references, poses, what is generated, and what it should be."""
        if self.examples is None:
            return {}
        references, skeletons, targets = (each.cpu() for each in self.examples)
        poses = to_float(skeletons)
        people = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in references]
        seeds = [Generator(random.device).manual_seed(number) for number in range(len(people))]
        size = {"height": poses.shape[2], "width": poses.shape[3]}
        made = self.pipe(people, poses, generator=seeds, output_type="pt", **size).images.cpu()
        grid = torch.stack([to_float(references), poses, made, to_float(targets)])
        return {"people": visualization.image_grid(grid.numpy())}


def _signed(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return 2 * to_float(images) - 1
