"""IPG at its official size with random weights: the authors' arrangement, ours, each lever, and training."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import ipg
import ipg_memory
import torch
from _gpu import TERA, Part, flops
from ipg import Lever, Official, Task
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import torchreid_genext as genext
from torchreid_genext.generators.ipg import IPGPipeline, Sampling
from torchreid_genext.generators.ipg import sampler as ipg_sampler
from torchreid_genext.precision import DTYPES
from torchreid_genext.recipes.training import ipg as recipe

SIZE = {"height": 512, "width": 256}
TINY = {"height": 32, "width": 16, "patch": 4, "widths": [8, 16], "batch": 2}
COMPILING = 100  # seconds that torch.compile has at most; it is not tried in less than 30
COMPILED = Lever("", {"compile": True})
LEVERS = [
    Lever("guidance in the first half", {"interval": (0.0, 0.5)}),
    Lever("no guidance", {"guidance": 1.0}),
    Lever("DPM-Solver++, half the steps", {"scheduler": "dpmsolver++", "halved": True}),
    Lever("DPM-Solver++, half the steps, guidance in the first half",
          {"scheduler": "dpmsolver++", "halved": True, "interval": (0.0, 0.5)}),
    Lever("tiny VAE", {}, tiny_vae=True),
]  # fmt: skip


@contextlib.contextmanager
def cudnn_searches() -> Iterator[None]:
    """cuDNN tries its algorithms for each new shape and keeps the fastest."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def cudnn_attends() -> contextlib.AbstractContextManager[None]:
    """Attention by cuDNN first; torch's own order begins with flash attention."""
    others = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *others], set_priority=True)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where it takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1.0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pipeline(part: Part) -> IPGPipeline:
    """Of official size, or a tiny one; in float32."""
    torch.manual_seed(0)
    if not part.tiny:
        made = ipg.official_size(part.device)
    else:
        genext.register()
        made = recipe.build(ipg_memory.configuration(TINY)).to(part.device)
    made.set_progress_bar_config(disable=True)
    return made


class Comparison:
    """Rows of sampling, each against the authors' arrangement in the same precision."""

    def __init__(self, part: Part) -> None:
        self.part, self.pipe = part, pipeline(part)
        self.size = {name: TINY[name] for name in SIZE} if part.tiny else SIZE
        self.steps = 4 if part.tiny else ipg.STEPS
        self.few = ipg.people_and_poses(1, 2 if part.tiny else 8, self.size)
        self.many = ipg.people_and_poses(2 if part.tiny else 4, len(self.few.poses), self.size)
        self.counted: dict[str, float] = {}
        self.authors: dict[str, float] = {}
        self.pictures: Tensor | None = None

    def run(self) -> None:
        """Of most worth first: this part may be cut off anywhere."""
        ipg_sampler.weights_digest = lambda pipe: ""  # 8 GB are not to be hashed for every row
        self.row("authors' arrangement", "fp16", self.many, turns=1)
        self.row("ours, the same steps", "bf16", self.many)
        self.look_into("ours, the same steps", "bf16")
        with cudnn_searches():
            self.row("ours, cudnn.benchmark", "bf16", self.many, turns=1)
        with cudnn_attends():
            self.row("ours, cuDNN attention", "bf16", self.many, turns=1)
        contiguous = Lever("", {}, channels_last=False)
        self.row("ours, without channels_last", "bf16", self.many, contiguous, turns=1)
        self.compiled("compiled")
        with cudnn_searches(), cudnn_attends():
            self.compiled("compiled, cudnn.benchmark, cuDNN attention")
        self.row("ours, the same steps", "fp16", self.many)
        self.row("authors' arrangement", "fp32", self.few, turns=1)
        self.row("ours, the same steps", "fp32", self.few, turns=1)
        for lever in (lever for lever in LEVERS if not (lever.tiny_vae and self.part.tiny)):
            self.row(lever.name, "bf16", self.many, lever)
        for batch in (8, 16):
            self.row(f"ours, batches of {batch}", "bf16", self.many, batch=batch)

    def compiled(self, name: str) -> None:
        """A row with a limit of its own, since nobody knows how long it takes."""
        seconds = min(COMPILING, self.part.left() - 5)
        if seconds < 30:
            self.part.add(name, remark="left out: too little time")
            return
        with self.part.trying(name), within(seconds):
            self.row(name, "bf16", self.many, COMPILED)

    def look_into(self, name: str, precision: str) -> None:
        """Shares of the time of one batch."""
        with self.part.trying(f"{name}, {precision}, profile"):
            work = self.work(name, precision, self.many, Lever("", {}), batch=32)
            work()
            shares = self.part.look_into(f"{name}, {precision}", work)
            self.part.add(f"{name}, shares of the time", precision=precision, shares=shares)

    def row(
        self,
        name: str,
        precision: str,
        task: Task,
        lever: Lever | None = None,
        *,
        batch: int = 32,
        turns: int = 2,
    ) -> None:
        """Time it, count its operations unless they are known, and compare its first pictures."""
        with self.part.trying(f"{name}, {precision}"):
            self.part.start_memory()
            work = self.work(name, precision, task, lever or Lever("", {}), batch)
            operations, pictures = self.first_turn(name, work, len(task.all()[0]))
            seconds = self.part.timed(f"{name}, {precision}", work, turns) / len(pictures)
            if name.startswith("authors"):
                self.authors[precision] = seconds
            few = ipg.tensors(pictures[: len(self.few.poses)])
            self.pictures = few if self.pictures is None else self.pictures
            reference = self.authors.get("fp32" if precision == "fp32" else "fp16")
            self.part.add(
                name, precision=precision, images_per_second=1 / seconds,
                to_authors=reference / seconds if reference else None,
                tflop_per_image=operations / TERA, tflops=operations / seconds / TERA,
                of_product=operations / seconds / self.part.product(precision),
                peak_gib=self.part.peak_gib(), difference=float((few - self.pictures).abs().mean()),
                largest=float((few - self.pictures).abs().max()),
            )  # fmt: skip

    def work(self, name: str, precision: str, task: Task, lever: Lever, batch: int) -> Callable[[], Any]:
        made = copy.deepcopy(self.pipe)
        if name.startswith("authors"):
            for network in made.components.values():
                if isinstance(network, nn.Module):
                    nn.Module.to(network, DTYPES[precision])
            official = Official(made, Sampling(**self.size, steps=self.steps, guidance=ipg.GUIDANCE))
            return lambda: official(task)
        changes = {name: value for name, value in lever.changes.items() if name != "halved"}
        changes |= {
            "precision": precision,
            "steps": self.steps // 2 if "halved" in lever.changes else self.steps,
        }
        return ipg.ours(made, lever._replace(changes=changes), task, self.size, batch)

    def first_turn(self, name: str, work: Callable[[], Any], count: int) -> tuple[float, list]:
        """Operations of an image, counted the first time, and the pictures; compiled code is not counted."""
        alike = "ours, the same steps" if name.startswith(("ours", "compiled")) else name
        if alike in self.counted:
            return self.counted[alike], work()
        total, pictures = flops(work)
        self.counted[alike] = total / count
        return self.counted[alike], pictures


def sampling(part: Part) -> None:
    """The authors' arrangement and ours at equal steps, then each lever."""
    Comparison(part).run()


MODES = (
    ("full, checkpointing", 8),
    ("low rank, checkpointing", 8),
    ("full", 8),
    ("low rank", 8),
    ("full, checkpointing", 32),
    ("pose", 8),
)


def training(part: Part) -> None:
    """Steps of the task at official size in bf16, with AdamW, as the loop does them."""
    torch.backends.cudnn.benchmark = True  # as the loop has it
    for mode, batch in MODES:
        with part.trying(f"{mode}, batch {batch}"):
            step_row(part, mode, 2 if part.tiny else batch)


def step_row(part: Part, mode: str, batch: int) -> None:
    size: Mapping[str, Any] = {**(TINY if part.tiny else SIZE), "batch": batch}
    part.start_memory()
    pipe = pipeline(part)
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            network.to(memory_format=torch.channels_last)
    made = ipg_memory.task(pipe, ipg_memory.MODES[mode], ipg_memory.random_images(size, 8))
    step = partial(ipg_memory.step, made, size, part.device)
    total, _ = flops(step)
    step()
    seconds = part.timed(f"{mode}, batch {batch}", step, 4)
    part.add(
        mode, batch=batch, images_per_second=batch / seconds, milliseconds_a_step=1000 * seconds,
        tflop_per_image=total / batch / TERA, tflops=total / seconds / TERA,
        of_product=total / seconds / part.product("bf16"), peak_gib=part.peak_gib(),
        trained_millions=sum(p.numel() for p in ipg_memory.trained(made)) / 1e6,
    )  # fmt: skip
