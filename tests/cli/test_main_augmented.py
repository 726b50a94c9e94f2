"""The command line with generated images in the training split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.test_main import run_main
from torchreid_genext import compat, config, engine
from torchreid_genext.data.store import ImageStore

pytestmark = pytest.mark.usefixtures("registered")

NAME = "synthreid_tiny_ipg"


@pytest.fixture(scope="module")
def pictures(reid_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two pictures of every tenth training image: itself mirrored, and upside down."""
    store = ImageStore.create(tmp_path_factory.mktemp("pictures"))
    turns = {"1": Image.Transpose.FLIP_LEFT_RIGHT, "2": Image.Transpose.FLIP_TOP_BOTTOM}
    for path in sorted((reid_data / "synthreid_tiny" / "bounding_box_train").glob("*.jpg"))[::10]:
        for pose, turn in turns.items():
            picture = Image.open(path).transpose(turn)
            store.add(picture, split="train", reference=path.name, pose=pose, provenance={})
    return store.root


def test_training_with_generated_images_and_their_own_labels(
    reid_data: Path, pictures: Path, tmp_path: Path
) -> None:
    keys = {"loss__name": "triplet", "sampler__train_sampler": "RandomIdentitySampler"}
    keys |= {"loss__triplet__weight_x": 1.0, "genext__augmented__label_smoothing": 0.5}
    keys |= {"genext__augmented__root": pictures, "genext__augmented__ratio": 0.1}
    run_main(reid_data, tmp_path, NAME, **keys)
    (log,) = tmp_path.glob("train.log-*")
    real = compat.init_image_dataset("synthreid_tiny", root=str(reid_data), verbose=False).train
    expected = f"synthreid_tiny: {round(0.1 * len(real))} generated images in 2 poses join, from {pictures}"
    assert expected in log.read_text() and "Loaded SynthReIDTiny_ipg" in log.read_text()
    assert (tmp_path / "model.safetensors").is_file()


def test_figures_are_those_of_the_plain_dataset_also_with_times(reid_data: Path, pictures: Path) -> None:
    keys = {
        "data.root": reid_data, "data.sources": [NAME], "data.targets": ["synthreid_tiny", NAME],
        "data.height": 8, "data.width": 4, "data.workers": 0, "use_gpu": False,
        "genext.augmented.root": pictures, "genext.spatiotemporal.enabled": True,
    }  # fmt: skip
    cfg = config.load_config(opts=[str(word) for pair in keys.items() for word in pair])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 4 * 3, 8))
    manager = engine.build_datamanager(cfg)
    tester = engine.attach(engine.build_engine(cfg, manager, model, None, None), cfg)
    model.eval()
    plain, ours = (tester._evaluate(name, *manager.test_loader[name].values()) for name in cfg.data.targets)
    assert ours == plain and 0 < plain[1] < 1
