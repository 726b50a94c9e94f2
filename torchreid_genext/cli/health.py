"""What a machine has for this package: versions, torchreid, devices, memory; each fault with its cure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torchreid_genext as genext

__all__ = ["FAULT", "NOTE", "OK", "Finding", "devices", "extras", "host", "memory", "tried", "versions"]

OK, NOTE, FAULT = "ok", "note", "fault"
_US = "torchreid_genext"
_REQUIREMENT = re.compile(r"([\w.-]+)\s*\(?>=\s*([\d.]+)\)?(?:\s*;\s*extra == ['\"](\w+)['\"])?")
# Only these differ between the name that pip knows and that of the module.
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "pyyaml": "yaml", "faiss-cpu": "faiss"}
_FOR = {
    "faiss": "approximate search",
    "timm": "models timm:NAME",
    "onnx": "models onnx:FILE",
    "parquet": "features in Parquet files",
    "export": "torchreid-genext export to ONNX",
    "app": "torchreid-genext explore",
    "metrics": "FID with Inception features",
}
_LEAST_MEMORY = 2**30
_CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """What was found of a subject: its kind is OK, NOTE (something is left out) or FAULT; and the cure."""

    subject: str
    kind: str
    told: str
    cure: str = ""


@dataclass(frozen=True)
class _Requirement:
    name: str
    least: str
    extra: str | None

    def finding(self) -> Finding:
        cure = f"pip install --upgrade '{self.name}>={self.least}'"
        try:
            version = importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return self._without_version(cure)
        if _numbers(version) < _numbers(self.least):
            return Finding(self.name, FAULT, f"expected {self.least} or newer, got {version}", cure)
        return Finding(self.name, OK, version)

    def _without_version(self, cure: str) -> Finding:
        """A module may be there all the same: from a folder, or of another distribution."""
        module = _MODULES.get(self.name, self.name.replace("-", "_"))
        if importlib.util.find_spec(module):
            return Finding(self.name, NOTE, f"the module {module} is there, its version is not known")
        return Finding(self.name, FAULT, "is not installed", cure)


def tried(subject: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """All findings of a check; whatever stops it is one more."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except Exception as error:  # a broken installation raises anything
        said = " ".join(str(error).split()) or type(error).__name__
        found.append(Finding(subject, FAULT, said))
    return found


def versions() -> Iterator[Finding]:
    """Python and each package that is required, against the bounds that the package itself declares."""
    requirements = _requirements()
    if not requirements:
        cure = "run `pip install -e .` in its folder"
        yield Finding(_US, NOTE, "is not installed, so that the versions that fit are not known", cure)
        return
    yield from _own_version()
    found = [each.finding() for each in requirements if each.extra is None]
    yield from (finding for finding in found if finding.kind != OK)
    fitting = [f"{finding.subject} {finding.told}" for finding in found if finding.kind == OK]
    yield Finding("packages", OK, f"{len(fitting)} fit: {', '.join(fitting)}")


def _own_version() -> Iterator[Finding]:
    metadata = importlib.metadata.metadata(_US)
    python = platform.python_version()
    least = re.sub("[^0-9.]", "", metadata["Requires-Python"] or "0")
    if _numbers(python) < _numbers(least):
        told = f"expected {least} or newer, got {python}"
        yield Finding("python", FAULT, told, "install a newer one, and this package there")
    else:
        yield Finding("python", OK, python)
    if metadata["Version"] != genext.__version__:
        told = f"{genext.__version__}, but it was installed as {metadata['Version']}: bounds may be old ones"
        yield Finding(_US, NOTE, told, "run `pip install -e .` in its folder again")
    else:
        yield Finding(_US, OK, genext.__version__)


def _requirements() -> list[_Requirement]:
    """Those of the installed package; none if it is not installed."""
    try:
        lines = importlib.metadata.requires(_US) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [_Requirement(*found.groups()) for line in lines if (found := _REQUIREMENT.match(line))]


def _numbers(version: str) -> tuple[int, ...]:
    """To compare versions by; what stands behind a plus tells of the build."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def extras() -> Iterator[Finding]:
    """Optional packages: what is not there is a note, what is too old a fault."""
    by_extra: dict[str, list[Finding]] = {}
    for each in _requirements():
        if each.extra in _FOR:
            by_extra.setdefault(each.extra, []).append(each.finding())
    for extra, found in by_extra.items():
        yield from _extra(extra, found)


def _extra(extra: str, found: list[Finding]) -> Iterator[Finding]:
    absent = [finding for finding in found if finding.told == "is not installed"]
    yield from (finding for finding in found if finding.kind != OK and finding not in absent)
    if absent:
        names = ", ".join(finding.subject for finding in absent)
        cure = f"pip install {' '.join(finding.cure.split()[-1] for finding in absent)}"
        yield Finding(extra, NOTE, f"{names} not installed; only for {_FOR[extra]}", cure)
    elif all(finding.kind == OK for finding in found):
        yield Finding(extra, OK, ", ".join(f"{finding.subject} {finding.told}" for finding in found))


def host() -> Iterator[Finding]:
    """torchreid, in either layout, and our models and data sets in its tables."""
    from torchreid_genext import compat

    found = compat.host()
    missing = [name for name in ("data", "models", "engine", "metrics") if not hasattr(found, name)]
    if missing:
        told = f"{found.__file__} has no {', '.join(missing)}: it is another package of that name"
        yield Finding("torchreid", FAULT, told, "remove it, and pip install 'torchreid>=0.2.5'")
        return
    genext.register()
    layout = "PyPI (torchreid.reid)" if found.models.__name__.startswith("torchreid.reid") else "upstream"
    yield Finding("torchreid", OK, f"laid out as {layout}; {len(compat.model_names())} models known")


def devices() -> Iterator[Finding]:
    """The processor and each accelerator, with the precision that is fast there."""
    import torch

    from torchreid_genext.processes import usable_cores

    yield Finding("cpu", OK, f"{usable_cores()} cores, {torch.get_num_threads()} threads; {_fast('cpu')}")
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        yield from (_device(f"{kind}:{index}") for index in range(torch.accelerator.device_count()))
    elif shutil.which("nvidia-smi"):
        cure = "install a build of torch for it, see pytorch.org"
        yield Finding("accelerator", NOTE, "there is an NVIDIA driver, but torch sees no device", cure)
    else:
        yield Finding("accelerator", OK, "none; all works on the processor")


def _device(name: str) -> Finding:
    import torch

    try:
        torch.ones(8, 8, device=name).matmul(torch.ones(8, 8, device=name)).sum().item()
    except RuntimeError as error:
        cure = "install a build of torch for this device and its driver, see pytorch.org"
        return Finding(name, FAULT, f"cannot compute: {str(error).splitlines()[0]}", cure)
    return Finding(name, OK, f"{_named(name)}; {_fast(name)}")


def _named(name: str) -> str:
    """What a device is, and its free memory, where its library tells."""
    import torch

    module = getattr(torch, name.partition(":")[0], None)
    told = module.get_device_name(name) if hasattr(module, "get_device_name") else name
    if hasattr(module, "mem_get_info"):
        free, total = module.mem_get_info(name)
        told += f", {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return told


def _fast(device: str) -> str:
    from torchreid_genext import precision

    if precision.computes_bf16(device):
        return "bf16 is fast, precision auto takes it"
    return "fp32 is fast, precision auto takes it; bf16 would be imitated, many times slower"


def memory(least: int = _LEAST_MEMORY) -> Iterator[Finding]:
    """Bytes that this process may still take, if the system tells."""
    free = _free_memory()
    if free is not None and free < least:
        cure = "end other programs, or take smaller batches and a smaller genext.evaluation.memory_limit"
        told = f"expected {least / 2**30:.1f} GiB or more, got {free / 2**30:.1f} GiB that are free"
        yield Finding("memory", FAULT, told, cure)
    elif free is not None:
        yield Finding("memory", OK, f"{free / 2**30:.1f} GiB free")


def _free_memory() -> int | None:
    """Of the system, or of the container, if that allows less; None where Linux does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    free = int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024
    try:
        most, taken = (int((_CONTAINER / f"memory.{what}").read_text()) for what in ("max", "current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, most - taken)
