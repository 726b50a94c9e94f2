"""The networks of CycleGAN (Zhu et al., "Unpaired Image-to-Image Translation", ICCV 2017), and its pool.

Layers of the generator and the discriminator are numbered as the authors' are. Images are (B, 3, H, W) float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["ImagePool", "PatchDiscriminator", "ResNetGenerator", "convolution", "initialize", "routed"]

_NORMS = ("spectral", "instance")


def initialize(network: nn.Module) -> None:
    """Weights of convolutions from N(0, 0.02), and no biases."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0, 0.02)
            nn.init.zeros_(layer.bias)


def convolution(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """A convolution under a reflecting margin: the image keeps its size, and its edge does not darken."""
    return nn.Sequential(nn.ReflectionPad2d(size // 2), nn.Conv2d(inputs, outputs, size))


def routed(networks: Mapping[int, nn.Module], images: Tensor, cameras: Tensor, **options: Sequence) -> Tensor:
    """Each image through the network of its camera.

    Args:
        networks: by camera.
        images: (B, ...). cameras: (B,) int64, each with a network; the host has to know them, so it waits
            for those that lie elsewhere.
        options: further arguments of the networks, B of each.
    """
    cameras = cameras.cpu()
    rows = {camera: (cameras == camera).nonzero()[:, 0] for camera in networks}
    parts = [
        network(images[rows[camera]], **_of_rows(options, rows[camera].tolist()))
        for camera, network in networks.items()
        if len(rows[camera])
    ]
    return torch.cat(parts)[torch.cat([*rows.values()]).argsort()]


def _of_rows(options: Mapping[str, Sequence], rows: Sequence[int]) -> dict[str, list]:
    return {name: [values[row] for row in rows] for name, values in options.items()}


class _InstanceNorm(nn.InstanceNorm2d):
    """Statistics of each image, in evaluation too.

    The averages that the authors' keep are never asked for, since their code does not leave training mode.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else F.instance_norm(x, eps=self.eps)


class _Dropout(nn.Dropout):
    """Dropout that draws for each image from a generator of its own, where `generators` are set."""

    generators: Sequence[Generator] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.generators is None:
            return super().forward(x)
        draws = [torch.rand(x.shape[1:], generator=each, device=each.device) for each in self.generators]
        kept = torch.stack(draws).to(x.device) >= self.p
        return x * kept / (1 - self.p)


class _Block(nn.Module):
    """Add to the features what two convolutions make of them."""

    def __init__(self, width: int, dropout: float, tracked: bool) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            *convolution(width, width, 3), _InstanceNorm(width, track_running_stats=tracked), nn.ReLU(),
            *([_Dropout(dropout)] if dropout else []),
            *convolution(width, width, 3), _InstanceNorm(width, track_running_stats=tracked),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """CycleGAN's generator: down twice, residual blocks, up twice, tanh.

    Args:
        width: channels at the full resolution, doubled by each halving; officially 64.
        blocks: officially 9 (11,378,179 parameters).
        dropout: probability inside the blocks; 0.5 in CamStyle's code.
        tracked: keep running statistics, as CamStyle's code does; they change nothing.
    """

    def __init__(
        self, width: int = 64, blocks: int = 9, *, dropout: float = 0.0, tracked: bool = False
    ) -> None:
        super().__init__()

        def normalized(channels: int) -> list[nn.Module]:
            return [_InstanceNorm(channels, track_running_stats=tracked), nn.ReLU()]

        down = [[nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), *normalized(2 * w)] for w in (width, 2 * width)]
        up = [
            [nn.ConvTranspose2d(2 * w, w, 3, 2, padding=1, output_padding=1), *normalized(w)]
            for w in (2 * width, width)
        ]
        self.model = nn.Sequential(
            *convolution(3, width, 7), *normalized(width), *down[0], *down[1],
            *(_Block(4 * width, dropout, tracked) for _ in range(blocks)),
            *up[0], *up[1], *convolution(width, 3, 7), nn.Tanh(),
        )  # fmt: skip
        self.dropouts = [layer for layer in self.modules() if isinstance(layer, _Dropout)]
        initialize(self)

    def forward(self, images: Tensor, generators: Sequence[Generator] | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the same; with generators, B of them, dropout is on in any mode."""
        for layer in self.dropouts:
            layer.generators = generators
        return self.model(images)


class PatchDiscriminator(nn.Module):
    """PatchGAN: is each patch real? Without a sigmoid, for least squares.

    Args:
        cameras: an answer for each: "is this an image of that camera?" (as Choi et al., "StarGAN v2").
        width: of the first layer; doubled by each, up to 8 times. Officially 64.
        layers: that halve the image. Officially 3: patches are 70 x 70; with 2 they are 34 x 34.
        norm: ``instance`` is official. It takes the mean of every channel away, and with it much of what
            tells a camera; ``spectral`` (Miyato et al., ICLR 2018) does not.

    Raises:
        ValueError: if the norm is unknown or there is no layer.
    """

    def __init__(self, cameras: int = 1, *, width: int = 64, layers: int = 3, norm: str = "spectral") -> None:
        super().__init__()
        if norm not in _NORMS:
            raise ValueError(f"unknown norm {norm!r}; choose from {', '.join(_NORMS)}")
        if layers < 1:
            raise ValueError(f"expected at least one layer, got {layers}")
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        model = [nn.Conv2d(3, width, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:]), start=1):
            model += [nn.Conv2d(inputs, outputs, 4, 2 if layer < layers else 1, padding=1)]
            model += [_InstanceNorm(outputs)] if norm == "instance" else []
            model += [nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*model, nn.Conv2d(widths[-1], cameras, 4, padding=1))
        initialize(self)
        if norm == "spectral":
            for layer in [each for each in self.model if isinstance(each, nn.Conv2d)]:
                spectral_norm(layer)

    def forward(self, images: Tensor, camera: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) to answers (B, h, w) for a camera each, (B,) int64; None: for the first."""
        answers = self.model(images)
        if camera is None:
            return answers[:, 0]
        camera = camera.to(answers.device)[:, None, None, None]
        return answers.gather(1, camera.expand(-1, 1, *answers.shape[2:]))[:, 0]


class ImagePool(nn.Module):
    """Images that were generated before: half the time the discriminator sees one of them instead.

    Shrivastava et al., "Learning from Simulated and Unsupervised Images", CVPR 2017. Until it is full, every
    image is kept and shown. It is state like weights are, so that training resumes as if never interrupted;
    of several processes each has its own, and a resumed training gives all of them the first one's.

    Args:
        size: images; officially 50. 0: none, what comes in goes out.
        image_size: their height and width.
    """

    def __init__(self, size: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, 3, *image_size))
        self.register_buffer("cameras", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: Tensor, cameras: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """Keep some of the new images, and show old ones for these.

        Args:
            images: (B, 3, H, W), B at most as many as there is room for. cameras: (B,) int64.
            random: decides; no two images of a batch meet the same old one.

        Returns:
            Images and cameras to be shown.

        Raises:
            ValueError: if there are more images than places.
        """
        if not self.size:
            return images, cameras
        if len(images) > self.size:
            raise ValueError(f"expected a pool of at least a batch, {len(images)} images, got {self.size}")
        places, kept, swapped = self._decide(len(images), random)
        old = self.images[places], self.cameras[places]
        self.images[places] = torch.where(_wide(kept), images.to(self.images), old[0])
        self.cameras[places] = torch.where(kept, cameras, old[1])
        self.count.copy_((self.count + len(images)).clamp(max=self.size))
        return torch.where(_wide(swapped), old[0].to(images), images), torch.where(swapped, old[1], cameras)

    def _decide(self, number: int, random: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A place for each image; whether it is kept there; whether what was there is shown instead."""
        drawn = torch.randperm(self.size, generator=random, device=random.device)[:number]
        swapped = torch.rand(number, generator=random, device=random.device) < 0.5
        drawn, swapped = drawn.to(self.count.device), swapped.to(self.count.device)
        free = self.count + torch.arange(number, device=self.count.device)
        full = self.count == self.size
        places = torch.where(full, drawn, free % self.size)
        return places, torch.where(full, swapped, free < self.size), swapped & full


def _wide(chosen: Tensor) -> Tensor:
    return chosen[:, None, None, None]
