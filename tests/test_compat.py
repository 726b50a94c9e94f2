"""torchreid by either layout, its registries, and what is said when it cannot be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import torchreid_genext as genext
from tests.conftest import ROOT
from torchreid_genext import compat
from torchreid_genext.data import filenames


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


@pytest.mark.parametrize("name", ["dukemtmcreid", "dukemtmcvidreid"])
def test_withdrawn_data_are_never_downloaded(name: str, tmp_path: Path) -> None:
    build = compat.video_data_manager if "vid" in name else compat.image_data_manager
    with pytest.raises(ValueError, match=f"expected {name} in .*withdrawn and is never downloaded"):
        build(root=str(tmp_path), sources=[name], targets=[name])
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.filterwarnings("ignore:The current data structure")
def test_dataset_that_is_not_there_is_named_with_its_folder(tmp_path: Path) -> None:
    for name in (
        "market1501",
        "msmt17",
    ):  # the host would download the first and knows no address of the second
        with pytest.raises(ValueError, match=f"expected data of {name} in .*{tmp_path.name}.*, got"):
            compat.init_image_dataset(name, root=str(tmp_path))
    with pytest.raises(ValueError, match="expected data of market1501, msmt17 in"):
        compat.image_data_manager(sources=["market1501"], targets=["msmt17"], root=str(tmp_path))


def test_dataset_with_an_empty_split_is_named(tmp_path: Path) -> None:
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / "market1501" / "Market-1501-v15.09.15" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="expected data of market1501 in .*, got a split without images"):
        compat.init_image_dataset("market1501", root=str(tmp_path))


def write_market(root: Path, *names: str) -> None:
    """Market-1501's folders, with an image of each name in all of them."""
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        place = root / "market1501" / "Market-1501-v15.09.15" / folder
        place.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (8, 16)).save(place / name)


def open_market(root: Path) -> object:
    return compat.init_image_dataset("market1501", root=str(root))


def manage_market(root: Path) -> object:
    options = {"use_gpu": False, "workers": 0, "batch_size_train": 1}
    return compat.image_data_manager(
        root=str(root), sources=["market1501"], targets=["market1501"], **options
    )


@pytest.mark.parametrize("opened", [open_market, manage_market])
def test_cameras_that_the_host_reads_as_others_are_refused_by_name(
    tmp_path: Path, opened: Callable[[Path], object]
) -> None:
    write_market(tmp_path / "short", "0001_c1s1_000001_00.jpg", "0002_c3s12_000001_00.jpg")
    opened(tmp_path / "short")
    write_market(tmp_path / "long", "0001_c1s1_000001_00.jpg", "0002_c12s1_000001_00.jpg")
    message = (
        "expected cameras 1 to 9 in the file names of market1501, got .*0002_c12s1.*as camera 1; register"
    )
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "long")


def test_class_that_reads_long_camera_numbers_itself_may_do_so(tmp_path: Path) -> None:
    class Reader(compat.image_datasets()["market1501"]):
        def process_dir(self, *arguments: object, **options: object) -> list[tuple[str, int, int]]:
            records = super().process_dir(*arguments, **options)
            return [(path, pid, filenames.parse(path).camid) for path, pid, _ in records]

    write_market(tmp_path, "0001_c1s1_000001_00.jpg", "0002_c12s1_000001_00.jpg")
    compat.register_image_dataset("reader", Reader)
    try:
        opened = compat.init_image_dataset("reader", root=str(tmp_path))
    finally:
        compat.unregister_image_dataset("reader", Reader)
    assert {camid for _, _, camid, *_ in opened.gallery} == {0, 11}


def test_home_folder_is_found_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compat.image_dataset_folder("market1501", "~/data") == tmp_path / "data" / "market1501"
    write_market(tmp_path / "data", "0001_c1s1_000001_00.jpg")
    assert len(compat.init_image_dataset("market1501", root="~/data").query) == 1
    (tmp_path / "data" / "dukemtmc-reid").mkdir()
    with pytest.raises(ValueError, match="from the host"):  # and not that it was withdrawn
        compat.init_image_dataset("dukemtmcreid", root="~/data")


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
        path.write_text(
            text.replace("torchreid.reid.", "torchreid.").replace("from torchreid.reid ", "from torchreid ")
        )


def test_upstream_layout_is_served_like_the_installed_one(tmp_path: Path, reid_data: Path) -> None:
    """One command line under both: the same numbers to the last bit, and registries as they were."""
    write_upstream_layout(tmp_path / "upstream")
    code = f"""
        import torch
        from torch.utils import collect_env
        import torchreid_genext as genext
        from tools.main import main
        from torchreid_genext import compat

        torch.set_num_threads(1)
        collect_env.get_pretty_env_info = str  # it would start a dozen programs
        assert not hasattr(compat.host(), "reid")
        before = compat.model_names(), compat.image_dataset_names()
        main({command_line(reid_data, tmp_path / "theirs")})
        genext.unregister()
        assert (compat.model_names(), compat.image_dataset_names()) == before
        """
    result = run_python(code, tmp_path / "upstream")
    assert result.returncode == 0, result.stderr
    run_here(command_line(reid_data, tmp_path / "ours"))
    theirs, ours = (json.loads((tmp_path / run / REPORT).read_text()) for run in ("theirs", "ours"))
    assert 0 < theirs["mAP"] == ours["mAP"]
    assert theirs["cmc"] == ours["cmc"]


REPORT = "genext_report_synthreid_tiny.json"


def command_line(root: Path, folder: Path) -> list[str]:
    keys = {
        "model.name": "osnet_x0_25", "model.pretrained": False, "test.evaluate": True, "use_gpu": False,
        "data.workers": 0, "data.height": 32, "data.width": 16, "data.save_dir": folder,
        "genext.nfc.enabled": True,
    }  # fmt: skip
    words = [str(word) for pair in keys.items() for word in pair]
    return ["-s", "synthreid_tiny", "-t", "synthreid_tiny", "--root", str(root), *words]


def run_here(arguments: list[str]) -> None:
    from tools.main import main

    try:
        main(arguments)
    finally:
        genext.unregister()


# What is said when something cannot be had


def test_unknown_data_sets_name_the_nearest_and_then_all_once(registered: None) -> None:
    with pytest.raises(ValueError) as caught:
        compat.init_image_dataset("Market1501", root="nowhere")
    told = str(caught.value)
    assert told.startswith("unknown image data set 'Market1501'; choose from market1501, ")
    assert "_ipg" in told and "msmt17_ipg" not in told and len(told) < 500
    with pytest.raises(ValueError, match="unknown model 'osnet1_0'; choose from osnet_x1_0, "):
        compat.build_model("osnet1_0", 1)


def test_a_data_set_that_came_late_is_told(registered: None) -> None:
    compat.register_image_dataset("late", compat.image_datasets()["market1501"])
    try:
        with pytest.raises(ValueError, match=r"call torchreid_genext.register\(\) again, since late was"):
            compat.init_image_dataset("late_ipg")
    finally:
        compat.unregister_image_dataset("late", compat.image_datasets()["market1501"])


def test_weights_that_cannot_be_fetched_name_the_keys_that_avoid_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("gdown.download", offline)
    with pytest.raises(OSError, match="osnet_x0_25.*not known; model.load_weights FILE .*model.pretrained False"):
        compat.build_model("osnet_x0_25", 1, pretrained=True)


def test_data_that_cannot_be_fetched_leave_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("HTTP Error 404: Not Found")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", offline)
    for _ in range(2):  # the second time it is the same that is wrong
        with pytest.raises(ValueError, match=f"404: Not Found; put its images into {tmp_path}/viper"):
            compat.init_image_dataset("viper", root=str(tmp_path), verbose=False)
    assert not [*tmp_path.iterdir()]
