"""The weights that come with the repository: listed, small, and read by what reads them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from torchreid_genext import checkpoints, compat
from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.data.synthetic import CAMERAS, Pose, View, random_identity, render
from torchreid_genext.data.synthetic.render import render_with_joints
from torchreid_genext.data.synthetic.standard_poses import STANDARD_POSES
from torchreid_genext.evaluation import quality
from torchreid_genext.evaluation.synthetic_truth import joints, stacked
from torchreid_genext.generators import build_generator
from torchreid_genext.generators.deformable import person_mask
from torchreid_genext.generators.ipg import IPGPipeline, IPGSampler, Sampling
from torchreid_genext.generators.prior import CodePrior
from torchreid_genext.recipes.drawing.samplers import ADVERSARIAL

FOLDER = ROOT / "pretrained"
OF_POSES = ("pg2", "deformable")
SHIPPED = sorted(FOLDER.glob("synthreid/**/*.safetensors"))  # others may lie beside them, fetched by the user
SUMS = (FOLDER / "synthreid/SHA256SUMS").read_text().splitlines()
SHA256 = {f"synthreid/{name}": known for known, name in (line.split("  ") for line in SUMS)}
LISTED = re.findall(r"^\| `(synthreid/\S+)` ", (FOLDER / "README.md").read_text(), re.MULTILINE)


def test_all_files_are_listed_and_small() -> None:
    assert {str(path.relative_to(FOLDER)) for path in SHIPPED} == set(LISTED) == set(SHA256)
    of_ipg = [path.stat().st_size for path in SHIPPED if "ipg" in path.parts]
    of_gans = [path.stat().st_size for path in SHIPPED if path.stem in ADVERSARIAL]
    assert sum(of_ipg) <= 15e6 and sum(of_gans) <= 15e6
    assert sum(path.stat().st_size for path in SHIPPED) - sum(of_ipg + of_gans) <= 12 * 2**20


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_files_are_those_that_are_listed(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[str(path.relative_to(FOLDER))]


def test_networks_of_generative_identity_fit_together(registered: None) -> None:
    """People of the prior are drawn, and the backbone recognises whom it sees under other noises."""
    generator = build_generator("identity", FOLDER / "synthreid/generator.safetensors")
    prior = CodePrior.load(FOLDER / "synthreid/prior.safetensors")
    inverter = compat.build_model("genid", 1, loss="softmax", pretrained=False)
    checkpoints.load_weights(inverter, FOLDER / "synthreid/inverter.safetensors")
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        codes = prior(torch.randn(8, prior.code_width, generator=random))
        images = generator(codes.repeat(2, 1), generator.noise(16, random))
        found = torch.nn.functional.normalize(inverter.eval().code(images), dim=1)
    assert images.shape == (16, 3, 64, 32) and images.std() > 0.1
    best = (found[:8] @ found[8:].T).argmax(1)
    assert (best == torch.arange(8)).sum() >= 6


def test_ipg_draws_whom_it_has_seen(registered: None) -> None:
    """Before one camera and in two poses, people are nearer to themselves than to the others."""
    pipe = IPGPipeline.from_pretrained(FOLDER / "synthreid/ipg")
    pipe.set_progress_bar_config(disable=True)
    people = [render(random_identity(n), Pose(), View(), CAMERAS[2], seed=n) for n in range(5)]
    poses = {name: draw_skeleton(standard_poses(128, 64)[name], (128, 64)) for name in ("1", "5")}
    how = Sampling(128, 64, "dpmsolver++", 6, 1.0)
    sampler = IPGSampler(pipe, poses, how, lambda name: people[int(name)])
    names = [str(n) for n in range(len(people))]
    real, own, right = _features(pipe, people), torch.arange(len(people)), 0
    for pose in poses:
        drawn = _features(pipe, sampler(names, [pose] * len(names), range(len(names))))
        right += ((drawn @ real.T).argmax(1) == own).sum()
    assert right >= 7  # of 10; 2 by chance


@pytest.mark.parametrize("name", OF_POSES)
def test_generators_of_poses_come_nearer_to_the_truth_than_another_person_in_that_pose(name: str) -> None:
    generator = build_generator(name, FOLDER / f"synthreid/{name}.safetensors")
    people = range(500, 506)
    seen, wanted = (
        [
            render_with_joints(random_identity(n), *pose, CAMERAS[2], seed=n, size=generator.image_size)
            for n in people
        ]
        for pose in ((Pose(), View()), STANDARD_POSES[2])
    )
    references, truths = (stacked([each.image for each in row]) for row in (seen, wanted))
    points = [torch.stack([joints(each) for each in row]) for row in (seen, wanted)]
    made = (generator.generate(2 * references - 1, *points) + 1) / 2
    body = person_mask(points[1], generator.image_size, radius=2.0)[:, None]
    own = quality.l1(made * body, truths * body)
    others = torch.stack([quality.l1(truths.roll(n, 0) * body, truths * body) for n in range(1, 6)])
    assert (own < others.mean(0)).sum() >= 5  # of 6


def _features(pipe: IPGPipeline, images: list[Image.Image]) -> torch.Tensor:
    with torch.inference_mode():
        found = pipe.reid_encoder(torch.cat([pipe.encoder_input(image) for image in images]))
    return torch.nn.functional.normalize(found, dim=1)
