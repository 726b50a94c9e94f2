"""Strips as the authors of Pose2ID write them: a reference, then each pose and the person in it.

Their script has quirks, which `official=True` repeats: features of references and weights of the autoencoder
are rounded through float16, and one generator of noise, seeded once, serves all references in turn, so that
pixels depend on what came before. Otherwise each picture has noise of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor
from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.data.images.reading import is_image, readable_images
from torchreid_genext.data.store import pose_order
from torchreid_genext.generation import picture_seed
from torchreid_genext.generators.ipg import IPGPipeline, Poses

__all__ = ["OFFICIAL_SEED", "read_folder", "strip", "write_strips"]

OFFICIAL_SEED = 12580
_DARK = 48  # grey levels; limbs are brighter, and the rests of JPEG are darker
_CELL = (128, 256)  # width and height of a picture in a strip
_log = logging.getLogger(__name__)


def read_folder(folder: str | Path) -> dict[str, Image.Image]:
    """All images of a folder by file name, in the order of people: 2.jpg before 10.jpg.

    One that cannot be read is left out, with a warning; files that are no images are passed over.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no image in it.
    """
    folder, faults = Path(folder).expanduser(), {}
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder of images, got no folder {str(folder)!r}")
    files = sorted(filter(is_image, folder.iterdir()), key=lambda path: pose_order(path.stem))
    images = {files[row].name: image for row, image in readable_images(files, faults)}
    for row, fault in faults.items():
        _log.warning("left out, since it cannot be read: %s: %s", files[row], fault)
    if not images:
        raise ValueError(f"expected images in {str(folder)!r}, got none that can be read")
    return images


def strip(reference: Image.Image, poses: Sequence[Image.Image], made: Tensor) -> Image.Image:
    """A reference, then each pose and what was made of it, side by side.

    Args:
        reference, poses: of any size.
        made: images (P, 3, H, W) in [0, 1], one a pose; cut off to whole grey levels, as officially.

    Returns:
        128 (1 + 2 P) x 256 pixels.
    """
    levels = (made * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    pairs = [cell for pose, image in zip(poses, levels) for cell in (pose, Image.fromarray(image))]
    cells = [image.resize(_CELL, Image.Resampling.BICUBIC) for image in (reference, *pairs)]
    canvas = Image.new("RGB", (_CELL[0] * len(cells), _CELL[1]))
    for column, cell in enumerate(cells):
        canvas.paste(cell, (column * _CELL[0], 0))
    return canvas


def write_strips(
    pipe: IPGPipeline,
    references: Mapping[str, Image.Image],
    poses: Mapping[str, Image.Image],
    folder: str | Path,
    *,
    seed: int = OFFICIAL_SEED,
    swap_pose_channels: bool = True,
    official: bool = False,
    **options: Any,
) -> Iterator[Path]:
    """A strip for each reference, under its name, as PNG where the name has another suffix than .png.

    Strips that are there are kept, so an interrupted run goes on; not if `official`, where each depends on
    those before.

    Args:
        pipe: draws.
        references: by file name.
        poses: drawn skeletons, in order.
        folder: for the strips.
        seed: of the noise.
        swap_pose_channels: as of the pipeline; the authors read the colours of files the wrong way round.
        official: with their quirks, see above.
        options: of the pipeline's call, such as its height and width.

    Yields:
        The file of each strip, once it is there.

    Raises:
        ValueError: if a pose has no skeleton, or as the pipeline's call.
    """
    _check_drawn(poses)
    size = (options.get("height", 512), options.get("width", 256))
    looked_at = pipe.look_at_poses([*poses.values()], *size, swap=swap_pose_channels)
    if official:
        _round(pipe)
    shared = Generator().manual_seed(seed)
    for name, reference in tqdm(references.items(), unit="reference", disable=None):
        path = Path(folder, f"{Path(name).stem}.png")
        if official or not path.is_file():
            noise = shared if official else _noise(seed, name, poses)
            made = _made(pipe, reference, looked_at, noise, official, options)
            with checkpoints.atomic_path(path) as temporary:
                strip(reference, [*poses.values()], made).save(temporary, "PNG")
        yield path


def _check_drawn(poses: Mapping[str, Image.Image]) -> None:
    for name, pose in poses.items():
        if max(high for _, high in pose.getextrema()) < _DARK:
            raise ValueError(f"expected a drawn skeleton in {name}, got a black picture")


def _made(
    pipe: IPGPipeline,
    reference: Image.Image,
    poses: Poses,
    noise: Generator | list[Generator],
    official: bool,
    options: Mapping[str, Any],
) -> Tensor:
    bank = torch.float16 if official else None
    return pipe(reference, poses, generator=noise, bank_dtype=bank, output_type="pt", **options).images


def _noise(seed: int, reference: str, poses: Mapping[str, Image.Image]) -> list[Generator]:
    return [Generator().manual_seed(picture_seed(seed, reference, pose)) for pose in poses]


def _round(pipe: IPGPipeline) -> None:
    """Take from the autoencoder's weights what float16 cannot hold."""
    for parameter in pipe.vae.parameters():
        parameter.data = parameter.data.half().to(parameter.dtype)
