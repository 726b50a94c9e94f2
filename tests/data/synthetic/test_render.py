"""Pictures: equal arguments give equal pixels, joints lie on the body, what is behind something is hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.synthetic import (
    CAMERAS,
    OCCLUDERS,
    Bag,
    Camera,
    Garment,
    Identity,
    Material,
    Occluder,
    Pose,
    Rendering,
    View,
    contact_sheet,
    random_identity,
    render,
    render_scene,
    render_with_joints,
)

PINNED = Path(__file__).parent.parent / "vectors" / "synthreid_pixels.png"
PERSON = random_identity((1, 0))
# a camera that changes nothing: no tilt, no tint, no noise, no error of the detector
PLAIN = Camera(0, "plaza", 0, (1, 1, 1), 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)


def clear(identity: Identity = PERSON, pose: Pose = Pose(), yaw: float = 0.0, **options: object) -> Rendering:
    return render_with_joints(identity, pose, View(yaw), PLAIN, seed=1, **options)


def seen(picture: Rendering) -> set[str]:
    return {name for name, visible in zip(JOINTS, picture.visible, strict=True) if visible}


def painted(material: Material) -> Identity:
    """Somebody all of whose skin, clothes and hair are of one material, without bag or hat."""
    top = Garment("vest", 0.0, material, material, "plain")
    head = replace(PERSON.head, hair="bald", hair_material=material, hat="none", glasses=False)
    bottom = Garment("shorts", 0.3, material, material, "plain")
    return replace(
        PERSON, skin=material, head=head, top=top, bottom=bottom, shoes=material, bag=None, badge=None
    )


def test_equal_arguments_give_equal_pixels_whatever_was_drawn_before() -> None:
    arguments = (PERSON, Pose(0.3, 1.0), View(40), CAMERAS[1])
    first = np.asarray(render(*arguments, seed=(3, 4)))
    np.random.seed(99)
    render(random_identity((1, 9)), Pose(), View(), CAMERAS[2], seed=5)
    assert np.array_equal(first, np.asarray(render(*arguments, seed=(3, 4))))
    assert not np.array_equal(first, np.asarray(render(*arguments, seed=(3, 5))))


def test_render_is_the_image_of_render_with_joints() -> None:
    arguments = (PERSON, Pose(0.3, 1.0), View(40), CAMERAS[1])
    assert np.array_equal(render(*arguments, seed=7), render_with_joints(*arguments, seed=7).image)


@pytest.mark.parametrize("size", [(128, 64), (256, 128), (64, 32)])
def test_size_is_height_and_width(size: tuple[int, int]) -> None:
    picture = clear(size=size)
    assert picture.image.size == size[::-1] and picture.image.mode == "RGB"
    np.testing.assert_allclose(picture.joints / size[0], clear().joints / 128, atol=0.02)


@pytest.mark.parametrize("yaw", range(0, 360, 30))
def test_visible_joints_lie_on_the_person(yaw: int) -> None:
    """A person painted magenta: the pixel under every visible joint is magenta too."""
    picture = clear(painted(Material((230, 20, 230), 0.5)), Pose(0.1, 1.0), yaw)
    pixels = np.asarray(picture.image).astype(int)
    for (y, x), name, visible in zip(
        np.rint(picture.joints).astype(int), JOINTS, picture.visible, strict=True
    ):
        # eyes and mouth keep their own colour
        if visible and name not in ("nose", "right_eye", "left_eye"):
            red, green, blue = pixels[y, x]
            assert min(red, blue) > green + 60, f"{name} at {y}, {x}"


def test_front_shows_the_face_and_back_hides_it() -> None:
    face = {"nose", "right_eye", "left_eye"}
    assert face <= seen(clear(yaw=0))
    assert not face & seen(clear(yaw=180))
    assert {"right_ear", "left_ear", "neck", "right_shoulder", "left_shoulder"} <= seen(
        clear(painted(PERSON.skin), yaw=180)
    )


def test_left_and_right_change_places_from_behind() -> None:
    right, left = JOINTS.index("right_shoulder"), JOINTS.index("left_shoulder")
    front, back = clear(yaw=0).joints, clear(yaw=180).joints
    assert front[right, 1] < front[left, 1] and back[right, 1] > back[left, 1]


@pytest.mark.parametrize(("yaw", "near", "far"), [(90, "right", "left"), (270, "left", "right")])
def test_side_view_shows_the_near_side_and_hides_the_far_one(yaw: int, near: str, far: str) -> None:
    visible = seen(clear(pose=Pose(0.25, 0.0), yaw=yaw))
    assert {f"{near}_{part}" for part in ("shoulder", "elbow", "wrist", "ankle", "ear", "eye")} <= visible
    assert not {f"{far}_{part}" for part in ("shoulder", "elbow", "ear")} & visible


def test_backpack_covers_the_back_only() -> None:
    loud = Material((250, 250, 10), 0.5)
    carrier = replace(
        painted(Material((20, 20, 200), 0.5)),
        bag=Bag("backpack", 1, 1.0, loud),
    )

    def yellow(yaw: float) -> int:
        pixels = np.asarray(clear(carrier, yaw=yaw).image).astype(int)
        return int(((pixels[..., 0] > 150) & (pixels[..., 1] > 150) & (pixels[..., 2] < 100)).sum())

    assert yellow(180) > 4 * yellow(0) and yellow(90) > yellow(0)


@pytest.mark.parametrize("kind", OCCLUDERS)
def test_every_occluder_changes_the_picture_and_hides_joints(kind: str) -> None:
    free, covered = clear(), clear(occluder=Occluder(kind, 0.1, 0.7, seed=2))
    assert not np.array_equal(free.image, covered.image)
    assert seen(covered) < seen(free)
    assert np.array_equal(free.joints, covered.joints)


def test_car_hides_the_legs_and_leaves_the_head() -> None:
    visible = seen(clear(occluder=Occluder("car", 0.0, 0.7)))
    assert not {"left_ankle", "right_ankle", "left_knee", "right_knee"} & visible and "nose" in visible


def test_joints_outside_the_crop_are_hidden_but_known() -> None:
    picture = render_with_joints(PERSON, Pose(), View(zoom=2.0, shift=(0, -0.5)), PLAIN, seed=1)
    ankle = JOINTS.index("left_ankle")
    assert picture.joints[ankle, 0] > 127 and not picture.visible[ankle]


def test_unknown_occluder_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown occluder 'tree'; choose from pole, bush"):
        Occluder("tree")


def test_infrared_is_grey_and_does_not_depend_on_the_visible_colour() -> None:
    top = PERSON.top
    recoloured = replace(PERSON, top=replace(top, main=replace(top.main, colour=(250, 10, 10))))
    first, second = (clear(person, infrared=True).image for person in (PERSON, recoloured))
    pixels = np.asarray(first)
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])
    assert np.array_equal(first, second)
    assert not np.array_equal(clear(PERSON).image, clear(recoloured).image)


def test_infrared_shows_the_garments_own_reflectance() -> None:
    dark, bright = (clear(painted(Material((90, 90, 90), value)), infrared=True) for value in (0.15, 0.9))
    y, x = np.rint((dark.joints[8] + dark.joints[11]) / 2).astype(int)
    assert np.asarray(bright.image)[y, x, 0] > 2 * np.asarray(dark.image)[y, x, 0]


def test_cameras_see_the_same_person_differently() -> None:
    pictures = [
        np.asarray(render(PERSON, Pose(), View(), camera, seed=1)).astype(float) for camera in CAMERAS
    ]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(gaps) > 10


def test_empty_scene_has_no_person() -> None:
    scene = np.asarray(render_scene(CAMERAS[0], seed=1))
    assert scene.shape == (128, 64, 3) and not np.array_equal(
        scene, np.asarray(render_scene(CAMERAS[0], seed=2))
    )


def test_contact_sheet_has_a_row_for_everybody_and_a_column_for_every_camera_and_two_more() -> None:
    sheet = contact_sheet([PERSON, random_identity((1, 1))], labels=False)
    assert sheet.size == ((len(CAMERAS) + 2) * 66, 2 * 130)
    with pytest.raises(ValueError, match="expected at least one identity"):
        contact_sheet([])


def pinned_pictures() -> Image.Image:
    """A few pictures, four times smaller, so that rounding inside Pillow does not show."""
    return contact_sheet(4, seed=1, labels=False).reduce(4)


def test_the_world_is_frozen() -> None:
    """Shipped weights were trained on these pixels: whoever changes them changes VERSION and the weights."""
    found, pinned = (np.asarray(image).astype(int) for image in (pinned_pictures(), Image.open(PINNED)))
    assert found.shape == pinned.shape
    assert np.abs(found - pinned).mean() < 0.5 and np.abs(found - pinned).max() < 24
