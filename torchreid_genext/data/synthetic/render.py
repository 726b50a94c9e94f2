"""One picture of one person: identity, pose, view and camera in, image and exact joints out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from torchreid_genext.data.synthetic.body import Pose, Projection, View, skeleton
from torchreid_genext.data.synthetic.cameras import Camera, expose
from torchreid_genext.data.synthetic.canvas import Canvas
from torchreid_genext.data.synthetic.figure import Part, draw_person, visible_joints
from torchreid_genext.data.synthetic.obstacles import Occluder, draw_occluder
from torchreid_genext.data.synthetic.people import (
    Colour,
    Identity,
    Material,
    random_identity,
)
from torchreid_genext.data.synthetic.scenes import scene, window

SUPERSAMPLING = 2
_MARGIN = 1.1  # height of the crop, in heights of the person
_FEET = 0.96  # where the feet stand, from the crop's top
_PASSER_BY = 0.08  # share of pictures with somebody else in the background


@dataclass(frozen=True)
class Rendering:
    """A picture and the truth about it.

    Attributes:
        image: RGB.
        joints: (18, 2) float64, exact (y, x) in pixels of the image, pixel centres at whole numbers; may
            lie outside.
        visible: (18,) bool, false where the body, an occluder or the border hides the joint.
    """

    image: Image.Image
    joints: np.ndarray
    visible: np.ndarray


def render(
    identity: Identity,
    pose: Pose,
    view: View,
    camera: Camera,
    *,
    occluder: Occluder | None = None,
    infrared: bool = False,
    seed: int | tuple[int, ...] = 0,
    size: tuple[int, int] = (128, 64),
) -> Image.Image:
    """Draw a person as a camera's crop.

    Args:
        identity: who (`random_identity`, or any other).
        pose: what the joints do.
        view: from where, and how the crop is cut.
        camera: one of `CAMERAS`, or any other.
        occluder: what stands before the person.
        infrared: the picture under an infrared lamp, grey in three equal channels.
        seed: everything accidental: background window, detector jitter, exposure, noise. Equal arguments
            give equal pixels.
        size: (height, width) in pixels.

    Returns:
        An RGB image of that size.
    """
    return render_with_joints(
        identity, pose, view, camera, occluder=occluder, infrared=infrared, seed=seed, size=size
    ).image


def render_with_joints(
    identity: Identity,
    pose: Pose,
    view: View,
    camera: Camera,
    *,
    occluder: Occluder | None = None,
    infrared: bool = False,
    seed: int | tuple[int, ...] = 0,
    size: tuple[int, int] = (128, 64),
) -> Rendering:
    """As `render`, with the 18 joints and their visibility."""
    rng = np.random.default_rng(seed)
    canvas = _canvas(camera, infrared, size)
    bones = skeleton(identity.body, pose)
    projection = _crop(identity.body.height, view, camera, rng, canvas)
    _pass_by(canvas, projection, rng)
    draw_person(canvas, projection, identity, bones)
    if occluder is not None:
        _stand_before(canvas, projection, occluder)
    image = _develop(canvas, camera, rng, infrared, size, _shadow(projection, size))
    spots = np.array([projection(*joint)[1::-1] for joint in bones.joints])
    visible = np.array(visible_joints(canvas, projection, bones))
    # the middle of a pixel lies between the middles of those it was made of
    return Rendering(image, (spots + 0.5) / SUPERSAMPLING - 0.5, visible)


def render_scene(
    camera: Camera,
    *,
    occluder: Occluder | None = None,
    infrared: bool = False,
    seed: int | tuple[int, ...] = 0,
    size: tuple[int, int] = (128, 64),
) -> Image.Image:
    """A crop without a person, as a detector that errs would cut it: a distractor."""
    rng = np.random.default_rng(seed)
    canvas = _canvas(camera, infrared, size)
    if occluder is not None:
        projection = _crop(1.7, View(), camera, rng, canvas)
        _stand_before(canvas, projection, occluder)
    return _develop(canvas, camera, rng, infrared, size, None)


def _canvas(camera: Camera, infrared: bool, size: tuple[int, int]) -> Canvas:
    ink = _infrared_ink if infrared else _visible_ink
    return Canvas(SUPERSAMPLING * size[1], SUPERSAMPLING * size[0], ink, 0.0 if infrared else camera.lamp)


def _visible_ink(material: Material) -> Colour:
    return material.colour


def _infrared_ink(material: Material) -> Colour:
    grey = round(235 * material.infrared)
    return grey, grey, grey


def _crop(height: float, view: View, camera: Camera, rng: np.random.Generator, canvas: Canvas) -> Projection:
    """Where the detector's box puts the body on the canvas."""
    width, tall = canvas.size
    miss = camera.jitter * rng.standard_normal(4)
    scale = view.zoom * tall / (_MARGIN * height * (1 + miss[0]))
    middle = (0.5 - view.shift[0] + 1.2 * miss[1]) * width
    feet = (0.5 + view.zoom * (_FEET - 0.5) - view.shift[1] + 0.6 * miss[2]) * tall
    return Projection(view.yaw, camera.pitch, (middle, feet), (scale * camera.stretch * (1 + miss[3]), scale))


def _pass_by(canvas: Canvas, projection: Projection, rng: np.random.Generator) -> None:
    """Sometimes somebody else walks in the background."""
    chance, who, place, yaw, phase = rng.random(5)
    if chance < _PASSER_BY:
        side = 1 if place > 0.5 else -1
        aside, up = side * (0.3 + 0.35 * place) * canvas.size[0], 0.05 * canvas.size[1]
        origin = projection.origin[0] + aside, projection.origin[1] - up
        _stranger(canvas, projection, int(who * 1e6), origin, 0.86, 360 * yaw, phase)


def _stand_before(canvas: Canvas, projection: Projection, occluder: Occluder) -> None:
    if occluder.kind != "pedestrian":
        draw_occluder(canvas, occluder, int(Part.OTHER))
        return
    rng = np.random.default_rng([12, occluder.seed])
    origin = (0.5 + 0.5 * occluder.place) * canvas.size[0], projection.origin[1] + 0.12 * canvas.size[1]
    _stranger(canvas, projection, occluder.seed, origin, 1.08, 360 * rng.random(), rng.random())


def _stranger(
    canvas: Canvas,
    projection: Projection,
    who: int,
    origin: tuple[float, float],
    size: float,
    yaw: float,
    phase: float,
) -> None:
    identity = random_identity((13, who))
    view = Projection(yaw, 10, origin, (size * projection.scale[0], size * projection.scale[1]))
    draw_person(canvas, view, identity, skeleton(identity.body, Pose(phase, 0.9)), other=True)


def _shadow(projection: Projection, size: tuple[int, int]) -> np.ndarray:
    """How dark the ground is under the feet: a factor per pixel, (H, W, 1)."""
    x, y = (o / SUPERSAMPLING for o in projection.origin)
    reach = 0.32 * projection.scale[0] / SUPERSAMPLING
    down, across = (np.arange(n, dtype=np.float32) for n in size)
    away = ((across[None, :] - x) / reach) ** 2 + ((down[:, None] - y) / (0.22 * reach)) ** 2
    return (1 - 0.45 * np.exp(-away))[..., None]


def _develop(
    canvas: Canvas,
    camera: Camera,
    rng: np.random.Generator,
    infrared: bool,
    size: tuple[int, int],
    shadow: np.ndarray | None,
) -> Image.Image:
    behind = window(scene(camera.scene, size, infrared), size, rng)
    if shadow is not None:
        behind = behind * shadow
    person, alpha = canvas.flatten(SUPERSAMPLING)
    return expose(person + (1 - alpha) * behind, camera, rng, infrared=infrared)
