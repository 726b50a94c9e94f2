"""torchreid's objects from a configuration, as its scripts make them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchreid_genext import compat, config
from torchreid_genext.backbones import sources
from torchreid_genext.backbones.loading import giving
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.data.torchreid_training.datasets import augmenting
from torchreid_genext.data.torchreid_training.ratio_batches import mix_batches, separate_softmax_engine
from torchreid_genext.engine.reading import naming_damaged_files

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from yacs.config import CfgNode

__all__ = ["build_datamanager", "build_engine", "build_model"]


def build_datamanager(cfg: CfgNode) -> Any:
    """torchreid's data manager for ``cfg.data.type``.

    Raises:
        ValueError: if the type or the name of a data set is unknown, or its images are not there; if real and
            generated images cannot be mixed in ``augmented.batch_ratio``.
    """
    if cfg.data.type == "image":
        with augmenting(**config.augmentation_kwargs(cfg)):
            manager = compat.image_data_manager(**config.image_data_kwargs(cfg))
        naming_damaged_files(manager.train_loader.dataset)
        return mix_batches(manager, cfg.genext.augmented.batch_ratio)
    if cfg.data.type == "video":
        return compat.video_data_manager(**config.video_data_kwargs(cfg))
    raise ValueError(f"unknown data.type {cfg.data.type!r}; choose from image, video")


def build_model(cfg: CfgNode, num_classes: int) -> nn.Module:
    """The backbone of the configuration, on the CPU, before any weights file.

    Args:
        cfg: the whole tree.
        num_classes: identities of the training set.
    """
    named = Backbone.of_model(cfg.model.name, cfg.model.load_weights).with_card()
    model = sources.build(
        named.name,
        num_classes,
        loss=cfg.loss.name,
        pretrained=cfg.model.pretrained,
        use_gpu=cfg.use_gpu,
        image_size=(cfg.data.height, cfg.data.width),
        options=named.options,
    )
    return giving(config.configure_model(model, cfg), named)


def build_engine(
    cfg: CfgNode, datamanager: Any, model: nn.Module, optimizer: Optimizer, scheduler: Any
) -> Any:
    """torchreid's engine for ``cfg.data.type`` and ``cfg.loss.name``, without the hook.

    Raises:
        ValueError: if there is no such engine, or none with ``augmented.separate_passes``.
    """
    build = _engine_class(cfg)
    return build(datamanager, model, optimizer=optimizer, scheduler=scheduler, **config.engine_kwargs(cfg))


def _engine_class(cfg: CfgNode) -> type:
    plain, augmented = compat.engine_class(cfg.data.type, cfg.loss.name), cfg.genext.augmented
    if not augmented.separate_passes:
        return plain
    if (cfg.data.type, cfg.loss.name) != ("image", "softmax") or not augmented.batch_ratio:
        rule = "expected image, softmax and a genext.augmented.batch_ratio with separate_passes"
        raise ValueError(f"{rule}, got {cfg.data.type}, {cfg.loss.name} and {augmented.batch_ratio!r}")
    return separate_softmax_engine()
