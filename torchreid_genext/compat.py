"""The one door to torchreid: every other module asks here and never imports the host itself.

Two trees are in use: PyPI 0.2.5 keeps the library below ``torchreid.reid``, upstream 1.4.0 directly below
``torchreid``. Importing it binds ``data``, ``models``, ``engine``, ``metrics``, ``optim`` and ``utils``
as attributes in both, so plain attribute access serves them alike. Nothing is imported before it is needed.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.optim import Optimizer

# Only these differ between the name of a module and the name under which pip knows it.
_DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "scipy.io": "scipy"}
_ONE_DIGIT = ("market1501", "dukemtmcreid")  # whose readers take one digit of a camera's number
_LONG_CAMERA = re.compile(r"[-\d]+_c(\d{2,})(?=s\d|_)")
_ENGINES = [(data_type, loss) for data_type in ("image", "video") for loss in ("softmax", "triplet")]


@functools.cache
def host() -> ModuleType:
    """The torchreid module of this environment, imported on the first call.

    Raises:
        ImportError: if torchreid or a library it imports is missing, or torch and torchvision do not fit
            together; the message is one sentence that names the cure.
    """
    _import_torch_pair()
    with warnings.catch_warnings():
        # The host recommends its compiled ranking, which the PyPI package does not contain.
        warnings.filterwarnings("ignore", message="Cython evaluation")
        try:
            return importlib.import_module("torchreid")
        except ModuleNotFoundError as error:
            raise ImportError(_cure_of_missing(error.name or "torchreid")) from error


def _import_torch_pair() -> None:
    """Import torchvision on its own, so that a pair that does not fit is told from a fault of torchreid."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ImportError(_cure_of_missing(error.name or "torchvision")) from error
    except (RuntimeError, ImportError, OSError, AttributeError) as error:
        raise ImportError(
            "torch and torchvision are not a matching pair; install both together with "
            f"`pip install --upgrade torch torchvision` (torchvision said: {error})"
        ) from error


def _cure_of_missing(module: str) -> str:
    package = _DISTRIBUTIONS.get(module, module.split(".")[0])
    return f"torchreid needs the module '{module}', which is missing; install it with `pip install {package}`"


def __getattr__(name: str) -> Any:
    """`ImageDataset` and `VideoDataset`, the host's base classes, without importing the host for the rest."""
    if name in ("ImageDataset", "VideoDataset"):
        return getattr(host().data, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Registries. The host has a function for adding a data set (it refuses a known name) and none for models or
# for removal, so its tables are reached by name: as an attribute inside a class, `__x` would be mangled.


def _models() -> dict[str, Callable[..., nn.Module]]:
    return vars(host().models)["__model_factory"]


def _image_datasets() -> dict[str, type]:
    return vars(host().data.datasets)["__image_datasets"]


def _video_datasets() -> dict[str, type]:
    return vars(host().data.datasets)["__video_datasets"]


def model_names() -> list[str]:
    """All models that torchreid can build now, sorted."""
    return sorted(_models())


def image_dataset_names() -> list[str]:
    """All image data sets that torchreid can open now, sorted."""
    return sorted(_image_datasets())


def image_datasets() -> dict[str, type]:
    """All image data sets that torchreid can open now: name to class."""
    return dict(_image_datasets())


def register_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Make ``torchreid.models.build_model(name)`` call `factory`; repeating it is harmless.

    Args:
        name: what the user writes as ``model.name``.
        factory: called with ``num_classes, loss, pretrained, use_gpu``.

    Raises:
        ValueError: if the name belongs to another factory.
    """
    _add(_models(), "model", name, factory)


def register_image_dataset(name: str, dataset: type) -> None:
    """Make torchreid know the image data set class `dataset` by `name`; repeating it is harmless.

    Raises:
        ValueError: if the name belongs to another class.
    """
    _add(_image_datasets(), "image data set", name, dataset)


def register_datasets_of(prefix: str, datasets: Callable[[str], dict[str, type]]) -> None:
    """Let every name that begins with `prefix` be an image data set, made when it is first asked for.

    Args:
        prefix: such as ``folder:``.
        datasets: gives the class of a name, and others that come with it, by name.
    """
    _made_of_names[prefix] = datasets


def unregister_datasets_of(prefix: str) -> None:
    """Forget a prefix, and all data sets whose names begin with it."""
    _made_of_names.pop(prefix, None)
    for name in [name for name in _image_datasets() if name.startswith(prefix)]:
        del _image_datasets()[name]


def unregister_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Take `name` out of torchreid again, if it still means `factory`."""
    _remove(_models(), name, factory)


def unregister_image_dataset(name: str, dataset: type) -> None:
    """Take `name` out of torchreid again, if it still means `dataset`."""
    _remove(_image_datasets(), name, dataset)


def _add(table: dict[str, Any], kind: str, name: str, entry: Any) -> None:
    if table.setdefault(name, entry) is not entry:
        raise ValueError(f"expected a {kind} name that is free in torchreid, got {name!r}")


def _remove(table: dict[str, Any], name: str, entry: Any) -> None:
    if table.get(name) is entry:
        del table[name]


_made_of_names: dict[str, Callable[[str], dict[str, type]]] = {}


def _meet(name: str) -> None:
    """Make the data set of a name that has a prefix."""
    for prefix, datasets in _made_of_names.items():
        if name.startswith(prefix):
            _image_datasets().update(datasets(name))


# Construction


def build_model(
    name: str, num_classes: int, *, loss: str = "softmax", pretrained: bool = False, use_gpu: bool = False
) -> nn.Module:
    """A torchreid model, or one of ours once registered, on the CPU.

    Args:
        name: one of `model_names`.
        num_classes: identities of the classifier, which features do not pass through.
        loss: "softmax" or "triplet".
        pretrained: whether the host fetches its ImageNet weights.
        use_gpu: handed to the factory.

    Raises:
        ValueError: if the name is unknown; the message lists the choices.
        OSError: if the host cannot fetch its weights; the message says how to do without.
    """
    if name not in _models():
        raise ValueError(f"unknown model {name!r}; choose from {_choices(name, model_names())}")
    with _fetching_weights(name) if pretrained else contextlib.nullcontext():
        return host().models.build_model(
            name=name, num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu
        )


@contextlib.contextmanager
def _fetching_weights(name: str) -> Iterator[None]:
    """Say what could not be fetched, and which keys avoid it."""
    try:
        yield
    except Exception as error:  # the host's libraries for downloads raise errors of many kinds
        rule = f"expected ImageNet weights of {name} from the address that torchreid knows, got {error}"
        cure = "model.load_weights FILE takes weights of yours, and model.pretrained False random ones"
        raise OSError(f"{rule}; {cure}") from error


def _choices(name: str, known: Sequence[str]) -> str:
    """The three names nearest to a mistaken one, then all."""
    near = difflib.get_close_matches(name.lower(), known, cutoff=0)
    return f"{', '.join(near)} (the nearest), or any of {', '.join(known)}"


def init_image_dataset(name: str, **options: Any) -> Any:
    """Open an image data set by name with the host's own options (``root``, ``mode``, ``transform``, ...).

    Raises:
        ValueError: if the name is unknown (the message lists the choices), its images are not there, or the
            host misreads their cameras.
    """
    with _opening([name], options):
        dataset = host().data.datasets.init_image_dataset(name, **options)
    _refuse_misread_cameras(name, *(getattr(dataset, split, ()) for split in ("train", "query", "gallery")))
    return dataset


@contextlib.contextmanager
def _opening(names: Sequence[str], options: dict[str, Any]) -> Iterator[None]:
    """Say in one sentence why the data sets `names` cannot be opened."""
    root = options.get("root", "")
    for name in names:
        _refuse_to_fetch_withdrawn(name, _image_dataset(name), root)
    absent = [folder for name in names if not (folder := image_dataset_folder(name, root)).exists()]
    try:
        yield
    except (OSError, RuntimeError, IndexError, zipfile.BadZipFile) as error:
        # The host looks at the first record of each split, and tries to download what it does not find.
        reason = "a split without images" if isinstance(error, IndexError) else f"from the host: {error}"
        wanted = f"{', '.join(dict.fromkeys(names))} in {root!r}"
        cure = f"; put its images into {absent[0]}" if absent else ""
        raise ValueError(f"expected data of {wanted}, got {reason}{cure}") from error
    finally:
        _remove_empty(absent)


def _remove_empty(folders: Sequence[Path]) -> None:
    """The host makes a folder for what it cannot fetch, and would look no further at the next call."""
    for folder in folders:
        with contextlib.suppress(OSError):  # not there, or not empty
            folder.rmdir()


def _refuse_to_fetch_withdrawn(name: str, dataset: type, root: str) -> None:
    """Where the images are absent, the host would download them; DukeMTMC was withdrawn by its authors."""
    if name.startswith("dukemtmc") and not Path(os.path.expanduser(root), dataset.dataset_dir).is_dir():
        raise ValueError(f"expected {name} in {root!r}, got none; it was withdrawn and is never downloaded")


def _refuse_misread_cameras(name: str, *splits: Sequence[tuple[Any, ...]]) -> None:
    """The host reads one digit of a camera's number: cameras 1 and 12 would be one, and their images junk."""
    readers = tuple(_image_datasets()[known] for known in _ONE_DIGIT)
    opened = _image_dataset(name)
    if not (isinstance(opened, type) and issubclass(opened, readers)):
        return
    for path, _, camid, *_ in (record for split in splits for record in split):
        found = _LONG_CAMERA.match(os.path.basename(path))
        if found and camid == int(found[1][0]) - 1:
            raise ValueError(
                f"expected cameras 1 to 9 in the file names of {name}, got {path}, which torchreid reads as "
                f"camera {found[1][0]}; register a data set class of your own that gives its camids"
            )


def image_dataset_folder(name: str, root: str | Path) -> Path:
    """Where an image data set belongs below `root`; `root` itself if its class has no folder.

    ``~`` is the home folder, as the host has it.

    Raises:
        ValueError: if the name is unknown; the message lists the choices.
    """
    return Path(os.path.expanduser(root), getattr(_image_dataset(name), "dataset_dir", None) or "")


def cameras_known(name: str) -> bool:
    """Whether an image data set tells cameras; folders of users may not. Others, unknown ones too, do."""
    _meet(name)
    return getattr(_image_datasets().get(name), "cameras_known", lambda: True)()


def _image_dataset(name: str) -> type:
    _meet(name)
    if name not in _image_datasets():
        raise ValueError(f"unknown image data set {name!r}; {_dataset_choices(name)}")
    return _image_datasets()[name]


def _dataset_choices(name: str) -> str:
    """Which there are; those with generated images are told of once."""
    kinds = {dataset.kind for dataset in _image_datasets().values() if hasattr(dataset, "plain_name")}
    plain, _, kind = name.rpartition("_")
    if plain in _image_datasets() and kind in kinds:
        return f"call torchreid_genext.register() again, since {plain} was registered after it"
    known = [each for each, dataset in _image_datasets().items() if not hasattr(dataset, "plain_name")]
    also = f"; each also with {', '.join(f'_{kind}' for kind in sorted(kinds))} behind it" if kinds else ""
    return f"choose from {_choices(name, sorted(known))}{also}"


def build_transforms(
    height: int,
    width: int,
    transforms: Sequence[str] = ("random_flip",),
    norm_mean: Sequence[float] | None = None,
    norm_std: Sequence[float] | None = None,
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """torchreid's training and test transforms, built without its announcements.

    Args:
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.
        transforms: names of training augmentations.
        norm_mean: per channel, of images in [0, 1]; None is ImageNet's.
        norm_std: as `norm_mean`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        return host().data.transforms.build_transforms(
            height, width, transforms=list(transforms), norm_mean=norm_mean, norm_std=norm_std
        )


def image_data_manager(**options: Any) -> Any:
    """torchreid's ``ImageDataManager``.

    Raises:
        ValueError: if a source or target is unknown (the choices are listed), its images are not there, or
            the host misreads their cameras.
    """
    for name in options["sources"]:
        getattr(_image_dataset(name), "check_training", lambda: None)()
    with _opening([*options["sources"], *options["targets"]], options):
        manager = host().data.ImageDataManager(**options)
    for name, splits in manager.test_dataset.items():
        _refuse_misread_cameras(name, *splits.values())
    for name in options["sources"]:
        _refuse_misread_cameras(name, manager.train_loader.dataset.train)
    return manager


def video_data_manager(**options: Any) -> Any:
    """torchreid's ``VideoDataManager``.

    Raises:
        ValueError: if a source or target was withdrawn by its authors and is not there.
    """
    for name in {*options["sources"], *options["targets"]} & _video_datasets().keys():
        _refuse_to_fetch_withdrawn(name, _video_datasets()[name], options.get("root", ""))
    return host().data.VideoDataManager(**options)


def engine_class(data_type: str, loss: str) -> type:
    """The host's engine for a kind of data ("image" or "video") and a loss ("softmax" or "triplet").

    Raises:
        ValueError: if there is none; the message lists the choices.
    """
    if (data_type, loss) not in _ENGINES:
        choices = ", ".join(" + ".join(pair) for pair in _ENGINES)
        raise ValueError(f"unknown engine {data_type} + {loss}; choose from {choices}")
    return getattr(host().engine, f"{data_type.title()}{loss.title()}Engine")


def build_optimizer(model: nn.Module, **options: Any) -> Optimizer:
    """torchreid's optimizer by name."""
    return host().optim.build_optimizer(model, **options)


def build_lr_scheduler(optimizer: Optimizer, **options: Any) -> Any:
    """torchreid's learning rate schedule by name."""
    return host().optim.build_lr_scheduler(optimizer, **options)


# Measuring, by the host's own code


def accuracy(outputs: Tensor | Sequence[Tensor], labels: Tensor) -> float:
    """Share of labels (B,) that logits (B, K), or the first of several, get right, in percent."""
    return host().metrics.accuracy(outputs, labels)[0].item()


def compute_distance_matrix(x: Tensor, y: Tensor, metric: str = "euclidean") -> Tensor:
    """Distances (N, M) between the rows of `x` (N, D) and `y` (M, D); "euclidean" is the squared one."""
    return host().metrics.compute_distance_matrix(x, y, metric)


def re_ranking(query_gallery: np.ndarray, query_query: np.ndarray, gallery_gallery: np.ndarray) -> np.ndarray:
    """k-reciprocal distances (Q, G) with the host's fixed parameters k1=20, k2=6, lambda=0.3."""
    return host().utils.re_ranking(query_gallery, query_query, gallery_gallery)


def visualize_ranked_results(distances: np.ndarray, records: Any, data_type: str, **options: Any) -> None:
    """Write the host's pictures of ranked galleries below ``save_dir``."""
    host().utils.visualize_ranked_results(distances, records, data_type, **options)


def compute_model_complexity(model: nn.Module, input_size: Sequence[int]) -> tuple[int, int]:
    """Parameters and multiply-adds of one forward pass; draws one random input from the global generator."""
    return host().utils.compute_model_complexity(model, input_size)


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch as torchreid's scripts do."""
    host().utils.set_random_seed(seed)


def collect_env_info() -> str:
    """Versions of everything, as torchreid's scripts show them."""
    return host().utils.collect_env_info()
