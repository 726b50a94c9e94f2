"""ST-ReID: where and when people were seen says who they can be (Wang et al., AAAI 2019).

People walk from one camera to another in typical times. The model counts, on training identities, how long
each pair of cameras lay apart, smooths the counts, and so knows how likely a lag is between two images of one
person. `joint_similarity` is the paper's way to join that with a visual similarity.

Time stamps of test images are more than a picture shows: results with and without them do not compare.
Departures from the published code: any number of cameras, with any numbers; a lag beyond the last bin counts
in the last bin instead of failing; pairs of cameras that nobody walked between take no memory.

``TimedMeasure`` makes one distance of appearance and time:

``official``: the logistic product of ST-ReID, see ``joint_similarity``; time breaks ties.
``loglikelihood``: ``cos + weight * log(l + floor)``, with the likelihood l of the time between the images.
``ratio``: ``cos + weight * log((l + floor) / (b + floor))``, with the density b of that time between images
of different people: what the time says of who it is, not of when the cameras were busy. Both densities are
over both directions of a pair of cameras.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from torchreid_genext import checkpoints
from torchreid_genext.retrieval.sets import RetrievalSet, Sightings

__all__ = ["FORMS", "SpatioTemporalModel", "TimedMeasure", "joint_similarity", "smooth"]

FORMS = ("ratio", "loglikelihood", "official")
_SIGMA = {"official": 50.0, "loglikelihood": 5.0, "ratio": 5.0}  # bins; a logarithm bears sharper curves
_EPSILON = 1e-7  # the published code adds it to every denominator
_IN_CACHE = 2**18  # pairs at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SpatioTemporalModel:
    """How long people take from one camera to another.

    Attributes:
        cameras: camera ids seen in `fit`, ascending, shape (C,).
        pairs: (P, 2) int64, indices into `cameras` of the later and the earlier camera.
        counts: (P, bins) float64, identities by lag.
        background: (P, bins) float64, pairs of different identities by lag.
        curves: (P, bins) float64, the counts as a density: smoothed, each row's sum 1.
        identities: how many there were.
        interval: frames per bin.
        sigma: of the smoothing, in bins.
    """

    cameras: Tensor
    pairs: Tensor
    counts: Tensor
    background: Tensor
    curves: Tensor
    identities: int
    interval: int
    sigma: float
    _warned: set[int] = field(default_factory=set, repr=False)  # cameras that `fit` never saw

    @classmethod
    def fit(
        cls,
        pids: ArrayLike,
        camids: ArrayLike,
        frames: ArrayLike,
        *,
        interval: int = 100,
        bins: int = 5000,
        sigma: float = 50,
    ) -> SpatioTemporalModel:
        """Count the lags of training identities.

        Each identity has one vote for each pair of cameras that saw it: the difference of its mean frames,
        for the direction in which it walked.

        Args:
            pids: identity of each training image, integers (N,).
            camids: camera of each, integers (N,).
            frames: time of each, in frames of one clock, integers (N,), >= 0.
            interval: frames per bin, >= 1.
            bins: how many bins, >= 1; lags beyond them count in the last.
            sigma: of the smoothing, in bins; 0 for none.

        Raises:
            ValueError: if lengths differ, the set is empty, or a value is out of range.
        """
        pids, camids, frames = _labels(pids=pids, camids=camids, frames=frames)
        _check_settings(interval, bins, sigma)
        cameras, camera = camids.unique(return_inverse=True)
        means = _mean_frames(pids, camera, frames, len(cameras))
        pairs, counts = _count_lags(means, interval, bins)
        curves = _share(smooth(_share(counts), sigma)) if sigma else _share(counts)
        background = _count_other_lags(means, pairs, interval, bins)
        return cls(cameras, pairs, counts, background, curves, len(means), interval, sigma)

    def likelihood(
        self, q_cam: ArrayLike, q_frame: ArrayLike, g_cam: ArrayLike, g_frame: ArrayLike
    ) -> Tensor:
        """Density of the lag of each query and gallery image, if they show one person.

        Args:
            q_cam: camera of each query (Q,), numbered as in `fit`; q_frame: its time (Q,), >= 0.
            g_cam: camera of each gallery image (G,); g_frame: its time (G,), >= 0.

        Returns:
            (Q, G) float64, in 0 .. 1. It is 0 within a camera, and for a camera that `fit` never saw (logged
            once).

        Raises:
            ValueError: if lengths differ or a frame is negative.
        """
        return self.lookup(self.curves, 0.0, q_cam, q_frame, g_cam, g_frame)

    def log_ratio(self, floor: float) -> Tensor:
        """How much more likely each lag is for one person than for two, as a logarithm (P, bins).

        Unlike the likelihood it does not favour the hours in which cameras were busy, and it knows in which
        direction people rather walk: both densities are over the lags of both directions.

        Args:
            floor: added to both densities, > 0: what nobody has shown is unlikely, not impossible.
        """
        same, other = (self._density(counts) for counts in (self.counts, self.background))
        return ((same + floor) / (other + floor)).log()

    def _density(self, counts: Tensor) -> Tensor:
        """Smoothed counts as a share of those of both directions between two cameras."""
        smoothed = smooth(counts, self.sigma) if self.sigma else counts
        ways = self.pairs.sort(dim=1).values
        _, way = ways.unique(dim=0, return_inverse=True)
        total = counts.new_zeros(len(ways)).index_add_(0, way, smoothed.sum(1))
        return smoothed / (total[way, None] + _EPSILON)

    def transitions(self) -> Iterator[tuple[str, NDArray, NDArray, NDArray]]:
        """For each two cameras, both ways together: name, edges of the bins in frames, counts, and density.

        Lags below zero are of people who came to the first camera last; cameras are named from 1.
        """
        ways = {tuple(pair): row for row, pair in enumerate(self.pairs.tolist())}
        bins = self.counts.shape[1]
        nothing = self.counts.new_zeros(bins)
        edges = self.interval * torch.arange(-bins, bins + 1).numpy()
        for first, second in sorted({tuple(sorted(pair)) for pair in ways}):
            back, there = ways.get((first, second)), ways.get((second, first))
            both = [
                torch.cat([(nothing if row is None else rows[row]) for row in (back, there)])
                for rows in (self.counts, self._density(self.counts))
            ]
            counts, density = (torch.cat([part[:bins].flip(0), part[bins:]]).numpy() for part in both)
            name = f"{int(self.cameras[first]) + 1} to {int(self.cameras[second]) + 1}"
            yield name, edges, counts, density

    def lookup(
        self,
        curves: Tensor,
        otherwise: float,
        q_cam: ArrayLike,
        q_frame: ArrayLike,
        g_cam: ArrayLike,
        g_frame: ArrayLike,
    ) -> Tensor:
        """Read any (P, bins) curves at the lags of all pairs of images; arguments as `likelihood`.

        Args:
            curves: a row for each pair of cameras, (P, bins).
            otherwise: for pairs of images without a row.
        """
        q_cam, q_frame = _labels(q_cam=q_cam, q_frame=q_frame)
        g_cam, g_frame = _labels(g_cam=g_cam, g_frame=g_frame)
        table = torch.cat([curves, curves.new_full((1, curves.shape[1]), otherwise)]).flatten()
        start = self._rows() * curves.shape[1]
        start = start.int() if len(table) < 2**31 else start
        q_cam, g_cam = self._index(q_cam), self._index(g_cam)
        # Floats are several times as fast as integers here, and exact as long as they hold every frame.
        exact = torch.float32 if max(q_frame.max(), g_frame.max()) < 2**24 else torch.float64
        q_frame, g_frame = q_frame.to(exact), g_frame.to(exact)
        result = curves.new_empty(len(q_cam), len(g_cam))
        for camera in q_cam.unique():
            own = (q_cam == camera).nonzero()[:, 0]
            earlier, later = start[g_cam, camera], start[camera, g_cam]  # than the gallery image
            for rows in own.split(max(1, _IN_CACHE // len(g_cam))):
                lag = q_frame[rows, None] - g_frame
                place = (lag > 0).to(start.dtype).mul_(later - earlier).add_(earlier)
                bins = lag.abs_().div_(self.interval).floor_().clamp_(max=curves.shape[1] - 1)
                place += bins.to(start.dtype)
                result[rows] = table.index_select(0, place.flatten()).view(place.shape)
        return result

    def save(self, path: str | Path) -> Path:
        """Write the model as one safetensors file, whole or not at all."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return checkpoints.save(path, tensors, {name: getattr(self, name) for name in _NUMBERS})

    @classmethod
    def load(cls, path: str | Path) -> SpatioTemporalModel:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no such model; names it.
        """
        tensors, numbers = checkpoints.safe_load(path), checkpoints.read_metadata(path)
        missing = [name for name in (*_TENSORS, *_NUMBERS) if name not in {**tensors, **numbers}]
        if missing:
            raise ValueError(f"expected a spatio-temporal model in {path}, got none of {', '.join(missing)}")
        return cls(*(tensors[name] for name in _TENSORS), *(numbers[name] for name in _NUMBERS))

    def _rows(self) -> Tensor:
        """(C + 1, C + 1): row of the curves for a later and an earlier camera; the last is for no curve."""
        rows = torch.full((len(self.cameras) + 1,) * 2, len(self.pairs))
        rows[self.pairs[:, 0], self.pairs[:, 1]] = torch.arange(len(self.pairs))
        return rows

    def _index(self, camids: Tensor) -> Tensor:
        """Places in `cameras`, C for a camera that is not among them."""
        index = torch.searchsorted(self.cameras, camids).clamp_(max=len(self.cameras) - 1)
        known = self.cameras[index] == camids
        new = set(camids[~known].tolist()) - self._warned
        if new:
            self._warned.update(new)
            _log.warning("cameras %s were never seen in fit: likelihood 0", ", ".join(map(str, sorted(new))))
        return index.where(known, torch.tensor(len(self.cameras)))


_TENSORS = ("cameras", "pairs", "counts", "background", "curves")
_NUMBERS = ("identities", "interval", "sigma")


@dataclass(frozen=True, eq=False)
class TimedMeasure:
    """Distance ``1 - similarity`` of appearance and time.

    Attributes:
        model: how long people take between cameras.
        form: see the module.
        weight: of time in the logarithmic forms.
        floor: a likelihood that no training identity has shown is small, not zero; > 0.
        alpha: slope of both factors in the official form.
    """

    model: SpatioTemporalModel
    form: str = "ratio"
    weight: float = 0.07
    floor: float = 1e-4
    alpha: float = 5.0

    name = "cosine and time"
    bytes_per_pair = 12

    @classmethod
    def fit(
        cls,
        train: Sightings | None,
        *,
        form: str = "ratio",
        sigma: float | None = None,
        interval: int = 100,
        bins: int = 5000,
        **options: float,
    ) -> TimedMeasure:
        """Learn from the training split.

        Args:
            train: who was where when.
            form: see the module.
            sigma: of the smoothing, in bins; None: 50 in the official form, else 5.
            interval, bins: see ``SpatioTemporalModel.fit``.
            options: the further attributes.

        Raises:
            ValueError: if there is no training split.
        """  # fmt: skip
        if train is None:
            raise ValueError("expected times of the training split for a spatio-temporal step, got none")
        sigma = _SIGMA[form] if sigma is None else sigma
        where = train.pids, train.camids, train.frames
        model = SpatioTemporalModel.fit(*where, interval=interval, bins=bins, sigma=sigma)
        return cls(model, form, **options)

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        if x.frames is None or y.frames is None:
            raise ValueError("expected frames in both sets for a spatio-temporal step, got none")
        # Blocks are of few rows of x, so a normalised copy of all of y would cost more than they do.
        visual = normalize(x.features) @ y.features.t()
        visual /= y.features.norm(dim=1)
        where = x.camids, x.frames, y.camids, y.frames
        if self.form == "official":
            return 1 - visual.mul_(self.alpha).sigmoid_().mul_(self.model.lookup(*self._factors, *where))
        return visual.neg_().add_(self.model.lookup(*self._costs, *where))

    @functools.cached_property
    def _factors(self) -> tuple[Tensor, float]:
        """What time multiplies in the official form: its factor for each lag, not for each pair of images."""
        factors = 1 / (1 + 2 * (-self.alpha * self.model.curves).exp())
        return factors.float(), 1 / 3

    @functools.cached_property
    def _costs(self) -> tuple[Tensor, float]:
        """What time adds to the distance, 0 at least; and for cameras that nobody walked between."""
        if self.form == "ratio":
            logarithm = self.model.log_ratio(self.floor)
            never = float(logarithm.min())
        else:
            logarithm = (self.model.curves + self.floor).log()
            never = math.log(self.floor)
        # Distances start at 0, as re-ranking, which squares and divides them, expects.
        best = max(float(logarithm.max()), never)
        costs = self.weight * (best - logarithm) + 1
        return costs.float(), self.weight * (best - never) + 1


def joint_similarity(visual: ArrayLike, likelihood: ArrayLike, *, alpha: float = 5.0) -> Tensor:
    """Logistic product of appearance and time: ``1 / (1 + e^(-alpha v)) * 1 / (1 + 2 e^(-alpha l))``.

    One smoothed bin holds at most a few per cent of the mass, so time moves the product by 5 % at most.

    Args:
        visual: cosine similarities, shape (Q, G), in -1 .. 1.
        likelihood: of `SpatioTemporalModel.likelihood`, shape (Q, G), in 0 .. 1.
        alpha: slope of both factors.

    Returns:
        (Q, G), larger is more similar; in the wider of the two types.

    Raises:
        ValueError: if the shapes differ.
    """
    visual, likelihood = torch.as_tensor(visual), torch.as_tensor(likelihood)
    if visual.ndim != 2 or visual.shape != likelihood.shape:
        shapes = f"{tuple(visual.shape)} and {tuple(likelihood.shape)}"
        raise ValueError(f"expected visual and likelihood of one shape (Q, G), got {shapes}")
    result = visual.new_empty(visual.shape, dtype=torch.promote_types(visual.dtype, likelihood.dtype))
    rows = max(1, _IN_CACHE // max(1, visual.shape[1]))
    for out, seen, timed in zip(result.split(rows), visual.split(rows), likelihood.split(rows)):
        out.copy_(timed).mul_(-alpha).exp_().mul_(2).add_(1)
        out.mul_(seen.mul(-alpha).exp_().add_(1)).reciprocal_()
    return result


def smooth(curves: Tensor, sigma: float) -> Tensor:
    """Convolve rows (P, bins) with a Gaussian of `sigma` bins, cut at three sigma, zeros beyond the ends.

    The Parzen window of the paper: neither the cut nor the ends are made up for.
    """
    radius = int(3 * sigma)
    lag = torch.arange(-radius, radius + 1, dtype=curves.dtype)
    kernel = torch.exp(lag.square() / (-2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return functional.conv1d(curves[:, None], kernel[None, None], padding=radius)[:, 0]


def _labels(**columns: ArrayLike) -> list[Tensor]:
    """Integer columns of one length, frames not negative."""
    labels = {name: torch.as_tensor(values) for name, values in columns.items()}
    for name, values in labels.items():
        if values.ndim != 1 or not len(values) or values.is_floating_point():
            raise ValueError(f"expected {name} to be integers of shape (N,), got {tuple(values.shape)}")
        if "frame" in name and values.min() < 0:
            raise ValueError(f"expected {name} >= 0, got {int(values.min())}")
    if len({len(values) for values in labels.values()}) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in labels.items())
        raise ValueError(f"expected columns of one length, got {lengths}")
    return [values.to("cpu", torch.int64) for values in labels.values()]


def _check_settings(interval: int, bins: int, sigma: float) -> None:
    for name, value, least in (("interval", interval, 1), ("bins", bins, 1), ("sigma", sigma, 0)):
        if not value >= least:
            raise ValueError(f"expected {name} >= {least}, got {value}")


def _mean_frames(pids: Tensor, camera: Tensor, frames: Tensor, cameras: int) -> Tensor:
    """Mean frame of each identity under each camera (I, C), NaN where it was not seen."""
    identities, identity = pids.unique(return_inverse=True)
    place = identity * cameras + camera
    total = torch.zeros(len(identities) * cameras, dtype=torch.float64).index_add_(0, place, frames.double())
    images = place.bincount(minlength=len(total)).double()
    means = total / (images + _EPSILON)
    return means.where(images > 0, math.nan).view(-1, cameras)


def _count_lags(means: Tensor, interval: int, bins: int) -> tuple[Tensor, Tensor]:
    """Pairs (later, earlier) of cameras that somebody walked between, and the votes for each lag."""
    first, second = torch.triu_indices(means.shape[1], means.shape[1], offset=1)
    lag = means[:, first] - means[:, second]  # (I, pairs), NaN unless both cameras saw the identity
    person, pair = lag.isfinite().nonzero(as_tuple=True)
    lag = lag[person, pair]
    # Published ties go to the camera with the larger number as the later one.
    later = torch.where(lag > 0, first[pair], second[pair])
    earlier = torch.where(lag > 0, second[pair], first[pair])
    pairs, row = torch.stack([later, earlier], dim=1).unique(dim=0, return_inverse=True)
    place = row * bins + (lag.abs() / interval).long().clamp_(max=bins - 1)
    return pairs.view(-1, 2), place.bincount(minlength=len(pairs) * bins).double().view(-1, bins)


def _count_other_lags(means: Tensor, pairs: Tensor, interval: int, bins: int) -> Tensor:
    """How often different identities lie so far apart, for each pair of cameras (P, bins)."""
    background = torch.zeros(len(pairs), bins, dtype=torch.float64)
    for row, (later, earlier) in zip(background, pairs.tolist()):
        lag = means[:, later, None] - means[:, earlier]  # NaN is not > 0
        lag.fill_diagonal_(0)
        place = (lag[lag > 0] / interval).long().clamp_(max=bins - 1)
        row += place.bincount(minlength=bins)
    return background


def _share(rows: Tensor) -> Tensor:
    return rows / (rows.sum(1, keepdim=True) + _EPSILON)
