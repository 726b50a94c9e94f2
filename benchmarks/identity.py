"""Generative identity against the FLOP floor of this machine: training, sampling and inversion in images/s.

    python benchmarks/identity.py                                  # official and half widths, eager
    python benchmarks/identity.py --compile --widths 24,48,96,192  # also torch.compile, minutes of it first
    python benchmarks/identity.py --device cuda --batch 1024       # a GPU is idle at small batches

The floor is the time in which this machine would do the arithmetic alone. torch's FLOP counter watches each
work on two images; it counts products and convolutions, two FLOP for a multiplication with its addition, and
takes everything else for free. FLOP divided by FLOP/s are seconds, and the machine's FLOP/s are those of two
plain works in the same precision, measured right before: one large square matrix product, and one 3 x 3
convolution of the size that the level before the deepest has, for networks are made of such. "2.00 of the
product" is twice the time that the arithmetic takes at the speed of the product.

A training step is the loop's: the task's loss under autocast, its gradients, fused AdamW. Networks and images
are in channels_last order, weights and images random. Amortised inversion takes four batches at once. Of all
turns the fastest counts. GPUs round fp32 convolutions, but not products, to TF32, if torch is left as it is.
Memory is what the peak of one training step adds to weights, moments of the optimizer and images. Measure on
a machine without other work; OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from _measure import MIB, measure, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from torchreid_genext.data.generator_batches.orders import Batch
from torchreid_genext.data.images.batch_transforms import Augmentation
from torchreid_genext.generators.identity import OFFICIAL_WIDTHS, IdentityGenerator
from torchreid_genext.generators.inverter import Inverter, refine
from torchreid_genext.training.identity import GeneratorTask

TERA = 1e12
PEOPLE, SIZE = 751, (64, 32)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FLOORS = ("product", "convolution")
HEADING = ["", "images/s", "GFLOP/image", "TFLOP/s", *(f"of the {name}" for name in FLOORS), "memory"]
LAST = {"memory_format": torch.channels_last}


class Way(NamedTuple):
    """How networks are run."""

    precision: str
    compiled: bool

    def __str__(self) -> str:
        return self.precision + ", compiled" * self.compiled


class Work(NamedTuple):
    """Something to be timed: `run` takes how many of its steps to do."""

    name: str
    run: Callable[[int], Any]
    steps: int
    images: int


class Networks:
    """Generator and inverter of random weights, random images, and what is done with them."""

    def __init__(self, widths: tuple[int, ...], way: Way, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        generator = IdentityGenerator(PEOPLE, image_size=SIZE, widths=widths)
        nn.init.xavier_uniform_(generator.denoiser.unet.head.weight)  # products of zeros need less power
        self.generator, self.precision = generator.to(device, **LAST), way.precision
        self.inverter = Inverter(widths, image_size=SIZE).to(device, **LAST).eval()
        if way.compiled:
            torch.compiler.reset()
            self.generator.denoiser.compile(dynamic=False)
            self.inverter.compile(dynamic=False)
        self._draw(batch, device)
        self._task(device)

    def _draw(self, batch: int, device: torch.device) -> None:
        labels = torch.randint(PEOPLE, (batch,)).to(device)
        images = torch.randint(256, (batch, 3, *SIZE), dtype=torch.uint8).to(device, **LAST)
        self.data = Batch(images, labels, torch.zeros_like(labels), torch.arange(batch))
        self.images, self.noise = images / 255, torch.randn(images.shape).to(device, **LAST)
        self.many = self.images.repeat(4, 1, 1, 1).to(**LAST)
        self.code = self.generator.table.weight.detach()[labels]

    def _task(self, device: torch.device) -> None:
        self.optimizer = torch.optim.AdamW(self.generator.parameters(), 1e-4, fused=True)
        self.task = GeneratorTask(self.generator, self.optimizer, augment=Augmentation())
        self.random = torch.Generator(device).manual_seed(0)

    def works(self) -> list[Work]:
        batch = len(self.images)
        return [
            Work("training step", self.train, 1, batch),
            Work("sampling, 10 steps", self.sample, 10, batch),
            Work("inversion to codes, amortised", self.amortise, 1, len(self.many)),
            Work("inversion to codes, refined in 5 steps", self.refine, 5, batch),
            Work("inversion to noise, 10 steps", self.invert, 10, batch),
        ]

    def train(self, steps: int) -> None:
        self.generator.train()
        for _ in range(steps):
            with self._autocast():
                loss, _ = self.task.loss("denoise", self.data, self.random)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def sample(self, steps: int) -> None:
        with self._evaluating():
            self.generator(self.code, self.noise, steps=steps)

    def amortise(self, steps: int) -> None:
        with self._evaluating():
            for _ in range(steps):
                self.inverter(self.many)

    def refine(self, steps: int) -> None:
        with self._evaluating():
            refine(self.generator, self.images, self.code, steps=steps)

    def invert(self, steps: int) -> None:
        with self._evaluating():
            self.generator.invert(self.images, self.code, steps=steps)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.generator.eval()
        with torch.no_grad(), self._autocast():
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.precision == "bf16")


class Stopwatch:
    """Seconds of a call: the fastest of turns of many calls, or one call where that is longer than a turn."""

    def __init__(self, device: torch.device, turns: int, seconds: float) -> None:
        self.device, self.turns, self.seconds = device, turns, seconds

    def __call__(self, work: Callable[[], Any]) -> float:
        once = self._turn(work, 1)
        calls = int(self.seconds / once)
        return min([once, *(self._turn(work, calls) for _ in range(self.turns if calls else 0))])

    def _turn(self, work: Callable[[], Any], calls: int) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        self.wait()
        return (time.perf_counter() - start) / calls

    def wait(self) -> None:
        """Until the device has done everything that it was asked for."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def plain_works(
    dtype: torch.dtype, device: torch.device, widths: tuple[int, ...], batch: int
) -> list[Callable[[], Tensor]]:
    """Those of the `FLOORS`."""
    side, width, halvings = 2048 if device.type == "cpu" else 8192, widths[-2], len(widths) - 2
    x, y = torch.randn(2, side, side).to(device, dtype)
    maps = torch.randn(batch, width, *(size >> halvings for size in SIZE)).to(device, dtype, **LAST)
    kernel = torch.randn(width, width, 3, 3).to(device, dtype, **LAST)
    return [lambda: x @ y, lambda: F.conv2d(maps, kernel, padding=1)]


def compare(widths: tuple[int, ...], way: Way, batch: int, stopwatch: Stopwatch) -> str:
    """The speeds that make the floors, and a table of all works."""
    plain = plain_works(DTYPES[way.precision], stopwatch.device, widths, batch)
    floors = [flops(work) / stopwatch(work) / TERA for work in plain]
    speeds = ", ".join(f"{name} {floor:.3g} TFLOP/s" for name, floor in zip(FLOORS, floors))
    rows = measured(Networks(widths, way, batch, stopwatch.device), counted(widths), floors, stopwatch)
    return f"widths {', '.join(map(str, widths))}; {way}: {speeds}\n{table([HEADING, *rows])}\n"


@cache
def counted(widths: tuple[int, ...]) -> list[float]:
    """TFLOP of each work for an image."""
    works = Networks(widths, Way("fp32", compiled=False), 2, torch.device("cpu")).works()
    return [flops(partial(work.run, work.steps)) / work.images / TERA for work in works]


def measured(
    networks: Networks, counts: list[float], floors: list[float], stopwatch: Stopwatch
) -> list[list[str]]:
    """A table row of each work; memory in that of the training step."""
    rows = []
    for work, count in zip(networks.works(), counts):
        work.run(2)  # compiles and tunes; a second step starts from what the first one leaves
        rate = work.images / stopwatch(partial(work.run, work.steps))
        ratios = [f"{floor / (rate * count):.2f}" for floor in floors]
        rows.append([work.name, f"{rate:.1f}", f"{1000 * count:.3g}", f"{rate * count:.3g}", *ratios, ""])
    rows[0][-1] = memory(networks, stopwatch)
    return rows


def memory(networks: Networks, stopwatch: Stopwatch) -> str:
    """What a training step takes for a while."""
    return f"{measure(lambda: (networks.train(1), stopwatch.wait())).peak / MIB:.0f} MiB"


def main() -> None:
    args = parse_arguments()
    torch.backends.cudnn.benchmark = True  # as the loop has it
    ways = [Way(precision, how) for precision in DTYPES for how in (False, True)[: 1 + args.compile]]
    print(f"{args.device}, {torch.get_num_threads()} threads, batches of {args.batch} images of "
          f"{SIZE[0]} x {SIZE[1]}\n{len(args.widths)} networks, each in {'; '.join(map(str, ways))}\n"
          f"{args.turns} turns of {args.seconds:g} s, or one call that is longer\n", flush=True)  # fmt: skip
    stopwatch = Stopwatch(args.device, args.turns, args.seconds)
    for widths, way in itertools.product(args.widths, ways):
        print(compare(widths, way, args.batch, stopwatch), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    half = tuple(width // 2 for width in OFFICIAL_WIDTHS)
    parser.add_argument("--widths", type=widths_of, nargs="+", default=[OFFICIAL_WIDTHS, half], metavar="C,C")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--compile", action="store_true", help="also torch.compile; needs a C++ compiler")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    return parser.parse_args()


def widths_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
