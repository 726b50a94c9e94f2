"""What IPG learns: to draw the person of one image in the pose of another image of the same person.

The authors published no training code; this follows the settings that they did publish (Pose2ID, CVPR 2025):
v-prediction with zero terminal signal-to-noise ratio, noise with an offset, weights by min-SNR, and a tenth
of the images denoised for nobody: by tokens of a grey picture and without a reference, as in inference.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from tqdm import tqdm

from torchreid_genext import visualization
from torchreid_genext.generators.ipg import IPGPipeline
from torchreid_genext.generators.ipg.lora import LowRank
from torchreid_genext.processes import on_the_host, own_rows, share_of
from torchreid_genext.training.identity import Augment, to_float
from torchreid_genext.training.task import Phase

__all__ = ["PARTS", "IPGTask", "learners", "min_snr_weight"]

PARTS = ("reference_unet", "denoising_unet", "pose_guider", "identity_projector")
_FROZEN = ("vae", "reid_encoder")
_ENCODED_TOGETHER = 32  # images


def min_snr_weight(signal: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight of the squared error of v: min(SNR + 1, gamma) / (SNR + 1).

    Hang et al. (ICCV 2023) divide min(SNR, gamma), which is 0 for pure noise; but with a zero terminal SNR,
    sampling starts there, so the 1 is added first, as in the code of Moore-AnimateAnyone. The ratio itself
    (diffusers' compute_snr) is infinite without noise; their quotient is not.

    Args:
        signal: share of the signal's variance, ``alphas_cumprod`` (B,) in 0 .. 1; 0 gives 1.
        gamma: >= 1; times whose noise is a share of the variance below 1 / gamma weigh less than 1.
    """
    return (gamma * (1 - signal)).clamp(max=1)  # SNR + 1 = 1 / (1 - signal), multiplied out


def learners(
    pipe: IPGPipeline, parts: Sequence[str] = PARTS, changes: Mapping[str, LowRank] | None = None
) -> dict[str, nn.Module]:
    """What is trained, by the names that checkpoints have for it.

    Args:
        pipe: whose networks they are.
        parts: which of them, some of `PARTS`.
        changes: part -> what is trained in its place, under the name ``<part>_lora``.

    Raises:
        ValueError: if a part is unknown, or there are changes to one that is not trained.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    changes = changes or {}
    if idle := [part for part in changes if part not in parts]:
        raise ValueError(f"expected changes to parts that are trained, got some to {idle[0]}")
    return {
        f"{part}_lora" if part in changes else part: changes.get(part) or getattr(pipe, part)
        for part in parts
    }


class IPGTask:
    """Parts of the pipeline, trained together.

    Args:
        pipe: trained in place.
        optimizer: of the parameters of its `learners`.
        poses: drawn skeletons of all images of the data set, in its order, (N, 3, H, W) uint8.
        augment: changes references.
        parts: which are trained, some of `PARTS`.
        changes: part -> changes of low rank that are trained in its place; they stay attached.
        images: all images of the data set, (N, 3, H, W) uint8. If given, the frozen networks see each once,
            at the first step and in float32; batches then have positions (B,) int64 in place of images, and
            nothing is augmented.
        gradient_checkpointing: let the U-Nets compute their features again instead of keeping them.
        unconditional: share of images denoised for nobody.
        noise_offset: how far the noise of an image differs in brightness, as a standard deviation.
        snr_gamma: of `min_snr_weight`; 0 weights all times alike.
        noise_bias: power of t with which time t becomes likelier; 0 draws all times alike. What an image
            shows is decided while there is more noise than image.
        channel_weights: of the squared errors of each channel of the latents, (C,); None weights them alike.
        person_weight: of errors where the skeleton is, relative to elsewhere; 1 weights them alike. Who is
            seen is decided there.
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
        changes: Mapping[str, LowRank] | None = None,
        images: Tensor | None = None,
        gradient_checkpointing: bool = False,
        unconditional: float = 0.1,
        noise_offset: float = 0.05,
        snr_gamma: float = 5.0,
        noise_bias: float = 0.0,
        channel_weights: Tensor | None = None,
        person_weight: float = 1.0,
        examples: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        trained = learners(pipe, parts, changes)
        if not 0 <= unconditional <= 1:
            raise ValueError(f"expected a share without condition in 0..1, got {unconditional}")
        self.pipe, self.poses, self.examples = pipe, poses, examples
        if noise_bias < 0:
            raise ValueError(f"expected noise_bias >= 0, got {noise_bias}")
        if person_weight <= 0:
            raise ValueError(f"expected person_weight > 0, got {person_weight}")
        self.unconditional, self.noise_offset, self.snr_gamma = unconditional, noise_offset, snr_gamma
        self.noise_bias, self.channel_weights, self.person_weight = noise_bias, channel_weights, person_weight
        self.modules = {name: getattr(pipe, name) for name in (*PARTS, *_FROZEN)} | trained
        self.phases = {"denoise": Phase(optimizer, tuple(trained))}
        self.encoder = _EveryStep(pipe, augment) if images is None else _Once(pipe, images)
        self.checkpointing = gradient_checkpointing
        self._prepare((changes or {}).values())

    def _prepare(self, changes: Iterable[LowRank]) -> None:
        for each in changes:
            each.attach()
        if self.checkpointing:
            self.pipe.reference_unet.enable_gradient_checkpointing()
            self.pipe.denoising_unet.enable_gradient_checkpointing()

    def loss(self, phase: str, batch: Any, random: Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """As `Task.loss`; `batch` has uint8 `images`, their `indices` in the data set, and `others`."""
        nobody = self._rows_of_nobody(len(batch.images), random)
        clean = self.encoder.latents(batch.images)
        references = self.encoder.references(batch.others, nobody, random)
        poses = to_float(self.poses[batch.indices.to(self.poses.device)].to(clean.device))
        noise, times = self._noise(clean, random), self._times(clean, random)
        scheduler = self.pipe.scheduler
        with self._attention(clean.device):
            found = self._predict(scheduler.add_noise(clean, noise, times), times, references, poses, nobody)
        error = (found.float() - scheduler.get_velocity(clean, noise, times)).square()
        loss = self._weights(times) * self._of_places(self._of_channels(error), poses).mean(dim=(1, 2, 3))
        return loss.mean(), {"denoising": error.mean()}

    def _of_channels(self, error: Tensor) -> Tensor:
        weights = self.channel_weights
        return error if weights is None else weights.to(error.device)[:, None, None] * error

    def _of_places(self, error: Tensor, poses: Tensor) -> Tensor:
        if self.person_weight == 1:
            return error
        person = F.adaptive_max_pool2d((poses > 0).any(1, keepdim=True).float(), error.shape[2:])
        weights = 1 + (self.person_weight - 1) * person
        return weights / weights.mean(dim=(2, 3), keepdim=True) * error

    def _attention(self, device: torch.device) -> contextlib.AbstractContextManager:
        """On CPUs, the gradient of fused attention takes several times as long as that of plain products.

        These keep whole matrices of attention, though, and recomputing would not know that they were meant.
        """
        plain = device.type == "cpu" and not self.checkpointing
        return sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext()

    def _rows_of_nobody(self, count: int, random: Generator) -> int:
        """How many images have no condition; they are the first, for batches are in random order."""
        (rank, world), host = share_of(random), on_the_host(random)
        nobody = int((torch.rand(count * world, generator=host) < self.unconditional).sum())
        return min(max(0, nobody - rank * count), count)

    def _predict(
        self, noisy: Tensor, times: Tensor, references: _References, poses: Tensor, nobody: int
    ) -> Tensor:
        tokens = self.pipe.identity_projector(references.features)
        blank, tokens = tokens.split([1, len(tokens) - 1])
        seen = self.pipe.denoiser.see([references.latents], tokens) if len(tokens) else None
        everyone = torch.cat([blank.expand(nobody, -1, -1), tokens])
        return self.pipe.denoiser(noisy, times, everyone, pose=self.pipe.pose_guider(poses), seen=seen)

    def _noise(self, like: Tensor, random: Generator) -> Tensor:
        def draw(*shape: int) -> Tensor:
            normal = functools.partial(torch.randn, generator=random, device=like.device)
            return own_rows(lambda count: normal(count, *shape), len(like), random)

        noise = draw(*like.shape[1:])
        return noise + self.noise_offset * draw(like.shape[1], 1, 1)

    def _times(self, like: Tensor, random: Generator) -> Tensor:
        steps, options = self.pipe.scheduler.config.num_train_timesteps, {"device": like.device}
        options["generator"] = random
        if not self.noise_bias:
            return own_rows(lambda count: torch.randint(steps, (count,), **options), len(like), random)
        draws = own_rows(lambda count: torch.rand(count, **options), len(like), random)
        return (steps * draws ** (1 / (1 + self.noise_bias))).long().clamp(max=steps - 1)

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


class _References(NamedTuple):
    """Latents (R, C, h, w), and features of identity (1 + R, F), of a grey picture first."""

    latents: Tensor
    features: Tensor


class _EveryStep:
    """What frozen networks make of images (B, 3, H, W) uint8."""

    def __init__(self, pipe: IPGPipeline, augment: Augment) -> None:
        self.pipe, self.augment = pipe, augment

    def latents(self, images: Tensor) -> Tensor:
        return self.pipe.encode(_signed(images))

    def references(self, images: Tensor, first: int, random: Generator) -> _References:
        """Those from number `first` on; the others are changed, too, as processes must draw alike."""
        images = 2 * self.augment(to_float(images), random)[first:] - 1
        grey = images.new_zeros(1, *images.shape[1:])
        latents = self.pipe.encode(images) if len(images) else images
        return _References(latents, _features(self.pipe, torch.cat([grey, images])))


class _Once:
    """The same of positions in a data set, whose images the networks see when the first are asked for."""

    def __init__(self, pipe: IPGPipeline, images: Tensor) -> None:
        self.pipe, self.images = pipe, images

    def latents(self, positions: Tensor) -> Tensor:
        return self._rows(self._everything.latents, positions)

    def references(self, positions: Tensor, first: int, random: Generator) -> _References:
        (latents, features), positions = self._everything, positions[first:]
        rows = torch.cat([positions.new_zeros(1), positions + 1])
        return _References(self._rows(latents, positions), self._rows(features, rows))

    def _rows(self, kept: Tensor, positions: Tensor) -> Tensor:
        return kept[positions.to(kept.device)].to(positions.device)

    @functools.cached_property
    def _everything(self) -> _References:
        """Of the whole data set, in the memory of its images."""
        place, device = self.images.device, next(self.pipe.vae.parameters()).device
        every = _EveryStep(self.pipe, lambda images, _: images)
        parts = []
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for images in tqdm(self.images.split(_ENCODED_TOGETHER), "encode", leave=False, disable=None):
                part = every.references(images.to(device), 0, Generator())
                parts.append([each.to(place) for each in (part.latents, part.features[1:])])
            grey = part.features[:1].to(place)
        latents, features = map(torch.cat, zip(*parts))
        return _References(latents, torch.cat([grey, features]))


def _features(pipe: IPGPipeline, images: Tensor) -> Tensor:
    """Of identity (B, F), of images (B, 3, H, W) in [-1, 1], of any size."""
    size = pipe.reid_encoder.image_size
    if tuple(images.shape[2:]) != tuple(size):
        images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
    return pipe.reid_encoder(images)


def _signed(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return 2 * to_float(images) - 1
