"""PG2: a person in another pose, in two stages.

"Pose Guided Person Image Generation" (Ma et al., NIPS 2017). Stage I draws the person of an image in a pose,
coarsely; stage II adds what is missing, a difference map, and learns from a discriminator as well.

Numbers follow the authors' code, not the paper, where they differ: borders of convolutions are TensorFlow's
"SAME", stage II's decoder keeps one width, and nothing is squashed into [-1, 1] before the very end. Their
code does not have the paper's discriminator of pairs, however; here it is, and theirs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_genext.generators._layers import check_image_size, initialize
from torchreid_genext.generators._pg2_layers import Halving, Residual, conv, doubled, levels, two_convs
from torchreid_genext.generators._pg2_poses import BODY, JOINTS, RADIUS, pose_maps, pose_mask
from torchreid_genext.generators._saving import Saved

__all__ = [
    "ARRANGEMENTS", "BODY", "PG2", "RADIUS", "Discriminator", "StageOne", "StageTwo", "Verdict",
    "adversarial_loss", "discriminator_loss", "pose_maps", "pose_mask", "reconstruction_loss",
    "refinement_loss",
]  # fmt: skip

ARRANGEMENTS = ("pairwise", "official")


class StageOne(nn.Module):
    """Image and target pose to a coarse image; the deepest level passes through one vector.

    Args:
        image_size: height and width.
        width: channels of the first level; the second has twice as many, the third three times, ...
        code: numbers in the vector.
    """

    def __init__(self, image_size: tuple[int, int], width: int, code: int) -> None:
        super().__init__()
        widths = [width * (level + 1) for level in range(levels(image_size))]
        self.small = width, *(side // 2 ** (len(widths) - 1) for side in image_size)
        area = self.small[1] * self.small[2]
        joined = [width + widths[-1], *(2 * each for each in widths[-2::-1])]
        self.stem = conv(3 + JOINTS, width)
        self.down = nn.ModuleList(map(Residual, widths))
        self.halve = nn.ModuleList(Halving(*pair) for pair in pairwise(widths))
        self.encode = nn.Linear(widths[-1] * area, code)
        self.decode = nn.Linear(code, width * area)
        self.up = nn.ModuleList(map(Residual, joined))
        self.narrow = nn.ModuleList(conv(i, o, kernel=1) for i, o in zip(joined, widths[-2::-1]))
        self.head = conv(joined[-1], 3)
        initialize(self)

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] and `pose_maps` (B, 18, H, W) to coarse images (B, 3, H, W)."""
        x, skips = F.relu(self.stem(torch.cat([images, poses], dim=1))), []
        for block, halve in zip(self.down, [*self.halve, None]):
            skips.append(x := block(x))
            x = F.relu(halve(x)) if halve else x
        x = self.decode(self.encode(x.flatten(1))).unflatten(1, self.small)
        for block, narrow in zip(self.up, [*self.narrow, None]):
            x = block(torch.cat([x, skips.pop()], dim=1))
            x = doubled(F.relu(narrow(x))) if narrow else x  # as after doubling, with a quarter of the work
        return self.head(x)


class StageTwo(nn.Module):
    """Coarse image and reference to what the coarse image lacks; two levels fewer, and no vector.

    Args:
        image_size: height and width.
        width: channels of the first level and of the way up.
    """

    def __init__(self, image_size: tuple[int, int], width: int) -> None:
        super().__init__()
        widths = [width * (level + 1) for level in range(levels(image_size) - 2)]
        inputs = [widths[-1], *[width] * (len(widths) - 1)]
        skips = [*widths[:0:-1], 0]  # the first of them is what the way up begins with, once more
        self.stem = conv(6, width)
        self.down = nn.ModuleList(two_convs(i, o) for i, o in zip([width, *widths], widths))
        self.halve = nn.ModuleList(Halving(each, each) for each in widths[:-1])
        self.up = nn.ModuleList(two_convs(below + skip, width) for below, skip in zip(inputs, skips))
        self.head = conv(width, 3)
        initialize(self)

    def forward(self, coarse: Tensor, images: Tensor) -> Tensor:
        """Coarse images and references, (B, 3, H, W) each, to differences (B, 3, H, W)."""
        x, skips = F.relu(self.stem(torch.cat([coarse, images], dim=1))), []
        for block, halve in zip(self.down, [*self.halve, None]):
            skips.append(x := block(x))
            x = F.relu(halve(x)) if halve else x
        for level, block in enumerate(self.up):
            x = doubled(x) if level else x
            x = block(torch.cat([x, skips.pop()], dim=1) if skips[1:] else x)
        return self.head(x)


class PG2(Saved):
    """Both stages.

    Args:
        image_size: height, 32 at least, and width; both halve evenly at every level of stage I.
        width: channels of the first level of both stages; officially 128.
        code: numbers to which stage I reduces an image and a pose; officially 64.
        radius: of the discs that show joints, in pixels; officially 4, on images of 128 x 64.

    Raises:
        ValueError: if the image size is not possible.
    """

    kind = "pg2"

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 64),
        *,
        width: int = 128,
        code: int = 64,
        radius: int = RADIUS,
    ) -> None:
        super().__init__()
        self.image_size, self.radius = tuple(image_size), radius
        self.stage1 = StageOne(self.image_size, width, code)
        self.stage2 = StageTwo(self.image_size, width)
        self.config = {"image_size": list(image_size), "width": width, "code": code, "radius": radius}

    def coarse(self, images: Tensor, targets: Tensor) -> Tensor:
        """Stage I.

        Args:
            images: references (B, 3, H, W) in [-1, 1].
            targets: keypoints wanted, (B, 18, 2).

        Returns:
            (B, 3, H, W), about in [-1, 1].

        Raises:
            ValueError: if images or keypoints have another size, or there are not as many of both.
        """
        check_image_size(images, self.image_size)
        if len(targets) != len(images):
            raise ValueError(f"expected keypoints of {len(images)} images, got those of {len(targets)}")
        poses = pose_maps(targets.to(images.device), self.image_size, radius=self.radius)
        return self.stage1(images, poses.to(images.dtype))

    def refined(self, coarse: Tensor, images: Tensor) -> Tensor:
        """Stage II: coarse images with their difference map, of coarse ones and references (B, 3, H, W)."""
        return coarse + self.stage2(coarse, images)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """As `coarse`, by both stages."""
        return self.refined(self.coarse(images, targets), images)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        keypoints: Tensor,
        targets: Tensor,
        *,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Draw people in other poses.

        Args:
            images: references (B, 3, H, W) in [-1, 1].
            keypoints: theirs, (B, 18, 2); PG2 does not look at them.
            targets: keypoints wanted, (B, 18, 2) of (y, x) pixels, negative where missing.
            generators: one an image; PG2 draws no noise.

        Returns:
            Images (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: as `coarse`.
        """
        return self(images.to(self.stage1.stem.weight), targets).float().clamp(-1, 1)


class Verdict(NamedTuple):
    """How real a discriminator holds images, as logits (B,).

    Attributes:
        real: of targets.
        refined: of what stage II made of them.
        others: of what else is not real, (B,) each.
    """

    real: Tensor
    refined: Tensor
    others: tuple[Tensor, ...] = ()


class Discriminator(nn.Module):
    """DCGAN's, with uneven borders; BatchNorm takes its statistics from the batch, always.

    Args:
        image_size: height and width.
        arrangement: what is told apart. ``pairwise``, as in the paper: the reference beside its target from
            the reference beside what was made of it. ``official``, as in the authors' code: targets, alone,
            from references and what was made of them; coarse images only take part in BatchNorm's statistics.
            Trained alike for 1,000 steps on SynthReID, it led nearer to the truth: the default.
        width: channels of the first layer; each of the other three doubles them.

    Raises:
        ValueError: if the arrangement is unknown.
    """

    def __init__(
        self, image_size: tuple[int, int] = (128, 64), *, arrangement: str = "official", width: int = 64
    ) -> None:
        super().__init__()
        if arrangement not in ARRANGEMENTS:
            raise ValueError(f"unknown arrangement {arrangement!r}; choose from {', '.join(ARRANGEMENTS)}")
        self.arrangement = arrangement
        widths = [3 if arrangement == "official" else 6, *(width * 2**layer for layer in range(4))]
        area = -(-image_size[0] // 16) * -(-image_size[1] // 16)
        self.convs = nn.ModuleList(Halving(*pair, kernel=5) for pair in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(each, track_running_stats=False) for each in widths[2:])
        self.head = nn.Linear(widths[-1] * area, 1)
        self._initialize()

    def _initialize(self) -> None:
        bound = 0.02 * 3**0.5  # a standard deviation of 0.02
        for layer in (*self.convs, self.head):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), or pairs of them (B, 6, H, W), to logits (B,)."""
        for halve, norm in zip(self.convs, [nn.Identity(), *self.norms]):
            x = F.leaky_relu(norm(halve(x)), 0.2)
        return self.head(x.flatten(1)).flatten()

    def judge(self, targets: Tensor, images: Tensor, coarse: Tensor, refined: Tensor) -> Verdict:
        """Targets, references, coarse and refined images, (B, 3, H, W) each, in one pass."""
        if self.arrangement == "pairwise":
            pairs = [torch.cat([images, each], dim=1) for each in (targets, refined)]
            return Verdict(*self(torch.cat(pairs)).chunk(2))
        real, reference, _, last = self(torch.cat([targets, images, coarse, refined])).chunk(4)
        return Verdict(real, last, (reference,))


def reconstruction_loss(images: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Stage I's loss: the mean absolute error, and once more that of the body.

    Args:
        images, targets: (B, 3, H, W).
        mask: `pose_mask` (B, 1, H, W) of the targets. The second mean is over all pixels, too.
    """
    error = (images.float() - targets.float()).abs()
    return error.mean() + (error * mask).mean()


def adversarial_loss(logits: Tensor) -> Tensor:
    """Of logits (B,) that should say real."""
    return F.softplus(-logits.float()).mean()


def refinement_loss(
    logits: Tensor, images: Tensor, targets: Tensor, mask: Tensor, *, weight: float = 10.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Stage II's loss: `adversarial_loss` of logits (B,), `reconstruction_loss` with a weight; and both."""
    parts = {
        "adversarial": adversarial_loss(logits),
        "reconstruction": reconstruction_loss(images, targets, mask),
    }
    return parts["adversarial"] + weight * parts["reconstruction"], parts


def discriminator_loss(verdict: Verdict) -> Tensor:
    """Half for what is real, and half shared by all that is not."""
    fakes = torch.stack([adversarial_loss(-each) for each in (verdict.refined, *verdict.others)])
    return (adversarial_loss(verdict.real) + fakes.mean()) / 2
