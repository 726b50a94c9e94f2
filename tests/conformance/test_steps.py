"""DMON, ARO and CA-Jaccard against outputs of their authors' programs."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from tests.conformance.conftest import settings, vectors
from torchreid_genext.retrieval.neighbour_enhancement import aro, dmon
from torchreid_genext.retrieval.reranking import ca_jaccard

ENHANCED, CAMERAS = "dmon_aro.safetensors", "ca_jaccard.safetensors"
HALF = 1e-3  # the authors' descriptions in float16 have three digits


def recorded(file: str) -> dict[str, Tensor]:
    return load_file(vectors("steps") / file)


def names(file: str, start: str) -> list[str]:
    return [name for name in sorted(recorded(file)) if name.startswith(start)]


def same(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", names(ENHANCED, "dmon."))
def test_dmon(name: str) -> None:
    file, side = recorded(ENHANCED), name.split(".")[1]
    same(dmon(file[side], **settings(name)), file[name])


@pytest.mark.parametrize("name", names(ENHANCED, "aro."))
def test_aro(name: str) -> None:
    file = recorded(ENHANCED)
    same(aro(file["query"], file["gallery"], **settings(name)), file[name])


@pytest.mark.parametrize("name", names(ENHANCED, "dmon_aro."))
def test_aro_of_dmon(name: str) -> None:
    file = recorded(ENHANCED)
    sets = (normalize(dmon(normalize(file[side]))) for side in ("query", "gallery"))
    same(aro(*sets, **settings(name)), file[name])


@pytest.mark.parametrize("name", names(CAMERAS, "float"))
def test_ca_jaccard(name: str) -> None:
    file, share = recorded(CAMERAS), float(re.search(r"lambda=([\d.]*\d)", name)[1])
    numbers = {key: int(value) for key, value in re.findall(r"(k\d_\w+)=(\d+)", name)}
    cameras = file["camids"].split([len(file["query"]), len(file["gallery"])])
    found = ca_jaccard(file["query"], file["gallery"], *cameras, **numbers, lambda_value=share)
    same(found, file[name], HALF if name.startswith("float16") else 1e-5)
