"""Features of generated images: the encoder's own numbers, its cache, and its quarantine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchreid_genext.data.store.lookup import Coverage, GeneratedImages, find_generated
from torchreid_genext.extraction import Encoder, extract, generated_features, plan_generated

NAMES = [f"000{i}_c1s1_000001_00.jpg" for i in range(1, 6)]


class MeanColours(nn.Module):
    """The simplest network."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(MeanColours(), "mean", height=32, width=16)


@pytest.fixture
def images(tmp_path: Path) -> GeneratedImages:
    """Five images in three poses, each of a colour of its own."""
    colours = np.random.default_rng(0)
    for pose in (1, 2, 3):
        folder = tmp_path / "query_gen" / f"pose{pose}"
        folder.mkdir(parents=True)
        for name in NAMES:
            Image.new("RGB", (16, 32), tuple(colours.integers(0, 256, 3).tolist())).save(folder / name)
    return find_generated(tmp_path, NAMES, "query")


def test_features_are_those_of_the_files_one_by_one(encoder: Encoder, images: GeneratedImages) -> None:
    found = generated_features(encoder, images, torch.rand(5, 3), workers=0)
    for row, files in zip(found.features, images.paths):
        assert torch.equal(row, extract(encoder, files, workers=0).features)
    assert (found.coverage, found.unreadable, found.computed) == (Coverage(3, 5, 0, 0), {}, 15)


def test_second_run_comes_from_the_cache(encoder: Encoder, images: GeneratedImages, tmp_path: Path) -> None:
    own, options = torch.rand(5, 3), {"cache_dir": tmp_path / "cache", "workers": 0}
    assert sum(plan.to_compute for plan in plan_generated(encoder, images, tmp_path / "cache")) == 15
    first = generated_features(encoder, images, own, **options)
    second = generated_features(encoder, images, own, **options)
    assert torch.equal(first.features, second.features)
    assert (first.computed, second.computed) == (15, 0)
    assert sum(plan.to_compute for plan in plan_generated(encoder, images, tmp_path / "cache")) == 0


def test_torn_images_are_listed_and_something_stands_in(encoder: Encoder, images: GeneratedImages) -> None:
    own = torch.rand(5, 3)
    torn = [images.paths[0][1], *images.paths[4]]
    for path in torn:
        Path(path).write_bytes(Path(path).read_bytes()[:150])
    found = generated_features(encoder, images, own, workers=0)
    assert set(found.unreadable) == set(torn)
    assert found.coverage == Coverage(3, complete=3, partial=1, without=1)
    torch.testing.assert_close(found.features[0, 1], found.features[0, [0, 2]].mean(0))
    assert torch.equal(found.features[4], own[4].expand(3, 3))


def test_a_pose_of_torn_images_alone_is_missing(encoder: Encoder, images: GeneratedImages) -> None:
    for files in images.paths:
        Path(files[2]).write_bytes(b"")
    assert generated_features(encoder, images, torch.rand(5, 3), workers=0).coverage.partial == 5


def test_strict_stops_at_a_torn_image(encoder: Encoder, images: GeneratedImages) -> None:
    Path(images.paths[2][0]).write_bytes(b"")
    with pytest.raises(ValueError, match="expected only readable images, got .*pose1"):
        generated_features(encoder, images, torch.rand(5, 3), workers=0, strict=True)
