"""IPG as a diffusers pipeline: a reference image and a pose in, the person in that pose out.

"From Poses to Identity: Training-Free Person Re-Identification via Feature Centralization" (CVPR 2025).

Departures from the authors' arrangement, none of which changes the result: a reference is looked at once, in
one row, and not once a pose and again for guidance; its keys and values are kept over all steps; and the
references and poses of a batch may all be different.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from torchreid_genext.checkpoints import shipped
from torchreid_genext.generators.ipg import adapting, autoencoding, official
from torchreid_genext.generators.ipg.callbacks import Callback
from torchreid_genext.generators.ipg.conditions import IdentityProjector, PoseGuider
from torchreid_genext.generators.ipg.denoiser import IPGDenoiser, without_private
from torchreid_genext.generators.ipg.guidance import Condition, Conditions, Guidance, Poses, References
from torchreid_genext.generators.ipg.inputs import Pictures, check_range, pictures
from torchreid_genext.generators.ipg.transreid import TransReID

__all__ = ["IPGPipeline", "IPGPipelineOutput", "official_scheduler"]

_OUTPUTS = ("pil", "np", "pt", "latent")
_APART = ("reference_unet", "denoising_unet")
_CARD = """---
library_name: torchreid_genext
---
An IPG pipeline: the person of an image in other poses. The loader of diffusers' own pipelines cannot read it:

```python
from torchreid_genext.generators.ipg import IPGPipeline

pipe = IPGPipeline.from_pretrained("this folder or hub name")
```
"""


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
        vae: images to latents and back; an AutoencoderTiny will do, or any module that says as much as
            `PatchAutoencoder` does.
        denoiser: predicts; its two U-Nets are `reference_unet` and `denoising_unet` here, too.
        pose_guider: skeletons to features.
        identity_projector: features of identity to tokens.
        reid_encoder: images in [-1, 1] of its own ``image_size`` to features of identity; any module.
        scheduler: of the sampler; any of diffusers' that knows ``alphas_cumprod``.
        pose_style: how the skeletons look with which it was trained, bold or official.

    Raises:
        ValueError: if a part lacks what is asked of it, here or where another is put in its place.
    """

    model_cpu_offload_seq = "pose_guider->reid_encoder->identity_projector->denoiser->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds"]

    def __init__(
        self,
        vae: nn.Module,
        denoiser: IPGDenoiser,
        pose_guider: PoseGuider,
        identity_projector: IdentityProjector,
        reid_encoder: nn.Module,
        scheduler: Any,
        pose_style: str = "bold",
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            denoiser=denoiser,
            pose_guider=pose_guider,
            identity_projector=identity_projector,
            reid_encoder=reid_encoder,
            scheduler=scheduler,
        )
        self.register_to_config(pose_style=pose_style)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_convert_rgb=True)
        self.pose_processor = VaeImageProcessor(vae_scale_factor=1, do_convert_rgb=True, do_normalize=False)
        self._guidance_scale, self._num_timesteps, self._interrupt = 1.0, 0, False

    def __setattr__(self, name: str, value: Any) -> None:
        doors = {
            "vae": adapting.autoencoder, "reid_encoder": adapting.identity_encoder, "denoiser": _a_denoiser
        }  # fmt: skip
        if name in _APART:
            setattr(self.denoiser, name, value)
        else:
            super().__setattr__(name, doors[name](value) if name in doors else value)

    @property
    def reference_unet(self) -> UNet2DConditionModel:
        """Sees references."""
        return self.denoiser.reference_unet

    @property
    def denoising_unet(self) -> UNet2DConditionModel:
        """Predicts."""
        return self.denoiser.denoising_unet

    @property
    def vae_scale_factor(self) -> int:
        """Height of an image by that of its latents."""
        return autoencoding.shrink(self.vae)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the denoiser."""
        return self.denoiser.dtype

    @property
    def guidance_scale(self) -> float:
        """Of this step; callbacks set ``_guidance_scale``."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Steps of this call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are left out; callbacks set ``_interrupt``."""
        return self._interrupt

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> IPGPipeline:
        """As of every pipeline of diffusers; ``shipped:ipg`` is the one that comes with the package."""
        pipe = super().from_pretrained(shipped.named(pretrained_model_name_or_path), **kwargs)
        _own_memory(pipe)
        return pipe

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As of every pipeline of diffusers; one that was saved with U-Nets side by side has a denoiser."""
        found = super().load_config(*args, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        if all(config.pop(part, None) for part in _APART):
            config["denoiser"] = [IPGDenoiser.__module__, IPGDenoiser.__name__]
        return found

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As of every pipeline of diffusers; beside it a card, which says how to read it.

        Raises:
            ValueError: if a network is of a kind that cannot be saved.
        """
        for name, network in self.components.items():
            if isinstance(network, adapting.Adapted):
                rule = f"expected a {name} of diffusers' ModelMixin and ConfigMixin, which can be saved"
                raise ValueError(f"{rule}, got {type(network.network).__name__}")
        card = Path(save_directory, "README.md")
        card.parent.mkdir(parents=True, exist_ok=True)
        if not card.exists():
            card.write_text(_CARD)
        super().save_pretrained(save_directory, *args, **kwargs)

    def set_attention_slice(self, slice_size: str | int | None) -> None:
        """Refuse slices, which are not needed: attention keeps no matrices.

        Raises:
            ValueError: for each but None.
        """
        if slice_size is not None:
            rule = "expected attention without slices, since it looks at references and keeps no matrices"
            raise ValueError(f"{rule}, got {slice_size}; for less memory take fewer images at a time")

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
            denoiser = IPGDenoiser(without_private(config))
            networks = {
                "pose_guider": PoseGuider(config["block_out_channels"][0]),
                "identity_projector": IdentityProjector(*sizes),
                "reid_encoder": reid_encoder or TransReID(),
            }
        filled = networks | {part: getattr(denoiser, part) for part in _APART}
        for name, network in filled.items():
            official.fill(network, files[name])
        for network in (denoiser, *networks.values()):
            network.eval()
        parts = networks | {"denoiser": denoiser, "scheduler": official_scheduler()}
        return cls(AutoencoderKL.from_pretrained(vae), **parts, pose_style="official")

    @torch.no_grad()
    def __call__(
        self,
        reference: Pictures | References,
        pose: Pictures | Poses,
        *,
        height: int = 512,
        width: int = 256,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
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
            reference: one for all poses, or one for each, see `pictures`; or what `look_at` made of them.
            pose: drawn skeletons, likewise, a tensor (B, 3, H, W) of the size of the result; or what
                `look_at_poses` made of them, for this size.
            height, width: of the result, in pixels.
            num_inference_steps: of the sampler. eta: of DDIM.
            guidance_scale: how far from the prediction for nobody to that for the person; up to 1 there is
                no guidance, and only the latter is made.
            guidance_interval: share of the steps, from the first at 0 to the last at 1, in which there is
                guidance; the others take half the time (Kynkaanniemi et al., NeurIPS 2024).
            guidance_rescale: how far guided predictions get the spread of plain ones, 0..1 (Lin et al.).
            official_guidance: without guidance use the prediction for *nobody*, as the authors' code does.
            generator: of the noise; a list has one for each image, which makes it independent of the batch.
            latents: noise to start from, (B, C, h, w).
            bank_dtype: to which features of references are rounded; officially torch.float16. None: not.
            swap_pose_channels: if pictures of poses have red and blue swapped, as the authors' files do.
            output_type: pil, np, pt or latent. return_dict: False returns a tuple.
            callback_on_step_end: ``(pipeline, step, time, tensors)``, as of diffusers; or an official one.
            callback_on_step_end_tensor_inputs: which it gets of ``latents`` and ``prompt_embeds``, the tokens
                (2, B, N, width) of nobody and of the people.

        Raises:
            ValueError: if there are neither one reference nor one for each pose, or an option is none.
        """
        callback = Callback.of(callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.check_inputs(height, width, output_type, callback.names)
        guidance = Guidance(guidance_interval, guidance_rescale)
        pose = self._poses(pose, height, width, swap_pose_channels)
        references = self._references(reference, height, width, bank_dtype, len(pose))
        self._begin(num_inference_steps, guidance_scale)
        latents = self.prepare_latents(len(pose), height, width, generator, latents)
        told = Conditions(references, pose.features, unseen=official_guidance and guidance_scale <= 1)
        latents = self._sample(latents, told, guidance, self._step_options(eta, generator), callback)
        images = self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return IPGPipelineOutput(images) if return_dict else (images,)
    @torch.no_grad()
    def look_at(
        self, images: Pictures, height: int = 512, width: int = 256, *, bank_dtype: torch.dtype | None = None
    ) -> References:
        """Take in reference images, each once even if it comes several times.

        Args:
            images: one or several, of any mode and size.
            height, width: at which the reference U-Net sees them.
            bank_dtype: as of a call.
        """
        images = pictures(images)
        distinct = {id(image): image for image in images}
        people = self.identity_tokens(torch.cat([self.encoder_input(image) for image in distinct.values()]))
        nobody = self.identity_tokens(torch.zeros_like(self.encoder_input(images[0])))
        latents = self.encode(self.image_processor.preprocess([*distinct.values()], height, width))
        seen = self.denoiser.see([latents], people, dtype=bank_dtype)
        rows = torch.tensor([[*distinct].index(id(image)) for image in images], device=latents.device)
        return References(people, nobody, seen)[rows]

    @torch.no_grad()
    def look_at_poses(
        self, pose: Pictures, height: int = 512, width: int = 256, *, swap: bool = False
    ) -> Poses:
        """Take in poses; arguments as of a call."""
        return Poses(self.pose_guider(self.preprocess_poses(pose, height, width, swap=swap)), height, width)

    def encoder_input(self, image: Image.Image) -> Tensor:
        """An image as the identity encoder wants it, (1, 3, H, W) in [-1, 1]."""
        return self.image_processor.preprocess(image, *self.reid_encoder.image_size)

    def identity_tokens(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], of the encoder's size, to tokens (B, N, width)."""
        features = self.reid_encoder(self._placed(images, self.reid_encoder))
        return self.identity_projector(self._placed(features, self.identity_projector))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents, the mean of their distribution; some at a time."""
        return self._placed(autoencoding.encode(self.vae, self._placed(images, self.vae)), self.denoiser)

    def decode(self, latents: Tensor, output_type: str = "pt") -> Any:
        """Latents to images, see `IPGPipelineOutput`; some at a time."""
        if output_type == "latent":
            return latents
        images = autoencoding.decode(self.vae, latents.to(self._execution_device))
        return self.image_processor.postprocess(images, output_type=output_type)

    def preprocess_poses(self, pose: Pictures, height: int, width: int, *, swap: bool = False) -> Tensor:
        """Pictures of skeletons, (B, 3, H, W) in [0, 1]."""
        if not (isinstance(pose, Tensor) and pose.ndim == 4):
            pose = self.pose_processor.preprocess(pictures(pose), height, width)
        elif pose.is_floating_point():
            check_range(pose)
        else:
            pose = pose.float() / 255
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
        """Noise to start from.

        Raises:
            ValueError: if there are other generators or latents than images.
        """
        if isinstance(generator, (list, tuple)) and len(generator) != count:
            rule = f"expected one generator, or one for each of {count} images"
            raise ValueError(f"{rule}, got {len(generator)}")
        unet, shrink = self.denoising_unet, self.vae_scale_factor
        shape = (count, unet.config.in_channels, height // shrink, width // shrink)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device)
        if tuple(latents.shape) != shape:
            raise ValueError(f"expected latents {shape}, got {tuple(latents.shape)}")
        # in float32 even where networks are not: rounding would add up over the steps
        return latents.to(self._execution_device, torch.float32) * self.scheduler.init_noise_sigma

    def _poses(self, pose: Pictures | Poses, height: int, width: int, swap: bool) -> Poses:
        if not isinstance(pose, Poses):
            return self.look_at_poses(pose, height, width, swap=swap)
        if (pose.height, pose.width) != (height, width):
            raise ValueError(f"expected poses of {height} x {width}, got {pose.height} x {pose.width}")
        return pose

    def _references(
        self, found: Pictures | References, height: int, width: int, dtype: torch.dtype | None, count: int
    ) -> References:
        """As many as there are poses."""
        if not isinstance(found, References):
            found = self.look_at(found, height, width, bank_dtype=dtype)
        if len(found) == 1:
            return found[torch.zeros(count, dtype=torch.int64, device=found.tokens.device)]
        if len(found) != count:
            raise ValueError(f"expected one reference, or one for each of {count} poses, got {len(found)}")
        return found

    def _begin(self, steps: int, scale: float) -> None:
        self.scheduler.set_timesteps(steps)  # on the CPU, where schedulers look times up
        self._guidance_scale, self._interrupt = scale, False
        self._num_timesteps = len(self.scheduler.timesteps)

    def _sample(
        self,
        latents: Tensor,
        conditions: Conditions,
        guidance: Guidance,
        options: dict[str, Any],
        callback: Callback,
    ) -> Tensor:
        times = self.scheduler.timesteps
        placed = times.to(latents.device)  # all at once: a time that is looked up there would be waited for
        for step, time in enumerate(self.progress_bar(times)):
            if self.interrupt:
                continue
            noisy = self.scheduler.scale_model_input(latents, time)
            predicted = self._predict(noisy, placed[step], conditions, guidance, step)
            latents = self.scheduler.step(predicted, time, latents, **options, return_dict=False)[0]
            latents = callback(self, step, time, latents, conditions)
        return latents

    def _predict(
        self, noisy: Tensor, time: Tensor, conditions: Conditions, guidance: Guidance, step: int
    ) -> Tensor:
        """The denoiser's prediction, guided from that of nobody if this step is."""
        scale = self.guidance_scale
        if not guidance.holds(scale, step, self.num_timesteps):
            return self._denoised(noisy, time, conditions.plain())
        return guidance.of(self._denoised(torch.cat([noisy] * 2), time, conditions.guided()), scale)

    def _denoised(self, noisy: Tensor, time: Tensor, told: Condition) -> Tensor:
        noisy = self._placed(noisy, self.denoiser)
        return self.denoiser(noisy, time, told.tokens, pose=told.pose, seen=told.seen).float()

    def check_inputs(self, height: int, width: int, output_type: str, tensors: Sequence[str]) -> None:
        """Raises ValueError for what cannot be done."""
        self.denoiser.check()
        if not hasattr(self.scheduler, "alphas_cumprod"):
            rule = "expected a scheduler with alphas_cumprod, such as DDIM, DPM-Solver++, UniPC or Euler"
            raise ValueError(f"{rule}, got {type(self.scheduler).__name__}")
        if height % (shrink := self.vae_scale_factor) or width % shrink:
            raise ValueError(f"expected height and width in multiples of {shrink}, got {height} and {width}")
        if output_type not in _OUTPUTS:
            raise ValueError(f"unknown output type {output_type!r}; choose from {', '.join(_OUTPUTS)}")
        if unknown := set(tensors) - set(self._callback_tensor_inputs):
            known, got = ", ".join(self._callback_tensor_inputs), ", ".join(sorted(unknown))
            raise ValueError(f"expected callbacks for {known}, got {got}")

    def _step_options(self, eta: float, generator: Any) -> dict[str, Any]:
        """What this scheduler takes of what only some do."""
        known = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in known}

    def _placed(self, x: Tensor, network: nn.Module) -> Tensor:
        return x.to(self._execution_device, network.dtype)


def _a_denoiser(network: Any) -> nn.Module:
    """It, or what torch.compile made of it."""
    if not isinstance(getattr(network, "_orig_mod", network), IPGDenoiser):
        cure = "IPGDenoiser.from_unets(reference_unet, denoising_unet) makes one"
        raise ValueError(f"expected an IPGDenoiser, got {type(network).__name__}; {cure}")
    return network


def _own_memory(pipe: IPGPipeline) -> None:
    """Copy tensors out of the files that they are mapped from, where they start at any byte.

    The rounding of some kernels depends on where a tensor starts, and images shall not depend on a file.
    """
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data = tensor.data.clone()
