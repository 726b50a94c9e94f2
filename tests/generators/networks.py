"""Networks as real as any, only tiny; filled with noise they behave as trained ones do: nothing is zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreid_genext.generators.identity import IdentityGenerator
from torchreid_genext.generators.inverter import Inverter
from torchreid_genext.generators.prior import CodePrior

WIDTHS, SIZE, CODE = (4, 6, 8), (8, 4), 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, as if it had been trained: random biases, heads and statistics."""
    random = seeded(seed)
    for name, tensor in network.named_parameters():
        if name.endswith("bias") or not tensor.any():
            tensor.data.copy_(0.3 * torch.randn(tensor.shape, generator=random))
    for name, tensor in network.named_buffers():
        if name.endswith("running_mean"):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=random))
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
    return network.eval()


def generator(**settings: Any) -> IdentityGenerator:
    settings = {"widths": WIDTHS, "image_size": SIZE, "code_width": CODE, "embedding_width": 6, **settings}
    return awake(IdentityGenerator(7, **settings))


def prior(**settings: Any) -> CodePrior:
    return awake(CodePrior(CODE, **{"width": 9, "embedding_width": 4, **settings}))


def inverter(**settings: Any) -> Inverter:
    settings = {"widths": WIDTHS, "image_size": SIZE, "code_width": CODE, "hidden": (9, 7), **settings}
    return awake(Inverter(**settings))


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in network.state_dict().items()}


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(network: nn.Module, before: dict[str, Tensor]) -> bool:
    now = network.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)
