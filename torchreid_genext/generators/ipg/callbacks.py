"""What users have called after each step, as of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from torchreid_genext.generators.ipg.guidance import Conditions

__all__ = ["Callback"]


class Callback(NamedTuple):
    """What is called after each step, and which tensors it gets."""

    call: Callable[..., dict[str, Tensor]] | None
    names: tuple[str, ...]

    @classmethod
    def of(cls, call: Callable[..., dict[str, Tensor]] | None, names: Sequence[str]) -> Callback:
        """Official ones of diffusers know the names."""
        official_one = isinstance(call, (PipelineCallback, MultiPipelineCallbacks))
        return cls(call, tuple(call.tensor_inputs if official_one else names))

    def __call__(
        self, pipe: DiffusionPipeline, step: int, time: Tensor, latents: Tensor, conditions: Conditions
    ) -> Tensor:
        """The latents with which it goes on; conditions are changed in place."""
        if self.call is None:
            return latents
        tensors = {"latents": latents, "prompt_embeds": conditions.tokens}
        found = self.call(pipe, step, time, {name: tensors[name] for name in self.names})
        conditions.tokens = found.get("prompt_embeds", conditions.tokens)
        return found.get("latents", latents)
