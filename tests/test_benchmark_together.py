"""Two processes of torchrun share one benchmark: the figures are those of one process, and one of them writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CHAINS = ("nfc", "camera_norm+lda+blend+nfc(neighbours=cross_camera)+ca_jaccard(k1_inter=8)")
LIMIT = 300  # seconds


def benchmark(data: Path, folder: Path, *start: str) -> tuple[subprocess.CompletedProcess, dict]:
    words = ["benchmark", "--root", str(data), "-t", "synthreid_tiny", "--output", str(folder)]
    words += ["--weights", str(ROOT / "pretrained" / "synthreid" / "osnet_x0_25.safetensors")]
    words += [word for chain in ("base", *CHAINS) for word in ("--chain", chain)]
    words += ["model.name", "osnet_x0_25", "data.height", "32", "data.width", "16", "use_gpu", "False"]
    words += ["data.workers", "0", "genext.benchmark.cache_dir", str(folder / "features")]
    words += ["genext.benchmark.pictures", "False", "genext.benchmark.bootstrap", "20"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *start, "torchreid_genext", *words]
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done, json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_two_processes_find_what_one_finds(reid_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(reid_data, data)
    broken = sorted((data / "synthreid_tiny").glob("bounding_box_test/*.jpg"))[-1]
    broken.write_bytes(b"no picture")
    two = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    (_, one), (shared, both) = benchmark(data, tmp_path / "one"), benchmark(data, tmp_path / "two", *two)
    assert shared.stdout.count("Report:") == 1
    (expected,), (found,) = one["models"], both["models"]
    assert list(found["unreadable"]) == list(expected["unreadable"]) == [str(broken)]
    for chain, wanted in zip(found["chains"], expected["chains"], strict=True):
        assert chain["chain"] == wanted["chain"] and chain["num_gallery"] == wanted["num_gallery"]
        assert chain["mAP"] == pytest.approx(wanted["mAP"], abs=1e-6)
        assert chain["cmc"] == pytest.approx(wanted["cmc"], abs=1e-6)
    assert found["extracted"] == expected["extracted"]
