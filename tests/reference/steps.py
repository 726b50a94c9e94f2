"""The steps of a chain, from their descriptions: two sets in, the features of both out, image by image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from tests.reference.cameras import camera_normalized, merged_tracklets
from tests.reference.centralization import fuse_generated, summed
from tests.reference import enhancement as reference
from tests.reference.expansion import expanded
from tests.reference.neighbours import squared_distances
from tests.reference.times import official_distances

Pair = tuple[np.ndarray, np.ndarray]


class Images(NamedTuple):
    """A set: features (N, D), labels (N,) and features of generated images (N, P, D)."""

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    frames: np.ndarray
    generated: np.ndarray


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays."""
    features = features.astype(np.float64)
    return np.array([row / (np.sqrt((row**2).sum()) or 1.0) for row in features])


def l2(query: Images, gallery: Images) -> Pair:
    return unit(query.features), unit(gallery.features)


def fuse(query: Images, gallery: Images, eta=1.0, reduce="mean", side="both", normalize_before=False) -> Pair:
    found = []
    for name, images in (("query", query), ("gallery", gallery)):
        features, generated = images.features.astype(np.float64), images.generated.astype(np.float64)
        if normalize_before:
            features, generated = unit(features), np.array([unit(poses) for poses in generated])
        joined = side in (name, "both")
        found.append(fuse_generated(features, generated, eta, reduce) if joined else features)
    return tuple(found)


def camera_norm(query: Images, gallery: Images, epsilon=0.1, statistics="each") -> Pair:
    """A query whose camera took no other query has the statistics of its camera's gallery images."""
    (q, g), found = l2(query, gallery), []
    for i, camid in enumerate(query.camids):
        own = statistics == "each" and (query.camids == camid).sum() > 1
        known = (q, query.camids) if own else (g, gallery.camids)
        found.append(camera_normalized(q[i : i + 1], query.camids[i : i + 1], *known, epsilon)[0])
    return unit(np.array(found)), unit(camera_normalized(g, gallery.camids, g, gallery.camids, epsilon))


def tracklets(query: Images, gallery: Images, gap=300, threshold=0.5, side="both") -> Pair:
    return tuple(
        merged_tracklets(images.features, images.camids, images.frames, gap, threshold)
        if side in (name, "both") else unit(images.features)
        for name, images in (("query", query), ("gallery", gallery))
    )  # fmt: skip


def joined(query: Images, gallery: Images) -> Images:
    return Images(*(np.concatenate(columns) for columns in zip(query, gallery)))


def neighbour_distances(
    features: np.ndarray, images: Images, neighbours: str, train: tuple, sigma: float
) -> np.ndarray:
    """How far images of one set are apart for `nfc`; infinite for those that cannot be neighbours."""
    timed = "spatiotemporal" in neighbours
    distances = squared_distances(features, features)
    if timed:
        where = images.camids, images.frames
        distances = official_distances(features, *where, features, *where, train, sigma=sigma)
    if "cross_camera" in neighbours:
        distances[images.camids[:, None] == images.camids] = np.inf
    np.fill_diagonal(distances, np.inf)
    return distances


def nfc(
    query: Images, gallery: Images, k1=2, k2=2, side="both", neighbours="any", normalize_after=True, train=(),
    sigma=50.0,
) -> Pair:  # fmt: skip
    """Features of length one, each with its mutual neighbours; time in ST-ReID's official form."""

    def centralized(images: Images) -> np.ndarray:
        features = unit(images.features)
        found = summed(features, neighbour_distances(features, images, neighbours, train, sigma), k1, k2)
        return unit(found) if normalize_after else found

    if side == "joint":
        both = centralized(joined(query, gallery))
        return both[: len(query.pids)], both[len(query.pids) :]
    return tuple(
        centralized(images) if side in (name, "both") else unit(images.features)
        for name, images in (("query", query), ("gallery", gallery))
    )


def aqe(query: Images, gallery: Images, k=5) -> Pair:
    return alpha_qe(query, gallery, k, 0.0)


def alpha_qe(query: Images, gallery: Images, k=5, alpha=3.0) -> Pair:
    return expanded(query.features, gallery.features, k, alpha), unit(gallery.features)


def dba(query: Images, gallery: Images, k=5, alpha=3.0) -> Pair:
    return unit(query.features), expanded(gallery.features, None, k, alpha)


def dmon(query: Images, gallery: Images, k1=2, k2=2, sigma=0.5, gamma=0.75, side="both") -> Pair:
    sets = zip(("query", "gallery"), l2(query, gallery))
    mixed = (reference.dmon(x, k1, k2, sigma, gamma) if side in (name, "both") else x for name, x in sets)
    return tuple(unit(x) for x in mixed)


def lda(query: Images, gallery: Images, train: Images, ridge=0.3, width=256) -> Pair:
    """Fisher's discriminants of normalised training features, by SciPy; the sets come normalised."""
    z = unit(train.features)
    people = np.unique(train.pids)
    means = np.array([z[train.pids == pid].mean(0) for pid in people])
    spread = z - means[np.searchsorted(people, train.pids)]
    within, centred = spread.T @ spread / len(z), means - z.mean(0)
    within = within + ridge * np.trace(within) / len(within) * np.eye(len(within))
    roots, directions = eigh(centred.T @ centred / len(people), within)
    projection = directions * np.sqrt(np.maximum(roots, 0) / (np.maximum(roots, 0) + 1))
    projection = projection[:, ::-1][:, : min(width, len(people) - 1)]
    return tuple(unit((x - z.mean(0)) @ projection) for x in l2(query, gallery))
