"""torchreid_genext: generative person re-identification as a plugin for torchreid.

``register()`` makes our models and data sets known to torchreid by name; importing changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchreid_genext import compat
from torchreid_genext.backbones import MODELS

if TYPE_CHECKING:
    from torchreid_genext.config import add_genext_config

__all__ = ["__version__", "add_genext_config", "register", "unregister"]
__version__ = "0.2.0"

_OF_PIPELINES = (
    "IPGPipeline", "IdentityProjector", "PatchAutoencoder", "PoseGuider", "TorchreidEncoder", "TransReID"
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """What takes packages that retrieval does without: the configuration, and networks of pipelines, for which
    diffusers looks here when it reads what it has saved.
    """
    if name == "add_genext_config":
        from torchreid_genext.config import add_genext_config

        return add_genext_config
    if name not in _OF_PIPELINES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchreid_genext.generators import ipg

    return getattr(ipg, name)


def register() -> None:
    """Put our models and data sets into torchreid's registries; repeating it is harmless.

    Every image data set that torchreid knows then, also those of the user, gets a second name, such as
    ``market1501_ipg``, under which generated images join its training split; repeat it after adding others.

    Raises:
        ImportError: if torchreid, or what it imports, is missing; the message names the cure.
        ValueError: if one of our names is taken by something else.
    """
    from torchreid_genext import data
    from torchreid_genext.data.torchreid_training.datasets import augmented_datasets

    for name, factory in MODELS.items():
        compat.register_model(name, factory)
    for name, dataset in data.image_datasets().items():
        compat.register_image_dataset(name, dataset)
    compat.register_datasets_of("folder:", data.folder_datasets)
    _unregister_augmented()  # some may extend data sets that are gone
    for name, dataset in augmented_datasets(compat.image_datasets()).items():
        compat.register_image_dataset(name, dataset)


def unregister() -> None:
    """Take them out again; without an earlier `register` nothing happens."""
    from torchreid_genext import data

    for name, factory in MODELS.items():
        compat.unregister_model(name, factory)
    _unregister_augmented()
    compat.unregister_datasets_of("folder:")
    for name, dataset in data.image_datasets().items():
        compat.unregister_image_dataset(name, dataset)


def _unregister_augmented() -> None:
    from torchreid_genext.data.torchreid_training.datasets import is_augmented

    for name, dataset in compat.image_datasets().items():
        if is_augmented(dataset):
            compat.unregister_image_dataset(name, dataset)
