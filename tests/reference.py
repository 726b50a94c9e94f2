"""Slow, literal restatements of the formulas, in double precision: the oracles of the fast code."""

from __future__ import annotations

import numpy as np


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, M), one pair at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x])


def nearest(x: np.ndarray, y: np.ndarray | None, k: int) -> np.ndarray:
    """Indices (N, k) of the nearest rows, ties by index; without y a row does not find itself."""
    distances = squared_distances(x, x if y is None else y)
    if y is None:
        np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def nfc(features: np.ndarray, k1: int, k2: int, self_distance: float = np.inf) -> np.ndarray:
    """Pose2ID's neighbour feature centralization, as its description reads."""
    distances = squared_distances(features, features)
    np.fill_diagonal(distances, self_distance)
    lists = np.argsort(distances, axis=1, kind="stable")[:, :k1]
    result = features.astype(np.float64)
    for i in range(len(features)):
        for j in lists[i]:
            if i in lists[j][:k2]:
                result[i] = result[i] + features[j]
    return result


def id2(features: np.ndarray, pids: np.ndarray) -> np.ndarray:
    """Squared distance of each normalised feature to the mean of its identity."""
    unit = features / np.sqrt((features.astype(np.float64) ** 2).sum(1, keepdims=True))
    return np.array([((unit[i] - unit[pids == pids[i]].mean(0)) ** 2).sum() for i in range(len(unit))])


def fuse_generated(features: np.ndarray, generated: np.ndarray, eta: float, reduce: str) -> np.ndarray:
    total = np.zeros_like(features, dtype=np.float64)
    for pose in range(generated.shape[1]):
        total += generated[:, pose]
    return features + eta * (total / generated.shape[1] if reduce == "mean" else total)


def ranked(distances, pid, camid, g_pids, g_camids, ties: str = "stable") -> np.ndarray:
    """Whether each kept gallery image of one query is a match, in ranked order (nearest first).

    ties: ``stable`` by gallery index, ``pessimistic`` non-matches first, ``optimistic`` matches first.
    """
    kept = [g for g in range(len(g_pids)) if not (g_pids[g] == pid and g_camids[g] == camid)]
    preference = {
        "stable": lambda g: g,
        "pessimistic": lambda g: g_pids[g] == pid,
        "optimistic": lambda g: g_pids[g] != pid,
    }
    kept.sort(key=lambda g: (distances[g], preference[ties](g)))
    return np.array([g_pids[g] == pid for g in kept])


def average_precision(matches: np.ndarray) -> float:
    hits = [place for place, match in enumerate(matches, start=1) if match]
    return sum(found / place for found, place in enumerate(hits, start=1)) / len(hits)


def evaluate(distances, q_pids, g_pids, q_camids, g_camids, max_rank: int, ties: str = "stable"):
    """CMC (max_rank,), mAP and mINP over the queries that have a match."""
    curves, precisions, penalties = [], [], []
    for q in range(len(q_pids)):
        matches = ranked(distances[q], q_pids[q], q_camids[q], g_pids, g_camids, ties)
        if matches.any():
            first, last = np.flatnonzero(matches)[[0, -1]]
            curves.append([rank > first for rank in range(1, max_rank + 1)])
            precisions.append(average_precision(matches))
            penalties.append(matches.sum() / (last + 1))
    return np.mean(curves, axis=0), np.mean(precisions), np.mean(penalties)


def streid_average_precision(matches: np.ndarray) -> float:
    """ST-ReID's: half the precision before each match, which is 1 before the first image, half that after."""
    total, found, old = 0.0, 0, 1.0
    for place, match in enumerate(matches, start=1):
        found += match
        precision = found / place
        total += match * (old + precision) / 2
        old = precision
    return total / found


def k_reciprocal(distances: np.ndarray, num_query: int, k1: int, k2: int, lambda_value: float, power: float):
    """Zhong et al.'s re-ranking in words and sets: a matrix (N, N), the queries first; ties by index."""
    original = distances.astype(np.float64) ** power
    original = original / original.max(axis=1, keepdims=True)
    lists = np.argsort(original, axis=1, kind="stable").tolist()
    half = int(np.around(k1 / 2))

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    vectors = np.zeros_like(original)
    for i in range(len(original)):
        core = reciprocal(i, k1)
        smaller = [reciprocal(j, half) for j in core]
        members = sorted(core.union(*(s for s in smaller if 3 * len(s & core) > 2 * len(s))))
        weights = np.exp(-original[i, members])
        vectors[i, members] = weights / weights.sum()
    if k2 > 1:
        vectors = np.array([vectors[lists[i][:k2]].mean(axis=0) for i in range(len(original))])
    shared = np.array([[np.minimum(q, g).sum() for g in vectors[num_query:]] for q in vectors[:num_query]])
    jaccard = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * original[:num_query, num_query:]


def expanded(features: np.ndarray, others: np.ndarray | None, k: int, alpha: float) -> np.ndarray:
    """Alpha query expansion, one row at a time; without others, database augmentation."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    targets = unit if others is None else others / np.linalg.norm(others, axis=1, keepdims=True)
    rows = []
    for i, near in enumerate(nearest(unit, None if others is None else targets, k)):
        total = unit[i].astype(np.float64)
        for j in near:
            total = total + max(float(unit[i] @ targets[j]), 0.0) ** alpha * targets[j]
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)


def mean_frames(pids, camids, frames) -> dict[tuple[int, int], float]:
    """Mean frame of each identity under each camera, with ST-ReID's tiny number in the denominator."""
    times: dict[tuple[int, int], list[int]] = {}
    for pid, camid, frame in zip(pids, camids, frames):
        times.setdefault((pid, camid), []).append(frame)
    return {key: sum(values) / (len(values) + 1e-7) for key, values in times.items()}


def transition_counts(pids, camids, frames, interval: int, bins: int) -> dict[tuple[int, int], np.ndarray]:
    """ST-ReID's histograms, (later camera, earlier camera) -> votes by lag."""
    means, counts = mean_frames(pids, camids, frames), {}
    for pid in set(pids):
        for j in sorted(set(camids)):
            for k in sorted(set(camids)):
                if j < k and (pid, j) in means and (pid, k) in means:
                    lag = means[pid, j] - means[pid, k]
                    pair = (j, k) if lag > 0 else (k, j)
                    counts.setdefault(pair, np.zeros(bins))[min(bins - 1, int(abs(lag) / interval))] += 1
    return counts


def parzen(row: np.ndarray, sigma: float) -> np.ndarray:
    """ST-ReID's smoothing, one bin at a time."""
    result = np.zeros(len(row))
    for i in range(len(row)):
        for j in range(len(row)):
            if abs(i - j) <= 3 * sigma:
                result[i] += row[j] * np.exp(-((i - j) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    return result


def log_ratios(pids, camids, frames, interval: int, bins: int, sigma: float, floor: float):
    """(later, earlier) -> log of the density of lags of one person over that of two, both ways together."""
    means, same = mean_frames(pids, camids, frames), transition_counts(pids, camids, frames, interval, bins)
    other = {pair: np.zeros(bins) for pair in same}
    for (pid, camid), time in means.items():
        for (pid2, camid2), time2 in means.items():
            if pid != pid2 and time > time2 and (camid, camid2) in other:
                other[camid, camid2][min(bins - 1, int((time - time2) / interval))] += 1
    same, other = ({pair: parzen(row, sigma) for pair, row in rows.items()} for rows in (same, other))

    def density(rows, pair):
        both = [rows[way].sum() for way in (pair, pair[::-1]) if way in rows]
        return rows[pair] / sum(both)

    return {pair: np.log((density(same, pair) + floor) / (density(other, pair) + floor)) for pair in same}


def merged_tracklets(features: np.ndarray, camids, frames, gap: int, threshold: float) -> np.ndarray:
    """Mean direction of what one camera saw at the same time and that looks alike."""
    unit = features / np.sqrt((features.astype(np.float64) ** 2).sum(1, keepdims=True))
    rows = []
    for i in range(len(unit)):
        together = [
            j for j in range(len(unit))
            if i == j
            or camids[i] == camids[j] and abs(frames[i] - frames[j]) <= gap and unit[i] @ unit[j] >= threshold
        ]  # fmt: skip
        rows.append(unit[together].sum(0))
    return np.array([row / np.sqrt((row**2).sum()) for row in rows])


def recall_curve(matches: np.ndarray, length: int = 25) -> list[float]:
    """GenerativePersonReID's "CMC": of the matches among the first 25, the share among the first k."""
    shown = matches[:length]
    return [1.0 if not shown.any() else shown[:k].sum() / shown.sum() for k in range(1, length + 1)]


def diffusion_rates(t: float, max_signal_rate: float = 0.95, min_signal_rate: float = 0.02):
    """Signal and noise rate at one time: an angle that grows evenly."""
    first, last = np.arccos(max_signal_rate), np.arccos(min_signal_rate)
    angle = first + t * (last - first)
    return np.cos(angle), np.sin(angle)


def sinusoidal(variance: float, width: int, max_frequency: float = 1000.0) -> list[float]:
    """One number embedded: sines, then cosines, at frequencies in geometric order."""
    half = width // 2
    frequencies = [max_frequency ** (i / (half - 1) if half > 1 else 0.0) for i in range(half)]
    waves = [2 * np.pi * frequency * variance for frequency in frequencies]
    return [np.sin(wave) for wave in waves] + [np.cos(wave) for wave in waves]


def network_says(prediction: str, signal: float, noise: float) -> tuple[float, float]:
    """What of x and what of the noise the output of a network is."""
    return {"eps": (0.0, 1.0), "signal": (1.0, 0.0), "v": (-noise, signal)}[prediction]


def taken_apart(prediction: str, output: np.ndarray, noisy: np.ndarray, signal: float, noise: float):
    """x and noise of one sample, pixel by pixel: two linear equations, what is seen and what is answered."""
    equations = np.array([[signal, noise], network_says(prediction, signal, noise)], dtype=np.float64)
    pixels = [np.linalg.solve(equations, pair) for pair in zip(noisy.ravel(), output.ravel())]
    return tuple(np.array(part).reshape(noisy.shape) for part in zip(*pixels))


def sampled(denoise, noise: np.ndarray, steps: int, **ends: float) -> np.ndarray:
    """DDIM of one sample; denoise: (noisy, signal rate, noise rate) -> (x, noise)."""
    noisy = noise
    for k in range(steps):
        x, left = denoise(noisy, *diffusion_rates(1 - k / steps, **ends))
        signal_rate, noise_rate = diffusion_rates(1 - (k + 1) / steps, **ends)
        noisy = signal_rate * x + noise_rate * left
    return x


def inverted(denoise, x: np.ndarray, steps: int, settle: int, **ends: float) -> np.ndarray:
    """The steps of DDIM backwards, from the last time at which a sample is looked at up to time 1."""
    rates = [diffusion_rates((k + 1) / steps, **ends) for k in range(steps)]
    noise = np.zeros_like(x)
    for _ in range(settle):
        noise = denoise(rates[0][0] * x + rates[0][1] * noise, *rates[0])[1]
    noisy = rates[0][0] * x + rates[0][1] * noise
    for now, then in zip(rates, rates[1:]):
        found, left = denoise(noisy, *now)
        noisy = then[0] * found + then[1] * left
    return noisy


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One image (C, H, W) under a kernel (out, C, k, k), zeros around it, an output pixel at a time."""
    size, (height, width) = kernel.shape[-1], x.shape[1:]
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    result = np.empty((len(kernel), height, width))
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + size, column : column + size]
            result[:, row, column] = np.tensordot(kernel, window, 3) + bias
    return result


def residual_block(state: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """Standardise with kept statistics, convolve, SiLU, convolve, add the input."""
    mean, variance = (state[f"{name}.bn.running_{part}"][:, None, None] for part in ("mean", "var"))
    y = (x - mean) / np.sqrt(variance + 1e-3)
    y = convolved(y, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"])
    y = convolved(y / (1 + np.exp(-y)), state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"])
    if f"{name}.shortcut.weight" in state:
        x = convolved(x, state[f"{name}.shortcut.weight"], state[f"{name}.shortcut.bias"])
    return x + y


def halved(x: np.ndarray) -> np.ndarray:
    """Means of squares of two by two pixels."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def doubled(x: np.ndarray) -> np.ndarray:
    """Bilinear, with pixels as squares: a new centre lies a quarter of an old pixel off an old one."""
    for axis in (1, 2):
        places = np.clip((np.arange(2 * x.shape[axis]) + 0.5) / 2 - 0.5, 0, x.shape[axis] - 1)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, x.shape[axis] - 1)
        share = (places - below).reshape(-1, *[1] * (2 - axis))
        x = x.take(below, axis) * (1 - share) + x.take(above, axis) * share
    return x


def with_constants(x: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """A vector appended as channels that are the same everywhere."""
    return np.concatenate([x, np.broadcast_to(vector[:, None, None], (len(vector), *x.shape[1:]))])


def encoded(state: dict[str, np.ndarray], x: np.ndarray, code: np.ndarray, levels: int, depth: int):
    """Down to the deepest level; also what the way up is given of each block, the last block first."""
    skips = []
    for level in range(levels - 1):
        for block in range(depth):
            x = residual_block(state, f"down.{level}.{block}", x)
            skips.insert(0, x)
        x = with_constants(halved(x), code)
    for block in range(depth):
        x = residual_block(state, f"mid.{block}", x)
    return x, skips


def unet(state: dict[str, np.ndarray], image: np.ndarray, code, context, levels: int, depth: int):
    """One image through the U-Net; the context joins once, the code at the input and after each halving."""
    x = convolved(image, state["stem.weight"], state["stem.bias"])
    x = with_constants(with_constants(x, context), code)
    x, skips = encoded(state, x, code, levels, depth)
    for level in range(levels - 1):
        x = doubled(x)
        for block in range(depth):
            skip = skips[level * depth + block]
            x = residual_block(state, f"up.{level}.{block}", np.concatenate([x, skip]))
    return convolved(x, state["head.weight"], state["head.bias"])


def adam(gradient, start: np.ndarray, steps: int, step_size: float) -> np.ndarray:
    """Kingma and Ba's descent of one vector; gradient: vector -> vector."""
    x, first, second = start.astype(np.float64), np.zeros(len(start)), np.zeros(len(start))
    for step in range(1, steps + 1):
        slope = gradient(x)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        x = x - step_size * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-12)
    return x


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Of images (C, H, W): at each place the formula of Wang et al. (2004) under a Gaussian of 11 pixels."""
    places = np.arange(-5, 6)
    window = np.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for x, y in zip(a, b):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
                p_mean, q_mean = (window * p).sum(), (window * q).sum()
                p_var, q_var = (window * (p - p_mean) ** 2).sum(), (window * (q - q_mean) ** 2).sum()
                both = (window * (p - p_mean) * (q - q_mean)).sum()
                light = (2 * p_mean * q_mean + 1e-4) / (p_mean**2 + q_mean**2 + 1e-4)
                values.append(light * (2 * both + 9e-4) / (p_var + q_var + 9e-4))
    return float(np.mean(values))


def soft_margin_triplet(codes: np.ndarray, labels: np.ndarray, scale: float) -> float:
    """Mean over images of log(1 + e^(scale (furthest of the same person - nearest of another)))."""
    losses = []
    for i in range(len(codes)):
        distances = [float(np.linalg.norm(codes[i] - code)) for code in codes]
        furthest = max(d for d, label in zip(distances, labels) if label == labels[i])
        nearest = min(d for d, label in zip(distances, labels) if label != labels[i])
        losses.append(np.log1p(np.exp(scale * (furthest - nearest))))
    return float(np.mean(losses))


def joints_in_place(found: list[list[float]], target: list[list[float]], radius: float) -> float:
    """PCK, joint by joint: which of the target's joints are found within a share of its longer side."""
    wanted = [place for place in target if -1 not in place]
    sides = [max(p[axis] for p in wanted) - min(p[axis] for p in wanted) for axis in (0, 1)]
    right = 0
    for place, where in zip(target, found):
        if -1 not in place and -1 not in where:
            distance = sum((a - b) ** 2 for a, b in zip(place, where)) ** 0.5
            right += distance <= radius * max(sides)
    return right / len(wanted)


def pg2_discs(centres: list, size: tuple[int, int], radius: int) -> np.ndarray:
    """1 on every pixel that is near enough to one of the centres (y, x), which are truncated."""
    image = np.zeros(size, int)
    for y, x in centres:
        for row in range(size[0]):
            for column in range(size[1]):
                if (row - int(y)) ** 2 + (column - int(x)) ** 2 <= radius**2:
                    image[row, column] = 1
    return image


def pg2_mask(pose: np.ndarray, limbs: list, size: tuple[int, int], radius: int) -> np.ndarray:
    """PG2's mask of the body of one pose (18, 2): discs along limbs, then a closing of 5 x 5 pixels."""
    centres = []
    for first, second in limbs:
        a, b = pose[first], pose[second]
        if min(a) >= 0 and min(b) >= 0:
            centres += [a, b]
            n = int(np.sqrt(((a - b) ** 2).sum()) / radius)
            centres += [a + (b - a) * i / n for i in range(1, n)]
    mask = pg2_discs(centres, size, radius)
    for pick in (np.max, np.min):
        windows = [[mask[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3] for c in range(size[1])]
                   for r in range(size[0])]  # fmt: skip
        mask = np.array([[pick(window) for window in row] for row in windows])
    return mask


def halving_convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(C, H, W) with stride 2 and TensorFlow's SAME border, for even sizes: less of it above and left."""
    side, (_, height, width) = kernel.shape[-1], x.shape
    before = (side - 2) // 2
    padded = np.pad(x, ((0, 0), (before, side - 2 - before), (before, side - 2 - before)))
    result = np.empty((len(kernel), height // 2, width // 2))
    for row in range(height // 2):
        for column in range(width // 2):
            window = padded[:, 2 * row : 2 * row + side, 2 * column : 2 * column + side]
            result[:, row, column] = (kernel * window).sum((1, 2, 3)) + bias
    return result


def pg2_discriminator(state: dict[str, np.ndarray], batch: np.ndarray) -> np.ndarray:
    """Logits (B,) of images (B, C, H, W), normalised over the batch in all layers but the first."""
    x = batch.astype(np.float64)
    for layer in range(4):
        kernel, bias = state[f"convs.{layer}.weight"], state[f"convs.{layer}.bias"]
        x = np.stack([halving_convolved(image, kernel, bias) for image in x])
        if layer:
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            gamma, beta = (state[f"norms.{layer - 1}.{part}"][:, None, None] for part in ("weight", "bias"))
            x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        x = np.where(x > 0, x, 0.2 * x)
    return x.reshape(len(x), -1) @ state["head.weight"][0] + state["head.bias"]


def uniform_similarity(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """Structural similarity of images (C, H, W) as PG2 has it: squares of 7 pixels, variances of samples."""
    first, second = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for x, y in zip(a, b):
        for top in range(x.shape[0] - 6):
            for left in range(x.shape[1] - 6):
                p, q = x[top : top + 7, left : left + 7].ravel(), y[top : top + 7, left : left + 7].ravel()
                covariance = np.cov(p, q)
                light = (2 * p.mean() * q.mean() + first) / (p.mean() ** 2 + q.mean() ** 2 + first)
                shape = (2 * covariance[0, 1] + second) / (covariance[0, 0] + covariance[1, 1] + second)
                values.append(light * shape)
    return float(np.mean(values))


def inception_score(predictions: np.ndarray, splits: int) -> tuple[float, float]:
    """exp of the mean divergence of a part's predictions from their average, over parts."""
    scores = []
    for part in range(splits):
        start, end = (place * len(predictions) // splits for place in (part, part + 1))
        rows = predictions[start:end]
        scores.append(np.exp(np.mean([(p * (np.log(p) - np.log(rows.mean(0)))).sum() for p in rows])))
    return float(np.mean(scores)), float(np.std(scores))


def color_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of the colours of images (N, 3, H, W) in [0, 1], pixel by pixel."""
    from scipy.linalg import sqrtm

    moments = []
    for images in (a, b):
        pixels = [image[:, y, x] for image in images for y, x in np.ndindex(image.shape[1:])]
        mean = sum(pixels) / len(pixels)
        moments.append((mean, sum(np.outer(pixel - mean, pixel - mean) for pixel in pixels) / len(pixels)))
    (first, spread), (second, other) = moments
    return float(((first - second) ** 2).sum() + np.trace(spread + other - 2 * sqrtm(spread @ other).real))


def instance_normalized(x: np.ndarray) -> np.ndarray:
    """Each channel of one image (C, H, W) with mean 0 and variance 1."""
    return np.stack([(channel - channel.mean()) / np.sqrt(channel.var() + 1e-5) for channel in x])


def strided(image: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, margin: int) -> np.ndarray:
    """A convolution of one image (C, H, W) under a black margin, place by place."""
    image = np.pad(image, ((0, 0), (margin, margin), (margin, margin)))
    size = weight.shape[-1]
    places = [range(0, side - size + 1, stride) for side in image.shape[1:]]
    rows = [
        [(weight * image[:, y : y + size, x : x + size]).sum((1, 2, 3)) + bias for x in places[1]]
        for y in places[0]
    ]
    return np.array(rows).transpose(2, 0, 1)


def reflected(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A convolution of one image under a margin that mirrors it."""
    margin = weight.shape[-1] // 2
    wide = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    return strided(wide, weight, bias, 1, 0)


def transposed(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3 x 3 convolution backwards: each pixel leaves its weights (C, D, 3, 3) two places further on."""
    _, height, width = image.shape
    result = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for y, x in np.ndindex(height, width):
        result[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3] += np.tensordot(image[:, y, x], weight, 1)
    return result[:, 1 : 2 * height + 1, 1 : 2 * width + 1] + bias[:, None, None]


def cyclegan_generator(state: dict[str, np.ndarray], image: np.ndarray, blocks: int) -> np.ndarray:
    """CycleGAN's generator, layer by layer, under the authors' numbers of layers."""

    def layer(number: str) -> tuple[np.ndarray, np.ndarray]:
        return state[f"model.{number}.weight"], state[f"model.{number}.bias"]

    def active(x: np.ndarray) -> np.ndarray:
        return np.maximum(instance_normalized(x), 0)

    x = active(reflected(image, *layer("1")))
    x = active(strided(x, *layer("4"), 2, 1))
    x = active(strided(x, *layer("7"), 2, 1))
    for block in range(10, 10 + blocks):
        inside = active(reflected(x, *layer(f"{block}.conv_block.1")))
        x = x + instance_normalized(reflected(inside, *layer(f"{block}.conv_block.5")))
    x = active(transposed(x, *layer(f"{10 + blocks}")))
    x = active(transposed(x, *layer(f"{13 + blocks}")))
    return np.tanh(reflected(x, *layer(f"{17 + blocks}")))


def image_pool(size: int, batches: list[list], decisions: list[tuple[list[int], list[bool]]]) -> list[list]:
    """What is shown in place of new images: one after the other, with what was drawn for each batch."""
    kept, shown = [], []
    for images, (places, swapped) in zip(batches, decisions):
        full, row = len(kept) == size, []
        for image, place, swap in zip(images, places, swapped):
            if full and swap:
                kept[place], image = image, kept[place]
            elif not full and len(kept) < size:
                kept.append(image)
            row.append(image)
        shown.append(row)
    return shown


def convex_contains(corners: np.ndarray, y: float, x: float) -> bool:
    """Whether a point is in a convex polygon (V, 2) of (y, x) or on its edge: on one side of all edges."""
    sides = []
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0)):
        sides.append((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0))
    return not (min(sides) < 0 < max(sides))


def direct_linear_transform(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Affine (2, 3) from points (N, 2) to points, both normalised, by the least singular vector."""

    def normalizing(points: np.ndarray) -> np.ndarray:
        centre = points.mean(0)
        scale = np.sqrt(2 / ((points - centre) ** 2).sum(1).mean())
        return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])

    to, by, rows = normalizing(target), normalizing(source), []
    for (x, y), (u, v) in zip(target, source):
        x, y, _ = to @ [x, y, 1]
        u, v, _ = by @ [u, v, 1]
        rows += [[x, y, 1, 0, 0, 0, u], [0, 0, 0, x, y, 1, v]]
    least = np.linalg.svd(np.array(rows))[2][-1]
    affine = np.vstack([(-least[:6] / least[6]).reshape(2, 3), [0, 0, 1]])
    return (np.linalg.inv(by) @ affine @ to)[:2]


def carried(features: np.ndarray, transforms: np.ndarray, masks: np.ndarray, how: str) -> np.ndarray:
    """Features (C, h, w) by parts: each pixel asks every part (P, 2, 3) whose mask (P, h, w) covers it."""
    result = np.zeros_like(features)
    channels, height, width = features.shape
    for y in range(height):
        for x in range(width):
            answers = []
            for (across, down), mask in zip(transforms, masks):
                u, v = (row[0] * x + row[1] * y + row[2] for row in (across, down))
                u, v = (int(np.sign(place) * np.floor(abs(place) + 0.5)) for place in (u, v))
                inside = 0 <= u < width and 0 <= v < height
                value = features[:, v, u] if inside else np.zeros(channels)
                if mask[y, x] and (inside or how == "avg"):
                    answers.append(value)
                elif how == "max":
                    answers.append(np.zeros(channels))
            if answers:
                result[:, y, x] = np.mean(answers, 0) if how == "avg" else np.max(answers, 0)
    return result


def nearest_neighbour(real: np.ndarray, generated: np.ndarray, window: int) -> np.ndarray:
    """Of features (C, H, W): at each place the least L1 distance to a real one in the window around it."""
    _, height, width = real.shape
    reach, result = window // 2, np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            near = real[:, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            result[y, x] = np.abs(near - generated[:, y, x][:, None, None]).sum(0).min()
    return result
