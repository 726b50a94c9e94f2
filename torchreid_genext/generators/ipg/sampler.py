"""Pictures by the thousand: references and poses by name in, images out, and nothing done twice."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from PIL import Image
from torch import Tensor, nn

from torchreid_genext.generators.ipg.attention import Seen
from torchreid_genext.generators.ipg.guidance import Poses, References
from torchreid_genext.generators.ipg.pipeline import IPGPipeline
from torchreid_genext.precision import DTYPES

__all__ = ["SCHEDULERS", "IPGSampler", "Sampling", "prepare", "weights_digest"]

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "unipc": UniPCMultistepScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; the defaults are the authors', but for rounding.

    Attributes:
        height, width: in pixels.
        scheduler: a name in `SCHEDULERS`.
        steps: of the scheduler.
        guidance: as `guidance_scale` of the pipeline, likewise the next two.
        official_bank: round features of references to float16 in between.
        precision: of the networks, a name in `precision.DTYPES`; latents are float32.
        compile: the denoiser, with torch.compile; takes minutes before the first batch of each size.

    Raises:
        ValueError: if a name is unknown or there is no step.
    """

    height: int = 512
    width: int = 256
    scheduler: str = "ddim"
    steps: int = 20
    guidance: float = 3.5
    interval: tuple[float, float] = (0.0, 1.0)
    official_guidance: bool = False
    official_bank: bool = False
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for what, choices in (("scheduler", SCHEDULERS), ("precision", DTYPES)):
            if (name := getattr(self, what)) not in choices:
                raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(choices)}")
        if self.steps < 1:
            raise ValueError(f"expected steps >= 1, got {self.steps}")


def prepare(pipe: IPGPipeline, sampling: Sampling) -> dict[str, Any]:
    """Give a pipeline precision, memory order and scheduler; returns the options of its calls."""
    for network in pipe.components.values():
        if isinstance(network, nn.Module):  # not by diffusers' own ``to``, which warns of nothing
            nn.Module.to(network, DTYPES[sampling.precision], memory_format=torch.channels_last)
    if sampling.compile:
        pipe.denoiser.compile(dynamic=False)  # a size of its own is faster than any size
    pipe.scheduler = SCHEDULERS[sampling.scheduler].from_config(pipe.scheduler.config)
    return {
        "height": sampling.height, "width": sampling.width, "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance, "guidance_interval": sampling.interval,
        "official_guidance": sampling.official_guidance,
    }  # fmt: skip


class IPGSampler:
    """Draws people in poses.

    Args:
        pipe: gets the precision and the scheduler.
        poses: pictures of skeletons by name; each is looked at once.
        sampling: how.
        open_image: reads a reference, given as its path.
        swap_pose_channels: as of the pipeline.
        keep: so many references are remembered; one takes as much memory as its keys and values.
    """

    def __init__(
        self,
        pipe: IPGPipeline,
        poses: Mapping[str, Image.Image],
        sampling: Sampling,
        open_image: Callable[[str], Image.Image],
        *,
        swap_pose_channels: bool = False,
        keep: int = 64,
    ) -> None:
        if not poses:
            raise ValueError("expected at least one pose, got none")
        self.pipe, self.sampling, self.open_image, self._keep = pipe, sampling, open_image, keep
        self._weights = weights_digest(pipe)  # before they are rounded
        self._options = prepare(pipe, sampling)
        self._most = sys.maxsize  # images at a time
        self._rows = {name: row for row, name in enumerate(poses)}
        pictures, size = [*poses.values()], (sampling.height, sampling.width)
        self._poses = pipe.look_at_poses(pictures, *size, swap=swap_pose_channels)
        self._seen: OrderedDict[str, References] = OrderedDict()

    def __call__(
        self, references: Sequence[str], poses: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """An image for each reference, pose and seed; it depends on these three alone.

        Where a device has no memory for all at a time, they are drawn in parts, from then on.

        Raises:
            ValueError: if a pose is unknown.
        """
        made: list[Image.Image] = []
        while len(made) < len(seeds):
            part = slice(len(made), len(made) + self._most)
            try:
                made += self._draw(references[part], poses[part], seeds[part])
            except torch.OutOfMemoryError:
                if (count := len(seeds[part])) == 1:
                    raise
                self._most = (count + 1) // 2
                _log.warning("memory is short for %d images at a time; now %d are drawn", count, self._most)
        return made

    def _draw(
        self, references: Sequence[str], poses: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        pose, noise = self._pose(poses), [torch.Generator().manual_seed(seed) for seed in seeds]
        return self.pipe(self._look_at(references), pose, generator=noise, **self._options).images

    def _pose(self, names: Sequence[str]) -> Poses:
        if unknown := [name for name in names if name not in self._rows]:
            raise ValueError(f"unknown pose {unknown[0]!r}; choose from {', '.join(self._rows)}")
        return self._poses[torch.tensor([self._rows[name] for name in names])]

    def _look_at(self, paths: Sequence[str]) -> References:
        """References of these images, of which those that are remembered are not looked at again."""
        distinct = [*dict.fromkeys(paths)]
        if new := [path for path in distinct if path not in self._seen]:
            found = self._new([self.open_image(path) for path in new])
            self._seen.update({path: found[torch.tensor([row])] for row, path in enumerate(new)})
        for path in distinct:
            self._seen.move_to_end(path)
        whole = _joined([self._seen[path] for path in distinct])
        while len(self._seen) > self._keep:
            self._seen.popitem(last=False)
        return whole[torch.tensor([distinct.index(path) for path in paths])]

    def _new(self, images: list[Image.Image]) -> References:
        rounded = torch.float16 if self.sampling.official_bank else None
        return self.pipe.look_at(images, self.sampling.height, self.sampling.width, bank_dtype=rounded)

    def forget(self) -> None:
        """Look at all references anew."""
        self._seen.clear()

    def provenance(self) -> dict[str, Any]:
        """What beside reference, pose and seed decides on an image."""
        sampling = asdict(self.sampling) | {"interval": list(self.sampling.interval)}
        del sampling["compile"]  # rounds differently, as another machine would
        style = self.pipe.config.pose_style
        return {"generator": "ipg", "weights": self._weights, "pose_style": style, "sampling": sampling}


def _joined(parts: Sequence[References]) -> References:
    tokens = torch.cat([part.tokens for part in parts])
    return References(tokens, parts[0].nobody, Seen.cat([part.seen for part in parts]))


def weights_digest(pipe: IPGPipeline) -> str:
    """16 hexadecimal digits of SHA-256 over all weights, as float32."""
    digest = hashlib.sha256()
    for key, tensor in sorted(_weights(pipe).items()):
        digest.update(key.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _weights(pipe: IPGPipeline) -> dict[str, Tensor]:
    """Under names that say nothing of who holds both U-Nets, and whether one is compiled."""
    found = {}
    for name, network in pipe.components.items():
        if isinstance(network, nn.Module):
            state = getattr(network, "_orig_mod", network).state_dict()
            found |= {f"{name}.{key}".removeprefix("denoiser."): tensor for key, tensor in state.items()}
    return found


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().float().cpu().contiguous().numpy()).cast("B")
