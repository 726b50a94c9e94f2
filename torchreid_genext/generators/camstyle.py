"""People as another camera would have taken them: CamStyle, and one model for all cameras.

Zhong et al., "Camera Style Adaptation for Person Re-identification", CVPR 2018, train a CycleGAN for each
pair of cameras, C(L, 2) of them (`CameraPair`). Our default, `CameraStyle`, is one network for all. It
changes the image instead of painting it anew, since who is seen must stay: first colours, by what each camera
does to them, then every pixel, by a gain and an offset. Gain and offset come from features that cameras scale
and shift (Dumoulin et al., "A Learned Representation for Artistic Style", ICLR 2017): labels as constant
channels of the input would be taken away by the next instance normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from torchreid_genext.generators._camstyle_layers import Block, Layer, Tone, enlarging
from torchreid_genext.generators._camstyle_networks import (
    ImagePool,
    PatchDiscriminator,
    ResNetGenerator,
    convolution,
    initialize,
    routed,
)
from torchreid_genext.generators._layers import check_halves, check_image_size
from torchreid_genext.generators._saving import Saved

__all__ = [
    "CameraPair", "CameraPairs", "CameraStyle", "ImagePool", "PairDiscriminator", "PatchDiscriminator",
    "least_squares",
]  # fmt: skip

_SMALLEST = 8  # pixels of a side: below, nothing is left to reflect after two halvings


class CameraStyle(Saved):
    """One network for all cameras.

    Args:
        cameras: how many there are, numbered from 0.
        image_size: height and width in pixels, multiples of 4, 8 or more.
        width: channels at the full resolution, doubled by each of two halvings.
        blocks: residual ones at the lowest resolution.

    Raises:
        ValueError: if there are fewer than two cameras, or images of that size cannot be halved twice.
    """

    kind = "camstyle"

    def __init__(
        self, cameras: int, *, image_size: tuple[int, int] = (128, 64), width: int = 64, blocks: int = 9
    ) -> None:
        super().__init__()
        if cameras < 2:
            raise ValueError(f"expected two or more cameras, got {cameras}")
        _check_size(image_size)
        self.cameras, self.image_size = tuple(range(cameras)), tuple(image_size)
        down = [nn.Conv2d(w, 2 * w, 3, stride=2, padding=1) for w in (width, 2 * width)]
        self.tone = Tone(cameras)
        self.layers = nn.ModuleList([
            Layer(convolution(3, width, 7), width, cameras),
            *(Layer(conv, conv.out_channels, cameras) for conv in down),
            *(Block(4 * width, cameras) for _ in range(blocks)),
            *(Layer(enlarging(2 * w, w), w, cameras) for w in (2 * width, width)),
        ])  # fmt: skip
        self.head = convolution(width, 6, 7)
        initialize(self)
        nn.init.zeros_(self.head[1].weight)  # the beginning is to change nothing
        self.config = {
            "cameras": cameras, "image_size": list(image_size), "width": width, "blocks": blocks
        }  # fmt: skip

    def forward(self, images: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of cameras (B,) as others (B,) would have them; not clipped."""
        source, target = source.to(images.device), target.to(images.device)
        x = toned = self.tone(images, source, target)
        for layer in self.layers:
            x = layer(x, source, target)
        gain, offset = self.head(x).chunk(2, dim=1)
        return toned + gain * toned + offset

    @torch.no_grad()
    def generate(
        self, images: Tensor, source: Tensor, target: Tensor, *, generators: Sequence[Generator] | None = None
    ) -> Tensor:
        """Images in the style of other cameras.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            source: the camera of each, (B,) int64. target: whose style it gets, likewise.
            generators: not used, as nothing is drawn.

        Returns:
            (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: if the images have another size, or a camera is unknown.
        """
        check_image_size(images, self.image_size)
        cameras = [_known(each, self.cameras) for each in (source, target)]
        return self(images.to(self.head[1].weight.dtype), *cameras).clamp(-1, 1).float()


def _check_size(image_size: Sequence[int]) -> None:
    check_halves(image_size, 2)
    if min(image_size) < _SMALLEST:
        raise ValueError(f"expected an image size of {_SMALLEST} or more, got {tuple(image_size)}")


def _known(camera: Tensor, cameras: Sequence[int]) -> Tensor:
    """The cameras (B,), on the CPU; refuse those that are not among some."""
    camera = camera.cpu()
    unknown = sorted(set(camera.tolist()) - set(cameras))
    if unknown:
        raise ValueError(f"unknown camera {unknown[0]}; choose from {', '.join(map(str, cameras))}")
    return camera


class CameraPair(Saved):
    """CamStyle's CycleGAN of two cameras: one generator towards each.

    Args:
        first, second: the cameras, from 0.
        image_size: height and width in pixels, multiples of 4, 8 or more; officially 256 x 256.
        width, blocks: of `ResNetGenerator`.
        official: dropout inside the blocks, on in generation too, since the authors' code never leaves
            training mode; and running statistics, which nothing reads.

    Raises:
        ValueError: if the cameras are the same, or images of that size cannot be halved twice.
    """

    kind = "camstyle_pair"

    def __init__(
        self,
        first: int,
        second: int,
        *,
        image_size: tuple[int, int] = (256, 256),
        width: int = 64,
        blocks: int = 9,
        official: bool = False,
    ) -> None:
        super().__init__()
        if first == second:
            raise ValueError(f"expected two cameras, got {first} twice")
        _check_size(image_size)
        self.cameras, self.image_size, self.official = (first, second), tuple(image_size), official
        options = {"dropout": 0.5 if official else 0.0, "tracked": official}
        self.towards = nn.ModuleList(ResNetGenerator(width, blocks, **options) for _ in self.cameras)
        self.config = {
            "first": first, "second": second, "image_size": list(image_size), "width": width,
            "blocks": blocks, "official": official,
        }  # fmt: skip

    def forward(
        self,
        images: Tensor,
        source: Tensor,
        target: Tensor,
        *,
        generators: Sequence[Generator] | None = None,
    ) -> Tensor:
        """As `CameraStyle.forward`; the target alone decides. `generators`, B of them, switch dropout on."""
        options = {} if generators is None else {"generators": generators}
        return routed(dict(zip(self.cameras, self.towards)), images, target, **options)

    @torch.no_grad()
    def generate(
        self, images: Tensor, source: Tensor, target: Tensor, *, generators: Sequence[Generator] | None = None
    ) -> Tensor:
        """As `CameraStyle.generate`; dropout of the official model draws from `generators`.

        Without any, each image gets one with the seed 0.
        """
        check_image_size(images, self.image_size)
        cameras = [_known(each, self.cameras) for each in (source, target)]
        if self.official and generators is None:
            generators = [Generator().manual_seed(0) for _ in images]
        images = images.to(next(self.parameters()).dtype)
        return self(images, *cameras, generators=generators if self.official else None).float().clamp(-1, 1)


class CameraPairs(nn.Module):
    """All cameras by the models of their pairs.

    Args:
        pairs: of any of the cameras, all of one image size.

    Raises:
        ValueError: if there are none, sizes differ, or a pair is there twice.
    """

    kind = "camstyle_pairs"

    def __init__(self, pairs: Sequence[CameraPair]) -> None:
        super().__init__()
        if len(sizes := sorted({pair.image_size for pair in pairs})) != 1:
            raise ValueError(f"expected pairs of one image size, got {sizes}")
        names = [tuple(sorted(pair.cameras)) for pair in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"expected each pair of cameras once, got {twice[0]} again")
        self.pairs, self.names, self.image_size = nn.ModuleList(pairs), names, pairs[0].image_size
        self.cameras = tuple(sorted({camera for name in names for camera in name}))

    @classmethod
    def load(cls, folder: str | Path) -> CameraPairs:
        """All files of pairs in a folder.

        Raises:
            ValueError: if there are none, one is damaged or of another kind, or as the class.
        """
        if not (files := sorted(Path(folder).glob("*.safetensors"))):
            raise ValueError(f"expected a folder of files of pairs of cameras, got none in {folder}")
        return cls([CameraPair.load(file) for file in files]).eval()

    @torch.no_grad()
    def generate(
        self, images: Tensor, source: Tensor, target: Tensor, *, generators: Sequence[Generator] | None = None
    ) -> Tensor:
        """As `CameraStyle.generate`.

        Raises:
            ValueError: also if there is no model of two of the cameras.
        """
        wanted = [tuple(sorted(pair)) for pair in zip(source.tolist(), target.tolist())]
        if missing := sorted(set(wanted) - set(self.names)):
            raise ValueError(f"expected pairs {self.names}, got images of {missing[0]}")
        made = torch.empty(images.shape, device=images.device)
        for name, pair in zip(self.names, self.pairs):
            if rows := [row for row, each in enumerate(wanted) if each == name]:
                own = None if generators is None else [generators[row] for row in rows]
                made[rows] = pair.generate(images[rows], source[rows], target[rows], generators=own)
        return made


class PairDiscriminator(nn.Module):
    """A discriminator for each of two cameras.

    Args:
        cameras: which. options: of `PatchDiscriminator`.
    """

    def __init__(self, cameras: tuple[int, int], **options: int | str) -> None:
        super().__init__()
        self.cameras = tuple(cameras)
        self.judges = nn.ModuleList(PatchDiscriminator(**options) for _ in cameras)

    def forward(self, images: Tensor, camera: Tensor) -> Tensor:
        """As `PatchDiscriminator.forward`."""
        return routed(dict(zip(self.cameras, self.judges)), images, camera)


def least_squares(answers: Tensor, real: bool) -> Tensor:
    """The adversarial loss of Mao et al. (ICCV 2017): the mean squared distance of answers from 1 or 0."""
    return (answers.float() - float(real)).square().mean()
