"""The six cameras: where each looks, and what its lens, sensor and light do to a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Camera:
    """One fixed camera.

    Attributes:
        index: camera id, from 0.
        scene: the place it watches (see `scenes`).
        pitch: how far it looks down, in degrees.
        gains: white balance, factors for red, green and blue.
        brightness, contrast, gamma, saturation: tone of its pictures; 1 is neutral.
        lamp: where its light comes from, -1 (left) .. 1 (right); also the side that is brighter.
        gradient: how uneven the light is, 0..1.
        haze: how much grey is mixed in, 0..1.
        resolution: sharpness, as the share of pixels it really resolves, 0..1.
        noise: standard deviation of its sensor noise, in grey levels.
        jitter: how far its person detector misses, as a share of the crop.
        stretch: width of its pixels; people look wider above 1.
    """

    index: int
    scene: str
    pitch: float
    gains: tuple[float, float, float]
    brightness: float
    contrast: float
    gamma: float
    saturation: float
    lamp: float
    gradient: float
    haze: float
    resolution: float
    noise: float
    jitter: float
    stretch: float


CAMERAS = (
    Camera(0, "plaza", 8, (1.0, 1.0, 0.98), 1.05, 1.0, 1.0, 1.0, -0.7, 0.16, 0.03, 1.0, 3.0, 0.03, 1.14),
    Camera(1, "shop", 13, (1.06, 1.0, 0.88), 0.84, 1.06, 1.06, 0.95, 0.5, 0.26, 0.0, 0.85, 5.0, 0.04, 1.18),
    Camera(2, "street", 16, (0.95, 1.0, 1.06), 1.12, 0.88, 0.95, 0.9, 0.8, 0.14, 0.07, 0.7, 4.0, 0.04, 1.08),
    Camera(3, "park", 6, (0.97, 1.04, 0.94), 0.92, 1.1, 1.0, 1.08, -0.3, 0.26, 0.0, 0.9, 4.0, 0.035, 1.1),
    Camera(4, "brick", 10, (1.08, 0.99, 0.91), 1.03, 1.12, 1.03, 0.92, 0.2, 0.2, 0.02, 0.78, 4.0, 0.04, 1.2),
    Camera(5, "hall", 20, (0.94, 1.0, 1.08), 0.92, 0.92, 0.95, 0.88, -0.5, 0.1, 0.05, 0.62, 5.0, 0.045, 1.1),
)


def expose(
    picture: np.ndarray, camera: Camera, rng: np.random.Generator, *, infrared: bool = False
) -> Image.Image:
    """Take a clean picture through a camera.

    Args:
        picture: (H, W, 3) float32 in 0..255, the scene in even white light.
        camera: whose lens, sensor and light.
        rng: the moment: exposure, white balance and noise wander a little from picture to picture.
        infrared: an infrared lamp lights the scene: no white balance, no colour, light from the middle.

    Returns:
        An RGB image of the same size.
    """
    lit = _blurred(picture, camera) * _light(picture.shape[:2], camera, rng, infrared)
    channels = 1 if infrared else 3  # the noise of an infrared picture is grey too
    noise = rng.standard_normal((*picture.shape[:2], channels), dtype=np.float32)
    noisy = _toned(lit, camera, infrared) + camera.noise * noise
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _blurred(picture: np.ndarray, camera: Camera) -> np.ndarray:
    """Fewer pixels, then back to full size."""
    height, width = picture.shape[:2]
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    small = max(8, round(width * camera.resolution)), max(16, round(height * camera.resolution))
    if small != image.size:
        image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def _light(shape: tuple[int, int], camera: Camera, rng: np.random.Generator, infrared: bool) -> np.ndarray:
    """Factor per pixel and channel: exposure of the moment, white balance, the side of the light."""
    exposure = camera.brightness * (1 + 0.07 * rng.standard_normal())
    balance = np.asarray(camera.gains, np.float32) + 0.025 * rng.standard_normal(3).astype(np.float32)
    down, across = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    side = 1 + camera.gradient * (camera.lamp * across[None, :] - 0.35 * down[:, None])
    if infrared:
        spot = 1.12 - 0.3 * (across[None, :] ** 2 + 0.6 * down[:, None] ** 2)
        return (exposure * spot)[..., None].astype(np.float32)
    return (exposure * side)[..., None].astype(np.float32) * balance


def _toned(lit: np.ndarray, camera: Camera, infrared: bool) -> np.ndarray:
    grey = lit.mean(axis=2, keepdims=True)
    coloured = lit if infrared else grey + camera.saturation * (lit - grey)
    curve = 255 * (np.clip(coloured, 0, 255) / 255) ** camera.gamma
    contrasted = 118 + camera.contrast * (curve - 118)
    return contrasted + camera.haze * (170 - contrasted)
