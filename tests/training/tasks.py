"""Tiny tasks that make resuming hard (dropout, BatchNorm, noise, two phases), and their training."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from torchreid_genext.training import Fitted, Options, Phase, fit


class Labelled(NamedTuple):
    images: Tensor
    labels: Tensor


def batches(first: int, rank: int = 0, world: int = 1, size: int = 4) -> Iterator[Labelled]:
    """Images (size, 3, 8, 4) and labels, each batch a function of its position; processes share them out."""
    position = first
    while True:
        generator = torch.Generator().manual_seed(position)
        images = torch.rand(size * world, 3, 8, 4, generator=generator)
        labels = torch.randint(0, 3, (size * world,), generator=generator)
        yield Labelled(images[rank::world], labels[rank::world])
        position += 1


class Denoiser(nn.Module):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.codes = nn.Embedding(3, 4)
        self.body = nn.Sequential(nn.Conv2d(7, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        codes = self.codes(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.head(self.body(torch.cat([x, codes], 1)))


def denoiser(seed: int = 0, dropout: float = 0.2) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(dropout)


class Denoising:
    """One phase, and a frozen module that is used."""

    def __init__(self, rate: float = 0.01, dropout: float = 0.2) -> None:
        self.modules: dict[str, nn.Module] = {"denoiser": denoiser(0, dropout), "teacher": denoiser(1)}
        optimizer = torch.optim.AdamW(self.modules["denoiser"].parameters(), lr=rate)
        self.phases = {"main": Phase(optimizer, ("denoiser",))}
        self.calls = 0

    def loss(
        self, phase: str, batch: Labelled, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        self.calls += 1
        noise = torch.randn(batch.images.shape, generator=generator)
        guess = self.modules["denoiser"](batch.images + noise, batch.labels)
        hint = self.modules["teacher"](batch.images, batch.labels)
        return (guess - noise - 0.1 * hint).square().mean(), {"scale": guess.abs().mean(), "constant": 2.0}

    def pictures(self, generator: torch.Generator) -> dict[str, Image.Image]:
        x = torch.randn(1, 3, 8, 4, generator=generator)
        with torch.no_grad():
            image = self.modules["denoiser"](x, torch.zeros(1, dtype=torch.long))[0].sigmoid()
        return {"samples": Image.fromarray((image * 255).byte().permute(1, 2, 0).contiguous().numpy())}


class Adversarial:
    """Two phases that use each other's module."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        critic = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.modules: dict[str, nn.Module] = {"generator": generator, "critic": critic}
        self.phases = {
            "critic": Phase(torch.optim.SGD(critic.parameters(), 0.05, momentum=0.9), ("critic",)),
            "generator": Phase(torch.optim.Adam(generator.parameters(), 0.01), ("generator",)),
        }

    def loss(self, phase: str, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict]:
        fake = self.modules["generator"](torch.randn(batch["real"].shape, generator=generator))
        judged = self.modules["critic"](fake)
        if phase == "generator":
            return -judged.mean(), {}
        return judged.mean() - self.modules["critic"](batch["real"]).mean(), {"fake": judged.mean()}

    def pictures(self, generator: torch.Generator) -> dict[str, Image.Image]:
        return {}


def vectors(first: int, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
    position = first
    while True:
        yield {"real": torch.randn(4, 6, generator=torch.Generator().manual_seed(position)) + 1}
        position += 1


WORDS = {"data": "toy", "model": {"width": 8}}


def options(folder: Path, **changes: Any) -> Options:
    return Options(**{"steps": 6, "folder": folder, "log_every": 2, "save_every": 2} | changes)


def train(folder: Path, task: Any = None, source: Any = batches, **changes: Any) -> Fitted:
    return fit(task or Denoising(), source, options(folder, **changes), description=WORDS)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def in_process(work: Callable[..., Any], *arguments: Any) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process
