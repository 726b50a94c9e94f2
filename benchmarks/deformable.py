"""Deformable skip connections against the convolutions that they join.

    python benchmarks/deformable.py                         # the official network, a batch of 16
    python benchmarks/deformable.py --widths 16,32,64,96,96,96
    python benchmarks/deformable.py --device cuda
    OMP_NUM_THREADS=1 python benchmarks/deformable.py --processor-time --no-copies   # beside other work

A level of the Deformable GAN is made by a convolution of each encoder, carried from pose to pose, and taken
by a convolution of the decoder. Each line has the time of all that at one level, forwards and, with
gradients, forwards and backwards. "ten copies" is what the authors do: every part's copy of all features is
warped and masked, and of all the largest is taken. What must be known first, transforms and masks, is counted
once and for all levels. Of all turns the fastest counts; memory is what the peak adds to what was there, and
is measured on CPUs only. Weights, features and people are random. Measure on a machine without other work, or
let one thread count the time that the processor spent on it; OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _measure import MIB, measure, table
from torch import Tensor, nn

from torchreid_genext.generators._deformable_parts import part_masks
from torchreid_genext.generators._deformable_transforms import part_transforms
from torchreid_genext.generators._deformable_warp import warp
from torchreid_genext.generators.deformable import OFFICIAL_ENCODER, DeformableGAN

SIZE = (128, 64)
# A person who stands, in shares of height and width, in the order of OpenPose
STANDING = (
    (0.12, 0.5), (0.2, 0.5), (0.22, 0.35), (0.36, 0.25), (0.48, 0.2), (0.22, 0.65), (0.36, 0.75), (0.48, 0.8),
    (0.5, 0.4), (0.7, 0.38), (0.92, 0.35), (0.5, 0.6), (0.7, 0.62), (0.92, 0.65), (0.1, 0.46), (0.1, 0.54),
    (0.11, 0.42), (0.11, 0.58),
)  # fmt: skip
HEADING = [
    "level",
    "features",
    "convolutions",
    "warp",
    "share",
    "ten copies",
    "warp's memory",
    "copies' memory",
]


class Level(NamedTuple):
    """What happens at one level: convolutions with their inputs, and features to be carried."""

    convolutions: list[tuple[nn.Module, Tensor]]
    features: Tensor


def people(count: int) -> Tensor:
    return (torch.tensor(STANDING) + 0.12 * torch.rand(count, 18, 2) - 0.06).clamp(0, 1) * torch.tensor(SIZE)


def levels(made: DeformableGAN, batch: int, device: torch.device) -> list[Level]:
    """Of those that are carried, the full resolution first."""
    widths, found = made.config["encoder"], []
    takers = [*(up.conv for up in made.decoder.up), made.decoder.head]
    for level in range(len(widths) - 2):
        height, width = (side >> level for side in SIZE)
        taker = takers[len(widths) - 1 - level]
        makers = [
            encoder.down[level - 1].conv if level else encoder.stem
            for encoder in (made.appearance, made.pose)
        ]
        above = (2 * height, 2 * width) if level else (height, width)
        inputs = [torch.randn(batch, maker.in_channels, *above, device=device) for maker in makers]
        joined = torch.randn(batch, taker.in_channels, height, width, device=device)
        features = torch.randn(batch, widths[level], height, width, device=device)
        found.append(Level([*zip(makers, inputs), (taker, joined)], features))
    return found


def ten_copies(features: Tensor, transforms: Tensor, masks: Tensor) -> Tensor:
    """The official arrangement."""
    parts = range(transforms.shape[1])
    everywhere = torch.ones_like(masks[:, :1])
    copies = [warp(features, transforms[:, [part]], everywhere, how="masked_max") for part in parts]
    step = masks.shape[2] // features.shape[2]
    return (torch.stack(copies, 1) * masks[:, :, None, ::step, ::step]).amax(1)


def gradients(work: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    """Forwards and backwards, to inputs and weights."""
    leaf = x.detach().requires_grad_()
    return lambda: work(leaf).sum().backward()


def plainly(work: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    return torch.no_grad()(lambda: work(x))


class Stopwatch:
    """Seconds of a call: the fastest of some turns."""

    def __init__(self, device: torch.device, turns: int, clock: Callable[[], float]) -> None:
        self.device, self.turns, self.clock = device, turns, clock

    def __call__(self, work: Callable[[], Any]) -> float:
        return min([self._turn(work) for _ in range(self.turns + 1)][1:])  # the first one tunes

    def _turn(self, work: Callable[[], Any]) -> float:
        start = self.clock()
        work()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return self.clock() - start


def compare(made: DeformableGAN, batch: int, stopwatch: Stopwatch, how: Callable, *, copied: bool) -> str:
    """A line for each level, and one for all of them with what must be known first."""
    keypoints, targets = (people(batch).to(stopwatch.device) for _ in range(2))
    transforms, masks = part_transforms(keypoints, targets), part_masks(targets, SIZE)
    known = stopwatch(lambda: (part_transforms(keypoints, targets), part_masks(targets, SIZE)))
    rows, sums = [], [0.0, known, 0.0]
    for number, level in enumerate(levels(made, batch, stopwatch.device)):
        carry = how(lambda x: warp(x, transforms, masks), level.features)
        works = [carry, how(lambda x: ten_copies(x, transforms, masks), level.features)][: 1 + copied]
        convolve = sum(stopwatch(how(conv, x)) for conv, x in level.convolutions)
        times = [convolve, *map(stopwatch, works)]
        sums = [a + b for a, b in zip(sums, times)]
        peaks = [f"{measure(work).peak / MIB:.0f} MiB" for work in works]
        rows.append(row(str(number), " x ".join(map(str, level.features.shape[1:])), times, peaks))
    rows.append(["", "parts", "", milliseconds(known), "", "", "", ""])
    return table([HEADING, *rows, row("all", "", sums, [])])


def row(name: str, shape: str, times: list[float], peaks: list[str]) -> list[str]:
    convolutions, carry, *copies = times
    share = f"{carry / convolutions:.0%}"
    cells = [name, shape, milliseconds(convolutions), milliseconds(carry), share]
    cells += [milliseconds(each) for each in copies] or [""]
    return [*cells, *peaks, *[""] * (len(HEADING) - len(cells) - len(peaks))]


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(0)
    made = DeformableGAN(SIZE, encoder=args.widths, decoder=args.widths[:0:-1]).to(args.device)
    clock = time.process_time if args.processor_time else time.perf_counter
    stopwatch = Stopwatch(args.device, args.turns, clock)
    print(f"{args.device}, {torch.get_num_threads()} threads, a batch of {args.batch} images of "
          f"{SIZE[0]} x {SIZE[1]}, widths {', '.join(map(str, args.widths))}", flush=True)  # fmt: skip
    for name, how in (("forwards", plainly), ("forwards and backwards", gradients)):
        print(f"\n{name}\n{compare(made, args.batch, stopwatch, how, copied=args.copies)}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=widths_of, default=OFFICIAL_ENCODER, metavar="C,C,C")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--copies", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--processor-time", action="store_true", help="in place of the wall clock's")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    return parser.parse_args()


def widths_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
