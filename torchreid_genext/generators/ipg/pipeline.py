"""IPG as a diffusers pipeline: a reference image and a pose in, the person in that pose out.

"From Poses to Identity: Training-Free Person Re-Identification via Feature Centralization" (CVPR 2025).

Departures from the authors' arrangement, none of which changes the result: a reference is looked at once, in
one row, and not once a pose and again for guidance; its keys and values are kept over all steps; and the
references and poses of a batch may all be different.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from torchreid_genext.generators.ipg import official
from torchreid_genext.generators.ipg.attention import HEAD, Denoiser, without_head
from torchreid_genext.generators.ipg.caching import StepCache
from torchreid_genext.generators.ipg.conditions import IdentityProjector, PoseGuider
from torchreid_genext.generators.ipg.guidance import Condition, Conditions, Guidance, Poses, References
from torchreid_genext.generators.ipg.transreid import TransReID

__all__ = ["IPGPipeline", "IPGPipelineOutput", "official_scheduler"]

Images = Image.Image | Sequence[Image.Image]
_OUTPUTS = ("pil", "np", "pt", "latent")


@dataclass
class IPGPipelineOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        images: PIL images, or an array (B, H, W, 3) or tensor (B, 3, H, W) in [0, 1], or latents.
    """

    images: list[Image.Image] | np.ndarray | Tensor


def official_scheduler() -> DDIMScheduler:
    """DDIM with zero terminal signal-to-noise ratio and v-prediction, as the authors use it."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction",
    )  # fmt: skip


class IPGPipeline(DiffusionPipeline):
    """Reference images and poses to images of the same people in these poses.

    Args:
        vae: images to latents and back; an AutoencoderTiny will do.
        reference_unet: sees references; has no head.
        denoising_unet: predicts, with the same attention blocks.
        pose_guider: skeletons to features.
        identity_projector: features of identity to tokens.
        reid_encoder: images in [-1, 1] of its own ``image_size`` to features of identity.
        scheduler: of the sampler; any of diffusers'.
    """

    model_cpu_offload_seq = (
        "reid_encoder->identity_projector->pose_guider->reference_unet->denoising_unet->vae"
    )
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae: nn.Module,
        reference_unet: UNet2DConditionModel,
        denoising_unet: UNet2DConditionModel,
        pose_guider: PoseGuider,
        identity_projector: IdentityProjector,
        reid_encoder: nn.Module,
        scheduler: Any,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            reference_unet=without_head(reference_unet),
            denoising_unet=denoising_unet,
            pose_guider=pose_guider,
            identity_projector=identity_projector,
            reid_encoder=reid_encoder,
            scheduler=scheduler,
        )
        self.denoiser = Denoiser(reference_unet, denoising_unet)
        self.shrink = getattr(vae, "shrink", None) or 2 ** (len(vae.config.block_out_channels) - 1)
        self.images = VaeImageProcessor(vae_scale_factor=1, do_convert_rgb=True)
        self.poses = VaeImageProcessor(vae_scale_factor=1, do_convert_rgb=True, do_normalize=False)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> IPGPipeline:
        """As of every pipeline of diffusers; only, that a head is missing, as it should, is no warning."""
        logger, known = logging.getLogger("diffusers.models.modeling_utils"), _HeadMissing()
        logger.addFilter(known)
        try:
            # older versions refuse to make up a head where they save memory
            pipe = super().from_pretrained(*args, **{"low_cpu_mem_usage": False} | kwargs)
        finally:
            logger.removeFilter(known)
        _own_memory(pipe)
        return pipe

    @classmethod
    def from_official(
        cls,
        ckpt_dir: str | Path,
        base_model: str | Path,
        vae: str | Path,
        *,
        reid_encoder: TransReID | None = None,
    ) -> IPGPipeline:
        """The pipeline with the authors' weights.

        Args:
            ckpt_dir: folder of their five .pth files.
            base_model: folder or hub name of Stable Diffusion 1.5, of which ``unet/config.json`` is read.
            vae: folder or hub name of the autoencoder, officially stabilityai/sd-vae-ft-mse.
            reid_encoder: to be filled; None for one of the official size.

        Raises:
            FileNotFoundError: if files are missing; names them.
            ValueError: if one is damaged or holds other weights; says which do not fit.
        """
        files = official.find_files(ckpt_dir)
        config = UNet2DConditionModel.load_config(base_model, subfolder="unet")
        sizes = official.projector_sizes(files["identity_projector"])
        with torch.device("meta"):  # their memory will be that of the files
            networks = {
                "reference_unet": without_head(UNet2DConditionModel.from_config(config)),
                "denoising_unet": UNet2DConditionModel.from_config(config),
                "pose_guider": PoseGuider(config["block_out_channels"][0]),
                "identity_projector": IdentityProjector(*sizes),
                "reid_encoder": reid_encoder or TransReID(),
            }
        for name, network in networks.items():
            official.fill(network, files[name])
            network.eval()
        return cls(AutoencoderKL.from_pretrained(vae), **networks, scheduler=official_scheduler())

    @torch.no_grad()
    def __call__(
        self,
        reference: Images | References,
        pose: Images | Tensor | Poses,
        *,
        height: int = 512,
        width: int = 256,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        cache_every: int = 1,
        official_guidance: bool = False,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        bank_dtype: torch.dtype | None = None,
        swap_pose_channels: bool = False,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> IPGPipelineOutput | tuple[Any]:
        """Generate an image for each pose.

        Args:
            reference: one image for all poses, or one for each; or what `look_at` made of them.
            pose: drawn skeletons, or their pictures as a tensor (B, 3, H, W) in [0, 1]; or what
                `look_at_poses` made of them, for this size.
            height, width: of the result, in pixels.
            num_inference_steps: of the sampler. eta: of DDIM.
            guidance_scale: how far from the prediction for nobody to that for the person; up to 1 there is
                no guidance, and only the latter is made.
            guidance_interval: share of the steps, from the first at 0 to the last at 1, in which there is
                guidance; the others take half the time (Kynkaanniemi et al., NeurIPS 2024).
            cache_every: of so many steps one runs the whole denoiser; those between only its outermost blocks
                (Ma et al., "DeepCache", CVPR 2024). 1: all are whole.
            official_guidance: without guidance use the prediction for *nobody*, as the authors' code does.
            generator: of the noise; a list has one for each image, which makes it independent of the batch.
            latents: noise to start from, (B, C, h, w).
            bank_dtype: to which features of references are rounded; officially torch.float16. None: not.
            swap_pose_channels: if pictures of poses have red and blue swapped, as the authors' files do.
            output_type: pil, np, pt or latent. return_dict: False returns a tuple.
            callback_on_step_end: ``(pipeline, step, time, {"latents": ...})``, as of diffusers' pipelines.

        Raises:
            ValueError: if there are neither one reference nor one for each pose, or the size does not halve.
        """
        self.check_inputs(height, width, output_type, callback_on_step_end_tensor_inputs)
        pose = self._poses(pose, height, width, swap_pose_channels)
        references = self._references(reference, height, width, bank_dtype, len(pose))
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        latents = self.prepare_latents(len(pose), height, width, generator, latents)
        guidance = Guidance(guidance_scale, guidance_interval, official_guidance)
        conditions = Conditions(references, pose.features, guidance)
        options = self._step_options(eta, generator)
        with StepCache(self.denoising_unet, cache_every) as cache:
            latents = self._sample(latents, conditions, cache, options, callback_on_step_end)
        images = self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return IPGPipelineOutput(images) if return_dict else (images,)

    @torch.no_grad()
    def look_at(
        self, images: Images, height: int = 512, width: int = 256, *, bank_dtype: torch.dtype | None = None
    ) -> References:
        """Take in reference images, each once even if it comes several times.

        Args:
            images: one or several, of any mode and size.
            height, width: at which the reference U-Net sees them.
            bank_dtype: as of a call.
        """
        images = _listed(images)
        distinct = {id(image): image for image in images}
        pictures = [image.convert("RGB") for image in distinct.values()]
        people = self.identity_tokens(torch.cat([self.encoder_input(picture) for picture in pictures]))
        latents = self.encode(self.images.preprocess(pictures, height, width))
        seen = self.denoiser.see([latents], people, dtype=bank_dtype)
        nobody = self.identity_tokens(torch.zeros_like(self.encoder_input(pictures[0])))
        rows = torch.tensor([[*distinct].index(id(image)) for image in images], device=latents.device)
        return References(people, nobody, seen)[rows]

    @torch.no_grad()
    def look_at_poses(
        self, pose: Images | Tensor, height: int = 512, width: int = 256, *, swap: bool = False
    ) -> Poses:
        """Take in poses; arguments as of a call."""
        return Poses(self.pose_guider(self.preprocess_poses(pose, height, width, swap=swap)), height, width)

    def encoder_input(self, image: Image.Image) -> Tensor:
        """An image as the identity encoder wants it, (1, 3, H, W) in [-1, 1]."""
        return self.images.preprocess(image, *self.reid_encoder.image_size)

    def identity_tokens(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], of the encoder's size, to tokens (B, N, width)."""
        features = self.reid_encoder(self._placed(images, self.reid_encoder))
        return self.identity_projector(self._placed(features, self.identity_projector))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents, the mean of their distribution."""
        found = self.vae.encode(self._placed(images, self.vae))
        latents = found.latents if isinstance(found, AutoencoderTinyOutput) else found.latent_dist.mode()
        return self._placed(latents * self.vae.config.scaling_factor, self.reference_unet)

    def decode(self, latents: Tensor, output_type: str = "pt") -> Any:
        """Latents to images, see `IPGPipelineOutput`."""
        if output_type == "latent":
            return latents
        latents = self._placed(latents / self.vae.config.scaling_factor, self.vae)
        images = self.vae.decode(latents, return_dict=False)[0].float()
        return self.images.postprocess(images, output_type=output_type)

    def preprocess_poses(
        self, pose: Images | Tensor, height: int, width: int, *, swap: bool = False
    ) -> Tensor:
        """Pictures of skeletons, (B, 3, H, W) in [0, 1]."""
        if not isinstance(pose, Tensor):
            pose = self.poses.preprocess([picture.convert("RGB") for picture in _listed(pose)], height, width)
        if tuple(pose.shape[1:]) != (3, height, width):
            raise ValueError(f"expected poses (B, 3, {height}, {width}), got {tuple(pose.shape)}")
        return self._placed(pose.flip(1) if swap else pose, self.pose_guider)

    def prepare_latents(
        self,
        count: int,
        height: int,
        width: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Noise to start from."""
        unet = self.denoising_unet
        shape = (count, unet.config.in_channels, height // self.shrink, width // self.shrink)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device)
        if tuple(latents.shape) != shape:
            raise ValueError(f"expected latents {shape}, got {tuple(latents.shape)}")
        # in float32 even where networks are not: rounding would add up over the steps
        return latents.to(self._execution_device, torch.float32) * self.scheduler.init_noise_sigma

    def _poses(self, pose: Images | Tensor | Poses, height: int, width: int, swap: bool) -> Poses:
        if not isinstance(pose, Poses):
            return self.look_at_poses(pose, height, width, swap=swap)
        if (pose.height, pose.width) != (height, width):
            raise ValueError(f"expected poses of {height} x {width}, got {pose.height} x {pose.width}")
        return pose

    def _references(
        self, found: Images | References, height: int, width: int, dtype: torch.dtype | None, count: int
    ) -> References:
        """As many as there are poses."""
        if not isinstance(found, References):
            found = self.look_at(found, height, width, bank_dtype=dtype)
        if len(found) == 1:
            return found[torch.zeros(count, dtype=torch.int64, device=found.tokens.device)]
        if len(found) != count:
            raise ValueError(f"expected one reference, or one for each of {count} poses, got {len(found)}")
        return found

    def _sample(
        self,
        latents: Tensor,
        conditions: Conditions,
        cache: StepCache,
        options: dict[str, Any],
        callback: Callable[..., dict[str, Tensor]] | None,
    ) -> Tensor:
        times = self.scheduler.timesteps
        for step, time in enumerate(self.progress_bar(times)):
            condition, scale = conditions.of_step(step, len(times))
            with cache.step(step, len(condition.tokens)):
                predicted = self._predict(latents, time, condition, scale)
            latents = self.scheduler.step(predicted, time, latents, **options, return_dict=False)[0]
            if callback is not None:
                latents = callback(self, step, time, {"latents": latents}).get("latents", latents)
        return latents

    def _predict(self, latents: Tensor, time: Tensor, condition: Condition, guidance: float | None) -> Tensor:
        """The denoiser's prediction, guided from that of nobody if there is a scale."""
        noisy = self.scheduler.scale_model_input(
            latents if guidance is None else torch.cat([latents] * 2), time
        )
        noisy = self._placed(noisy, self.denoising_unet)
        found = self.denoiser(noisy, time, condition.tokens, pose=condition.pose, seen=condition.seen).float()
        if guidance is None:
            return found
        nobody, person = found.chunk(2)
        return nobody + guidance * (person - nobody)

    def check_inputs(self, height: int, width: int, output_type: str, tensors: Sequence[str]) -> None:
        """Raises ValueError for what cannot be done."""
        if height % self.shrink or width % self.shrink:
            raise ValueError(
                f"expected height and width in multiples of {self.shrink}, got {height} and {width}"
            )
        if output_type not in _OUTPUTS:
            raise ValueError(f"unknown output type {output_type!r}; choose from {', '.join(_OUTPUTS)}")
        if unknown := set(tensors) - set(self._callback_tensor_inputs):
            raise ValueError(f"expected callbacks for latents, got {', '.join(sorted(unknown))}")

    def _step_options(self, eta: float, generator: Any) -> dict[str, Any]:
        """What this scheduler takes of what only some do."""
        known = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in known}

    def _placed(self, x: Tensor, network: nn.Module) -> Tensor:
        return x.to(self._execution_device, next(network.parameters()).dtype)


class _HeadMissing(logging.Filter):
    """Passes over the warning that the reference U-Net was saved without a head."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        missing = re.findall(r"'([\w.]+)'", message) if "newly initialized" in message else []
        return not (missing and all(name.startswith(HEAD) for name in missing))


def _own_memory(pipe: IPGPipeline) -> None:
    """Copy tensors out of the files that they are mapped from, where they start at any byte.

    The rounding of some kernels depends on where a tensor starts, and images shall not depend on a file.
    """
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data = tensor.data.clone()


def _listed(images: Images) -> list[Image.Image]:
    return [images] if isinstance(images, Image.Image) else list(images)
