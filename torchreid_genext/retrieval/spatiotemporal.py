"""ST-ReID: where and when people were seen says who they can be (Wang et al., AAAI 2019).

People walk from one camera to another in typical times. Training identities tell how long each pair of
cameras lay apart; smoothed, these votes say how likely a lag is between two images of one person.

Time stamps of test images are more than a picture shows: results with and without them do not compare.

``SpatioTemporalModel`` is the published model: a curve for each direction between two cameras, from bins that
begin at multiples of the interval. Departures from the published code: any number of cameras, with any
numbers; a lag beyond the last bin counts in the last bin instead of failing; pairs of cameras that nobody
walked between take no memory. `joint_similarity` is the paper's way to join it with a visual similarity.

``SignedLags`` is ours: both directions on one axis of lags, smoothed across zero, from bins that lie around
multiples of the interval. So people seen by two cameras at the same time, or within one tick of a coarse
clock, count alike for both directions, and an image finds another as likely as that finds it.

``TimedMeasure`` makes one distance of appearance and time:

``official``: the logistic product of ST-ReID, see ``joint_similarity``; time breaks ties.
``loglikelihood``: ``cos + weight * log(l + floor)``, with the likelihood l of the time between the images.
``ratio``: ``cos + weight * log((l + floor) / (b + floor))``, with the density b of that time between images
of different people: what the time says of who it is, not of when the cameras were busy.

The last two read ``SignedLags``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from torchreid_genext.retrieval._lags import IN_CACHE, Moments, Sums, Table
from torchreid_genext.retrieval.sets import RetrievalSet, Training

__all__ = ["FORMS", "SignedLags", "SpatioTemporalModel", "TimedMeasure", "joint_similarity", "smooth"]

FORMS = ("ratio", "loglikelihood", "official")
_SIGMA = {"official": 50.0, "loglikelihood": 5.0, "ratio": 5.0}  # bins; a logarithm bears sharper curves
_EPSILON = 1e-7  # the published code adds it to every denominator
_TINY = 1e-300  # keeps rows without any vote at zero

_Model = TypeVar("_Model", bound="Sums")


class SpatioTemporalModel(Sums):
    """How long people take from one camera to another, as published: a curve for each direction.

    Attributes beyond those of ``fit``:
        pairs: (P, 2) int64, indices into `cameras` of the later and the earlier camera.
        counts: (P, bins) float64, identities by lag.
        curves: (P, bins) float64, the counts as a density: smoothed, each row's sum 1.
    """

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

    def transitions(self) -> Iterator[tuple[str, NDArray, NDArray, NDArray]]:
        """As those of ``SignedLags``: a picture shows both directions on one axis."""
        return SignedLags(**self.fitted()).transitions()

    @property
    def pairs(self) -> Tensor:
        """Places (P, 2) of the two cameras of each pair that somebody walked between: later, earlier."""
        return self._votes[0]

    @property
    def counts(self) -> Tensor:
        """Identities by lag (P, bins), float64."""
        pairs, places = self._votes
        counts = places.bincount(minlength=len(pairs) * self.bins)
        return counts.double().view(-1, self.bins)

    @functools.cached_property
    def curves(self) -> Tensor:
        """The counts as densities (P, bins), float64: smoothed, each row's sum 1."""
        curves = _share_(self.counts)
        for row in curves.split(1) if self.sigma else ():
            _share_(row.copy_(smooth(row, self.sigma)))
        return curves

    @functools.cached_property
    def _votes(self) -> tuple[Tensor, Tensor]:
        """Pairs (later, earlier) of cameras that somebody walked between, and the place of each vote."""
        means = self.frames.double() / (self.images.double() + _EPSILON)
        means.masked_fill_(self.images == 0, math.nan)
        first, second = torch.triu_indices(means.shape[1], means.shape[1], offset=1)
        lag = means[:, first] - means[:, second]  # (I, pairs), NaN unless both cameras saw the identity
        person, pair = lag.isfinite().nonzero(as_tuple=True)
        lag = lag[person, pair]
        # Published ties go to the camera with the larger number as the later one.
        later = torch.where(lag > 0, first[pair], second[pair])
        earlier = torch.where(lag > 0, second[pair], first[pair])
        pairs, row = torch.stack([later, earlier], dim=1).unique(dim=0, return_inverse=True)
        return pairs, row * self.bins + (lag.abs() / self.interval).long().clamp_(max=self.bins - 1)

    def _rows(self) -> Tensor:
        """(C + 1, C + 1): row of the curves for a later and an earlier camera; the last is for no curve."""
        rows = torch.full((len(self.cameras) + 1,) * 2, len(self.pairs))
        rows[self.pairs[:, 0], self.pairs[:, 1]] = torch.arange(len(self.pairs))
        return rows

    def _sides(self, start: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return start[x, y], start[y, x]

    def _places(self, sides: tuple[Tensor, ...], lag: Tensor) -> Tensor:
        place = torch.where(lag > 0, *sides)
        return place.add_(lag.abs_().div_(self.interval).floor_().clamp_(max=self.bins - 1).to(place.dtype))


class SignedLags(Sums):
    """How long people take between two cameras, both directions on one axis of lags.

    Bin k holds the lags from (k - 1/2) to (k + 1/2) intervals; a lag on an edge counts one half in either
    bin. The axis ends where the clock of the training split and the smoothing end, or at ``bins``.

    Attributes beyond those of ``fit``:
        pairs: (P, 2) int64, indices into `cameras` of two that somebody walked between, ascending; their lag
            is the time at the first less that at the second.
        reach: the last bin to each side.
        curves: (P, 2 * reach + 1) float32, density of the lags of one person, from bin -reach to reach; each
            row's sum is 1.
        background: (P, 2 * reach + 1) float32, as `curves` of two different people.
    """

    def likelihood(
        self, q_cam: ArrayLike, q_frame: ArrayLike, g_cam: ArrayLike, g_frame: ArrayLike
    ) -> Tensor:
        """As that of ``SpatioTemporalModel``, but float32, and the same from either side."""
        return self.lookup(self.curves, 0.0, q_cam, q_frame, g_cam, g_frame)

    def log_likelihood(self, floor: float) -> Tensor:
        """``log(curves + floor)``, float32: what nobody has shown is unlikely, not impossible."""
        return (self.curves + floor).log_()

    def log_ratio(self, floor: float) -> Tensor:
        """How much more likely each lag is for one person than for two, as a logarithm, shaped as `curves`.

        Unlike the likelihood it does not favour the hours in which cameras were busy.

        Args:
            floor: added to both densities, > 0: what nobody has shown is unlikely, not impossible.
        """
        return (self.curves + floor).div_(self.background + floor).log_()

    def transitions(self) -> Iterator[tuple[str, NDArray, NDArray, NDArray]]:
        """For each two cameras, both ways together: name, edges of the bins in frames, counts, and density.

        Lags below zero are of people who came to the first camera last; cameras are named from 1.
        """
        ends = torch.arange(-self.reach, self.reach + 2, dtype=torch.float64)
        edges = (self.interval * (ends - 0.5)).numpy()
        for (first, second), density in zip(self.pairs.tolist(), self.curves):
            counts = self.histogram(self.lags(second, first))
            name = f"{int(self.cameras[first]) + 1} to {int(self.cameras[second]) + 1}"
            yield name, edges, counts.numpy(), density.flip(0).numpy()

    @functools.cached_property
    def pairs(self) -> Tensor:
        """Places (P, 2) of each two cameras that saw somebody in common, the smaller first."""
        seen = (self.images > 0).double()
        return (seen.t() @ seen).triu(1).nonzero()

    @functools.cached_property
    def reach(self) -> int:
        """Bins on either side of zero: as many as the training split and the smoothing fill."""
        span = self._means[self.images > 0].max() / self.interval  # means are counted from the first
        return min(self.bins - 1, math.ceil(span) + int(3 * self.sigma) + 1)

    @functools.cached_property
    def curves(self) -> Tensor:
        """Density of the lags of one person, a row for each pair, smoothed."""
        return self._densities(lambda *pair: self.histogram(self.lags(*pair)))

    @functools.cached_property
    def background(self) -> Tensor:
        """Density of the lags of two different people, shaped as `curves`."""
        return self._densities(self._other_lags)

    def lags(self, first: int, second: int) -> Tensor:
        """Of all identities that both cameras saw, in frames, float64."""
        lags = self._means[:, first] - self._means[:, second]
        return lags[lags.isfinite()]

    def histogram(self, lags: Tensor) -> Tensor:
        """Votes by bin, (2 * reach + 1,) float64."""
        place = lags / self.interval
        halves = [  # the two differ on edges only
            end.clamp_(-self.reach, self.reach).add_(self.reach).long().bincount(minlength=2 * self.reach + 1)
            for end in ((place + 0.5).floor_(), (place - 0.5).ceil_())
        ]
        return (halves[0] + halves[1]).double() / 2

    @functools.cached_property
    def _means(self) -> Tensor:
        """Mean frame of each identity under each camera since the first of them; NaN where not seen."""
        seen = self.images > 0
        origin = (self.frames // self.images.clamp(min=1))[seen].min()  # clocks may count from 1970
        return (self.frames - origin * self.images).double() / self.images

    def _other_lags(self, first: int, second: int) -> Tensor:
        """Votes of all pairs of different identities."""
        one, other = (means[means.isfinite()] for means in self._means[:, [first, second]].t())
        votes = -self.histogram(self.lags(first, second))
        for some in one.split(max(1, IN_CACHE // len(other))):
            votes += self.histogram((some[:, None] - other).flatten())
        return votes

    def _densities(self, votes: Callable[[int, int], Tensor]) -> Tensor:
        rows = torch.empty(len(self.pairs), 2 * self.reach + 1, dtype=torch.float32)
        for row, pair in zip(rows, self.pairs.tolist()):
            counts = votes(*pair)[None]
            smoothed = smooth(counts, self.sigma) if 3 * self.sigma >= 1 else counts
            row.copy_((smoothed / smoothed.sum().clamp(min=_TINY))[0])
        return rows

    def _rows(self) -> Tensor:
        """(C + 1, C + 1): row of the curves for two cameras, the last for none."""
        rows = torch.full((len(self.cameras) + 1,) * 2, len(self.pairs))
        for one, other in (self.pairs.t(), self.pairs.t().flip(0)):
            rows[one, other] = torch.arange(len(self.pairs))
        return rows

    def _sides(self, start: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return start[x, y] + self.reach, torch.where(x <= y, 1.0, -1.0)

    def _places(self, sides: tuple[Tensor, ...], lag: Tensor) -> Tensor:
        middle, signs = sides
        # Rounding to even bins is the same to both sides of zero.
        bins = lag.div_(self.interval).round_().clamp_(-self.reach, self.reach).mul_(signs)
        return middle.add_(bins.to(middle.dtype))


# Fitting takes as long as a short chain, and a chain may ask for the same model several times.
_FITTED: WeakKeyDictionary[Training, dict[tuple, Sums]] = WeakKeyDictionary()


def _model_of(kind: type[_Model], train: Training, **settings: Any) -> _Model:
    """The model of these sightings, fitted once as long as they live."""
    models = _FITTED.setdefault(train, {})
    key = (kind, *settings.items())
    if key not in models:
        models[key] = kind.fit(train.pids, train.camids, train.frames, **settings)
    return models[key]


@dataclass(frozen=True, eq=False)
class TimedMeasure:
    """Distance ``1 - similarity`` of appearance and time.

    Attributes:
        model: how long people take between cameras; a ``SpatioTemporalModel`` in the official form.
        form: see the module.
        weight: of time in the logarithmic forms, >= 0.
        floor: a likelihood that no training identity has shown is small, not zero; > 0.
        alpha: slope of both factors in the official form, > 0.

    Raises:
        ValueError: if a value is out of range, or the model is not of this form.
    """

    model: SpatioTemporalModel | SignedLags
    form: str = "ratio"
    weight: float = 0.07
    floor: float = 1e-4
    alpha: float = 5.0
    _prepared: dict[str, Any] = field(default_factory=dict, repr=False)

    name = "cosine and time"
    bytes_per_pair = 12

    def __post_init__(self) -> None:
        _check_measure(**{name: getattr(self, name) for name in ("form", "weight", "floor", "alpha")})
        if type(self.model) is not _kind(self.form):
            found = type(self.model).__name__
            raise ValueError(f"expected a {_kind(self.form).__name__} in the form {self.form}, got a {found}")

    @classmethod
    def fit(
        cls,
        train: Training | None,
        *,
        form: str = "ratio",
        sigma: float | None = None,
        interval: int = 100,
        bins: int = 5000,
        **options: float,
    ) -> TimedMeasure:
        """Learn from the training split, once for the same sightings and settings.

        Args:
            train: who was where when.
            form: see the module.
            sigma: of the smoothing, in bins; None: 50 in the official form, else 5.
            interval, bins: see ``SpatioTemporalModel.fit``.
            options: the further attributes.

        Raises:
            ValueError: if there is no training split, nobody walked between cameras in it, or a value is out
                of range.
        """  # fmt: skip
        if train is None:
            raise ValueError("expected times of the training split for a spatio-temporal step, got none")
        _check_measure(form, **options)
        sigma = _SIGMA[form] if sigma is None else sigma
        model = _model_of(_kind(form), train, interval=interval, bins=bins, sigma=sigma)
        return cls(model, form, **options)

    def __call__(self, x: RetrievalSet, y: RetrievalSet) -> Tensor:
        if x.frames is None or y.frames is None:
            raise ValueError("expected frames in both sets for a spatio-temporal step, got none")
        with torch.autocast(x.features.device.type, enabled=False):  # distances need all digits
            # Blocks are of few rows of x, so a normalised copy of all of y would cost more than they do.
            visual = normalize(x.features) @ y.features.t()
            visual /= y.features.norm(dim=1)
            self._join_time(visual, x, y)
        return visual

    @property
    def additive(self) -> bool:
        """Whether time is added to ``1 - cos``."""
        return self.form != "official"

    def moments(self, images: RetrievalSet, since: int | None = None) -> Moments:
        """Where and when images were seen since the first of them, or a frame, on their features' device."""
        since = int(images.frames.min()) if since is None else since
        return self.model.moments(images.camids, images.frames - since).to(images.features.device)

    def table(self, device: torch.device) -> Table:
        """What time does, for each pair of cameras and lag; see `_rows`."""
        if device not in self._prepared:
            self._prepared[device] = self.model.table(*self._rows(), device)
        return self._prepared[device]

    def _join_time(self, visual: Tensor, x: RetrievalSet, y: RetrievalSet) -> None:
        since, gallery = self._gallery(y)
        query = self.model.moments(x.camids, x.frames - since).to(visual.device)
        for rows, timed in self.model.read(self.table(visual.device), query, gallery):
            if self.form == "official":
                visual[rows].mul_(self.alpha).sigmoid_().mul_(timed).neg_().add_(1)
            else:
                visual[rows].neg_().add_(timed)

    def _gallery(self, y: RetrievalSet) -> tuple[int, Moments]:
        """The first frame of a set, and its images since then; kept, since blocks of x meet one y."""
        labels, device = (y.camids, y.frames), y.features.device
        key = (*(column.data_ptr() for column in labels), len(y), device)
        if self._prepared.get("gallery", (None,))[0] != key:
            since = int(y.frames.min())
            moments = self.model.moments(y.camids, y.frames - since).to(device)
            # The labels are kept, too: as long as they live, nothing else lies where they lie.
            self._prepared["gallery"] = key, labels, since, moments
        return self._prepared["gallery"][2:]

    def _rows(self) -> tuple[Tensor, float]:
        """What time does for each pair of cameras and lag, float32, and for cameras nobody walked between.

        Official: its factor. Else what it adds to the distance, 1 at least (the 1 of ``1 - cos`` is in it).
        """
        if self.form == "official":
            parts = self.model.curves.split(256)  # float64
            return torch.cat([(1 / (1 + 2 * (-self.alpha * part).exp())).float() for part in parts]), 1 / 3
        if self.form == "ratio":
            logarithm = self.model.log_ratio(self.floor)
            never = float(logarithm.min())
        else:
            logarithm = self.model.log_likelihood(self.floor)
            never = math.log(self.floor)
        # Distances start at 0, as re-ranking, which squares and divides them, expects.
        best = max(float(logarithm.max()), never)
        return logarithm.neg_().add_(best).mul_(self.weight).add_(1), self.weight * (best - never) + 1


def _kind(form: str) -> type[SpatioTemporalModel] | type[SignedLags]:
    return SpatioTemporalModel if form == "official" else SignedLags


def _check_measure(form: str, weight: float = 0.0, floor: float = 1.0, alpha: float = 1.0) -> None:
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose from {', '.join(FORMS)}")
    if not 0 < floor < math.inf:
        raise ValueError(f"expected floor > 0, since its logarithm is taken, got {floor}")
    if not 0 <= weight < math.inf:
        raise ValueError(f"expected weight >= 0, got {weight}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"expected alpha > 0, got {alpha}")


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
    rows = max(1, IN_CACHE // max(1, visual.shape[1]))
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
    # A convolution in float64 unfolds its input: row by row, that is not more than one row's.
    rows = [functional.conv1d(row[None, None], kernel[None, None], padding=radius)[0] for row in curves]
    return torch.cat(rows)


def _share_(rows: Tensor) -> Tensor:
    return rows.div_(rows.sum(1, keepdim=True) + _EPSILON)
