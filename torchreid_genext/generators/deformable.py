"""People in other poses by deformable skip connections: the Deformable GAN.

Siarohin et al., "Deformable GANs for Pose-based Human Image Generation", CVPR 2018. One encoder sees the
person, another the pose that is wanted; what the first one sees of each body part is carried to where the
part shall be, and a decoder draws the person there.

The authors' command line starts with a spatial transformer in place of the paper's parts; the paper's are the
default here, and the transformer is left out. Where their code divides by zero, a part is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchreid_genext.generators._deformable_drawing import person_mask, stickman
from torchreid_genext.generators._deformable_losses import (
    OrientedGradients,
    VGG19Features,
    deceiving_loss,
    discriminating_loss,
    nearest_neighbour_map,
)
from torchreid_genext.generators._deformable_networks import Decoder, Down, Encoder, initialize
from torchreid_genext.generators._deformable_parts import (
    HEATMAP_SIGMA,
    check_keypoints,
    has_torso,
    heatmaps,
    part_masks,
)
from torchreid_genext.generators._deformable_transforms import ESTIMATORS, part_transforms, uniform_transform
from torchreid_genext.generators._deformable_warp import AGGREGATIONS, Fetched, carried, fetched
from torchreid_genext.generators._layers import check_halves, check_image_size, check_widths
from torchreid_genext.generators._saving import Saved

__all__ = [
    "OFFICIAL_DECODER", "OFFICIAL_DISCRIMINATOR", "OFFICIAL_ENCODER", "SKIPS",
    "DeformableGAN", "Discriminator", "OrientedGradients", "VGG19Features",
    "deceiving_loss", "discriminating_loss", "has_torso", "nearest_neighbour_map", "person_mask", "stickman",
]  # fmt: skip

OFFICIAL_ENCODER = (64, 128, 256, 512, 512, 512)
OFFICIAL_DECODER = (512, 512, 512, 256, 128)
OFFICIAL_DISCRIMINATOR = (64, 128, 256, 512)
SKIPS = ("deformable", "full", "none")
_UNWARPED = 2  # of the deepest levels
_POSES = {"heatmaps": 18, "stickman": 3}  # channels


class DeformableGAN(Saved):
    """Images of people to images of them in other poses.

    Args:
        image_size: height and width, each a multiple of 2 for every level but the first.
        encoder: channels of each level, the full resolution first.
        decoder: channels of each level but the full resolution of the output, the deepest first.
        skips: what joins encoder and decoder. ``deformable``: parts in their new places; ``full``: one
            affine transform for all of the body; ``none``: one encoder for both poses, and no transform.
        aggregation: what parts that meet make of a pixel, see `warp`: ``max`` (official), ``avg`` or
            ``masked_max``.
        estimator: of transforms: ``dlt`` (official) or ``least_squares``.
        poses: how the networks see them: ``heatmaps`` or ``stickman``.
        sigma: of heat-maps, in pixels; officially 6 in images of 128 x 64, and as much in proportion by
            default.
        dropout: share of channels' places that the decoder forgets in training.

    Raises:
        ValueError: if a word is unknown, widths do not fit together, or the size does not halve evenly.
    """

    kind = "deformable"

    def __init__(
        self,
        image_size: Sequence[int] = (128, 64),
        *,
        encoder: Sequence[int] = OFFICIAL_ENCODER,
        decoder: Sequence[int] = OFFICIAL_DECODER,
        skips: str = "deformable",
        aggregation: str = "max",
        estimator: str = "dlt",
        poses: str = "heatmaps",
        sigma: float | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check_words(skips=(skips, SKIPS), aggregation=(aggregation, AGGREGATIONS),
                     estimator=(estimator, ESTIMATORS))  # fmt: skip
        check_widths(encoder, 1)
        check_halves(image_size, len(encoder) - 1)
        if len(decoder) != len(encoder) - 1:
            raise ValueError(f"expected {len(encoder) - 1} widths of the decoder, got {len(decoder)}")
        self.config = {
            "image_size": list(image_size), "encoder": list(encoder), "decoder": list(decoder),
            "skips": skips, "aggregation": aggregation, "estimator": estimator, "poses": poses,
            "sigma": sigma, "dropout": dropout,
        }  # fmt: skip
        self.image_size = tuple(image_size)
        self.skips, self.aggregation, self.estimator = skips, aggregation, estimator
        self.draw = _PoseMaps(poses, self.image_size, sigma)
        if skips == "none":
            self.encoder = Encoder(3 + 2 * self.draw.channels, encoder)
        else:
            self.appearance = Encoder(3 + self.draw.channels, encoder)
            self.pose = Encoder(self.draw.channels, encoder)
        self.decoder = Decoder([width * (1 if skips == "none" else 2) for width in encoder], decoder, dropout)
        initialize(self)

    def forward(
        self, images: Tensor, keypoints: Tensor, targets: Tensor, geometry: Sequence[Fetched] | None = None
    ) -> Tensor:
        """Draw people in other poses.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            keypoints: their joints, (B, 18, 2) of (y, x) pixels; negative in either coordinate if missing.
            targets: the joints that are wanted, likewise.
            geometry: what `geometry` says of these poses, if that is known already.

        Returns:
            (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: if images or keypoints have another size.
        """
        check_image_size(images, self.image_size)
        check_keypoints(keypoints, len(images))
        check_keypoints(targets, len(images))
        own, wanted = (self.draw(each).to(images.dtype) for each in (keypoints, targets))
        if self.skips == "none":
            return self.decoder(self.encoder(torch.cat([images, own, wanted], 1)))
        appearance, pose = self.appearance(torch.cat([images, own], 1)), self.pose(wanted)
        geometry = self.geometry(keypoints, targets) if geometry is None else geometry
        moved = [each.to(images.device) for each in geometry]
        near = [carried(*pair, how=self.aggregation) for pair in zip(appearance, moved)]
        return self.decoder([torch.cat(pair, 1) for pair in zip([*near, *appearance[len(near) :]], pose)])

    @torch.no_grad()
    def geometry(self, keypoints: Tensor, targets: Tensor) -> tuple[Fetched, ...]:
        """What of each level is fetched for which place, between poses (B, 18, 2) and others.

        It depends on joints alone, is computed on the CPU, since it needs float64 and its sizes are those of
        what is found, and is left there: a training knows it before an accelerator is ready for it.
        """
        if self.skips == "none":
            return ()
        keypoints, targets = keypoints.cpu(), targets.cpu()
        if self.skips == "full":
            transforms = uniform_transform(keypoints, targets, estimator=self.estimator)
            masks = torch.ones((), dtype=torch.bool).expand(len(transforms), 1, *self.image_size)
        else:
            transforms = part_transforms(keypoints, targets, estimator=self.estimator)
            masks = part_masks(targets, self.image_size)
        levels = range(max(len(self.config["encoder"]) - _UNWARPED, 0))
        return tuple(fetched(transforms, masks, 2**level, how=self.aggregation) for level in levels)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        keypoints: Tensor,
        targets: Tensor,
        *,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """As `forward`, without gradients and in float32; nothing is drawn at random in evaluation mode.

        Args:
            images, keypoints, targets: as of `forward`.
            generators: not needed; they are those of the interface that all pose generators share.

        Raises:
            ValueError: as `forward`.
        """
        dtype = next(self.parameters()).dtype
        return self(images.to(dtype), keypoints, targets).float().clamp(-1, 1)


class Discriminator(nn.Module):
    """Whether the second of two pictures is real, given both poses and the first, in several places.

    Args:
        image_size: height and width.
        widths: channels of each level; officially 64, 128, 256, 512.
        poses, sigma: as of `DeformableGAN`.

    Raises:
        ValueError: if the images are too small for so many levels, or `poses` is unknown.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (128, 64),
        *,
        widths: Sequence[int] = OFFICIAL_DISCRIMINATOR,
        poses: str = "heatmaps",
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.image_size = tuple(image_size)
        self.draw = _PoseMaps(poses, self.image_size, sigma)
        _check_levels(self.image_size, len(widths))
        self.stem = nn.Conv2d(2 * (3 + self.draw.channels), widths[0], 4, stride=2)
        outputs = [*widths[1:], 1]
        self.down = nn.ModuleList(
            Down(i, o, normalize=level < len(outputs)) for level, (i, o) in enumerate(zip(widths, outputs), 1)
        )
        initialize(self)

    def forward(self, images: Tensor, keypoints: Tensor, others: Tensor, targets: Tensor) -> Tensor:
        """Judge pictures of people.

        Args:
            images: the first of each pair, (B, 3, H, W) in [-1, 1]; keypoints: their joints, (B, 18, 2).
            others: the second, real or generated, likewise; targets: their joints, likewise.

        Returns:
            Probabilities that the second is real, (B, places) float32.

        Raises:
            ValueError: if images or keypoints have another size.
        """
        check_image_size(images, self.image_size)
        check_image_size(others, self.image_size)
        check_keypoints(keypoints, len(images))
        check_keypoints(targets, len(images))
        own, wanted = (self.draw(each).to(images.dtype) for each in (keypoints, targets))
        x = self.stem(torch.cat([images, own, others, wanted], 1))
        for level in self.down:
            x = level(x)
        return x.flatten(1).float().sigmoid()


class _PoseMaps:
    """Draws poses (B, 18, 2) as maps (B, channels, H, W)."""

    def __init__(self, poses: str, size: tuple[int, int], sigma: float | None) -> None:
        _check_words(poses=(poses, _POSES))
        self.poses, self.size, self.channels = poses, size, _POSES[poses]
        self.sigma = HEATMAP_SIGMA * size[0] / 128 if sigma is None else sigma
        if not self.sigma > 0:
            raise ValueError(f"expected sigma > 0, got {sigma}")

    def __call__(self, keypoints: Tensor) -> Tensor:
        if self.poses == "stickman":
            return stickman(keypoints, self.size)
        return heatmaps(keypoints, self.size, self.sigma)


def _check_words(**words: tuple[str, Sequence[str]]) -> None:
    for what, (word, choices) in words.items():
        if word not in choices:
            raise ValueError(f"unknown {what} {word!r}; choose from {', '.join(choices)}")


def _check_levels(size: tuple[int, int], widths: int) -> None:
    sides = [(side - 4) // 2 + 1 for side in size]
    for _ in range(widths):
        sides = [(side - 2) // 2 + 1 for side in sides]
    if widths < 1 or min(sides) < 1:
        raise ValueError(f"expected images large enough for {widths} widths, got {size[0]} x {size[1]}")
