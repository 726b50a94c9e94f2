"""torchreid by either layout, its registries, and what is said when it cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from torchreid_genext import compat


def run_python(code: str, *paths: Path) -> subprocess.CompletedProcess:
    """Run `code` in a fresh interpreter that looks for modules in `paths` first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def write_module(folder: Path, name: str, code: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(code)


def tiny_model(num_classes: int, loss: str, pretrained: bool, use_gpu: bool) -> torch.nn.Module:
    return torch.nn.Linear(2, num_classes)


@pytest.fixture
def model_name() -> str:
    yield "tiny_model_of_this_test"
    compat.unregister_model("tiny_model_of_this_test", tiny_model)


def test_registered_model_is_built_by_torchreid_itself(model_name: str) -> None:
    compat.register_model(model_name, tiny_model)
    model = compat.host().models.build_model(model_name, num_classes=5, pretrained=False)
    assert model.out_features == 5
    assert model_name in compat.model_names()


def test_registering_twice_is_harmless_and_removal_is_complete(model_name: str) -> None:
    before = compat.model_names()
    compat.register_model(model_name, tiny_model)
    compat.register_model(model_name, tiny_model)
    compat.unregister_model(model_name, tiny_model)
    compat.unregister_model(model_name, tiny_model)
    assert compat.model_names() == before


def test_name_of_another_model_is_neither_taken_nor_removed() -> None:
    before = compat.model_names()
    with pytest.raises(ValueError, match="free in torchreid, got 'osnet_x0_25'"):
        compat.register_model("osnet_x0_25", tiny_model)
    compat.unregister_model("osnet_x0_25", tiny_model)
    assert compat.model_names() == before


def test_image_dataset_is_registered_where_torchreid_looks() -> None:
    class Nothing(compat.ImageDataset):
        def __init__(self, **options: object) -> None:
            self.options = options

    compat.register_image_dataset("nothing", Nothing)
    try:
        opened = compat.host().data.datasets.init_image_dataset("nothing", root="here")
        assert opened.options == {"root": "here"}
        assert compat.init_image_dataset("nothing", root="there").options == {"root": "there"}
    finally:
        compat.unregister_image_dataset("nothing", Nothing)
    assert "nothing" not in compat.image_dataset_names()


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown model 'osnet'.*osnet_x0_25"):
        compat.build_model("osnet", 3)
    with pytest.raises(ValueError, match="unknown image data set 'market'.*market1501"):
        compat.init_image_dataset("market")
    with pytest.raises(ValueError, match="unknown image data set 'duke'"):
        compat.image_data_manager(sources=["market1501"], targets=["duke"])
    with pytest.raises(ValueError, match="unknown engine image \\+ centre.*video \\+ triplet"):
        compat.engine_class("image", "centre")


def test_engines_are_found_by_data_and_loss() -> None:
    for data_type in ("image", "video"):
        for loss in ("softmax", "triplet"):
            name = compat.engine_class(data_type, loss).__name__
            assert name == f"{data_type.title()}{loss.title()}Engine"


def test_transforms_are_silent_and_the_hosts_own(capsys: pytest.CaptureFixture) -> None:
    from PIL import Image

    _, ours = compat.build_transforms(32, 16)
    assert capsys.readouterr().out == ""
    _, hosts = compat.host().data.transforms.build_transforms(32, 16)
    image = Image.effect_noise((20, 40), 90).convert("RGB")
    assert torch.equal(ours(image), hosts(image))


def test_console_copy_holds_prints_and_logs_and_gives_the_console_back(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import logging

    logger, console = logging.getLogger("torchreid_genext"), sys.stdout
    handlers, level = list(logger.handlers), logger.level
    with compat.console_copied_to(tmp_path / "new" / "run.log"):
        print("printed")
        logging.getLogger("torchreid_genext.engine").info("logged")
    assert (tmp_path / "new" / "run.log").read_text() == "printed\nlogged\n" == capsys.readouterr().out
    assert sys.stdout is console and not console.closed
    assert (logger.handlers, logger.level) == (handlers, level)


def test_pair_of_torch_and_torchvision_that_does_not_fit_names_the_cure(tmp_path: Path) -> None:
    fault = "raise RuntimeError('operator torchvision::nms does not exist')"
    write_module(tmp_path, "torchvision", fault)
    message = last_line_of_failure(tmp_path)
    assert message.startswith("ImportError: torch and torchvision are not a matching pair")
    assert "pip install --upgrade torch torchvision" in message


@pytest.mark.parametrize(
    ("missing", "package"),
    [("torchreid", "torchreid"), ("cv2", "opencv-python-headless"), ("scipy.io", "scipy"), ("six", "six")],
)
def test_missing_module_names_the_package_to_install(tmp_path: Path, missing: str, package: str) -> None:
    write_module(tmp_path, "torchvision", "")
    write_module(tmp_path, "torchreid", f"raise ModuleNotFoundError('No module', name='{missing}')")
    message = last_line_of_failure(tmp_path)
    assert message.startswith(f"ImportError: torchreid needs the module '{missing}'")
    assert f"`pip install {package}`" in message


def test_missing_torchvision_names_the_package_to_install(tmp_path: Path) -> None:
    write_module(tmp_path, "torchvision", "raise ModuleNotFoundError('No module', name='torchvision')")
    assert "`pip install torchvision`" in last_line_of_failure(tmp_path)


def last_line_of_failure(folder: Path) -> str:
    result = run_python("from torchreid_genext import compat; compat.host()", folder)
    assert result.returncode == 1
    return result.stderr.strip().splitlines()[-1]


def write_upstream_layout(folder: Path) -> None:
    """The tree of torchreid 1.4.0 (``torchreid.data``, ...) from the installed files of PyPI 0.2.5."""
    installed = Path(compat.host().models.__file__).parent.parent
    shutil.copytree(installed, folder / "torchreid", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "torchreid").rglob("*.py"):
        text = path.read_text()
        path.write_text(text.replace("torchreid.reid.", "torchreid.").replace("from torchreid.reid ", "from torchreid "))


def test_upstream_layout_is_served_like_the_installed_one(tmp_path: Path, reid_data: Path) -> None:
    write_upstream_layout(tmp_path / "upstream")
    arguments = (
        "--root", str(reid_data), "-s", "synthreid_tiny", "-t", "synthreid_tiny",
        "model.name", "osnet_x0_25", "model.pretrained", "False", "data.workers", "0", "data.height", "64",
        "data.width", "32", "test.evaluate", "True", "genext.nfc.enabled", "True", "use_gpu", "False",
    )  # fmt: skip
    code = """
        import json, sys
        import torchreid_genext as genext
        from tools.main import main
        from torchreid_genext import compat

        main([*{arguments!r}, "data.save_dir", {folder!r}])
        genext.unregister()
        report = json.load(open({folder!r} + "/genext_report_synthreid_tiny.json"))
        print(hasattr(compat.host(), "reid"), compat.image_dataset_names(), report["mAP"], sep="|")
    """
    rows = []
    for paths in ([tmp_path / "upstream"], []):
        result = run_python(code.format(arguments=arguments, folder=str(tmp_path / f"log{len(paths)}")), *paths)
        assert result.returncode == 0, result.stderr
        rows.append(result.stdout.strip().splitlines()[-1].split("|"))
    upstream, installed = rows
    assert (upstream[0], installed[0]) == ("False", "True")
    assert upstream[1:] == installed[1:]
    assert "synthreid" not in upstream[1]
