"""Contact sheets: the same people before every camera, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from torchreid_genext.data.synthetic.body import Pose, View
from torchreid_genext.data.synthetic.cameras import CAMERAS, Camera
from torchreid_genext.data.synthetic.obstacles import OCCLUDERS, Occluder
from torchreid_genext.data.synthetic.people import Identity, random_identity
from torchreid_genext.data.synthetic.render import render

_GAP, _HEADER = 2, 13


def contact_sheet(
    identities: int | Sequence[Identity] = 8,
    *,
    cameras: Sequence[Camera] = CAMERAS,
    seed: int = 0,
    size: tuple[int, int] = (128, 64),
    labels: bool = True,
) -> Image.Image:
    """Identities in rows; in columns every camera, then once in infrared and once occluded.

    Args:
        identities: the people, or how many to invent.
        cameras: the columns before the last two.
        seed: people (if invented), views and moments.
        size: (height, width) of each picture.
        labels: write what each column shows above it.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there is nobody to show.
    """
    people = (
        [random_identity((4, seed, i)) for i in range(identities)]
        if isinstance(identities, int)
        else list(identities)
    )
    if not people:
        raise ValueError("expected at least one identity, got none")
    header = _HEADER if labels else 0
    columns = [*(camera.scene for camera in cameras), "infrared", "occluded"]
    sheet = Image.new(
        "RGB", (len(columns) * (size[1] + _GAP), header + len(people) * (size[0] + _GAP)), "white"
    )
    for row, person in enumerate(people):
        for column, image in enumerate(_row(person, cameras, row, seed, size)):
            sheet.paste(image, (column * (size[1] + _GAP), header + row * (size[0] + _GAP)))
    if labels:
        _write(sheet, columns, size[1] + _GAP)
    return sheet


def _row(
    person: Identity, cameras: Sequence[Camera], row: int, seed: int, size: tuple[int, int]
) -> list[Image.Image]:
    rng = np.random.default_rng([8, seed, row])
    hidden = Occluder(OCCLUDERS[row % len(OCCLUDERS)], 0.5 * (-1) ** row, 0.5, row)
    extras = [
        (cameras[(row + 2) % len(cameras)], {"infrared": True}),
        (cameras[row % len(cameras)], {"occluder": hidden}),
    ]
    images = []
    for column, (camera, options) in enumerate([(camera, {}) for camera in cameras] + extras):
        yaw = 180 * (column % 2) + 75 * (column % 3) * (-1) ** row + 15 * rng.standard_normal()
        pose = Pose(float(rng.random()), stride=0.1 if column % 4 == 3 else 0.95)
        images.append(
            render(person, pose, View(yaw), camera, seed=(9, seed, row, column), size=size, **options)
        )
    return images


def _write(sheet: Image.Image, columns: Sequence[str], step: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(columns):
        draw.text((column * step + step / 2, 1), text, "black", anchor="ma")
