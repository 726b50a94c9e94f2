"""Networks that know their own configuration: one file holds what it takes to have them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from torchreid_genext import checkpoints

__all__ = ["Saved"]

Network = TypeVar("Network", bound="Saved")


class Saved(nn.Module):
    """A network with `save` and `load`.

    Attributes:
        kind: tells its files from those of other networks.
        config: the keyword arguments of the constructor, as JSON can say them.
    """

    kind: ClassVar[str]
    config: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """What a weights file says of its network."""
        return {"kind": self.kind, "network": self.config}

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write weights and configuration as one safetensors file, atomically.

        Args:
            path: the file.
            half: keep weights as float16, half the size; statistics and biases stay as they are.
        """
        state = {name: _half(tensor) if half else tensor for name, tensor in self.state_dict().items()}
        return checkpoints.save(path, state, self.metadata)

    @classmethod
    def load(cls: type[Network], path: str | Path) -> Network:
        """Read what `save` wrote, onto the CPU, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or holds another kind of network.
        """
        metadata = checkpoints.read_metadata(path)
        if metadata.get("kind") != cls.kind:
            raise ValueError(f"expected a file of kind {cls.kind!r}, got {path} of {metadata.get('kind')!r}")
        network = cls(**metadata["network"])
        checkpoints.load_weights(network, path, ignore=())
        return network.eval()


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
