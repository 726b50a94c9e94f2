"""From keys to the arguments of the host's functions."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

__all__ = [
    "augmentation_kwargs", "configure_model", "engine_kwargs", "image_data_kwargs", "lr_scheduler_kwargs",
    "optimizer_kwargs", "run_kwargs", "video_data_kwargs",
]  # fmt: skip


def image_data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``ImageDataManager``."""
    return _data_kwargs(cfg) | {
        "k_tfm": cfg.data.k_tfm,
        "load_train_targets": cfg.data.load_train_targets,
        "train_sampler_t": cfg.sampler.train_sampler_t,
        "cuhk03_labeled": cfg.cuhk03.labeled_images,
        "cuhk03_classic_split": cfg.cuhk03.classic_split,
        "market1501_500k": cfg.market1501.use_500k_distractors,
    }


def video_data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``VideoDataManager``."""
    return _data_kwargs(cfg) | {"seq_len": cfg.video.seq_len, "sample_method": cfg.video.sample_method}


def augmentation_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of ``torchreid_training.datasets.augmenting``: which generated images join in training."""
    return {name: cfg.genext.augmented[name] for name in ("root", "ratio", "camera", "seed")}


def _data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    names = ("root", "sources", "targets", "height", "width", "transforms", "norm_mean", "norm_std")
    names += ("split_id", "combineall", "workers")
    samplers = ("train_sampler", "num_instances", "num_cams", "num_datasets")
    return {
        **{name: cfg.data[name] for name in names},
        **{name: cfg.sampler[name] for name in samplers},
        "batch_size_train": cfg.train.batch_size,
        "batch_size_test": cfg.test.batch_size,
        "use_gpu": cfg.use_gpu,
    }


def configure_model(model: Any, cfg: CfgNode) -> Any:
    """Tell a model of ours what the configuration says; torchreid's are left as they are."""
    if hasattr(model, "configure"):
        refine = cfg.genext.inverter.refine
        model.configure(cfg.data.norm_mean, cfg.data.norm_std, network=_network(cfg), **refine)
    return model


def _network(cfg: CfgNode) -> dict[str, Any]:
    """Size of an inverter that no weights file tells."""
    identity, size = cfg.genext.identity, cfg.genext.training.image_size
    network = {"widths": list(identity.widths), "code_width": identity.code_width}
    network["hidden"] = list(cfg.genext.inverter.hidden)
    return network | ({"image_size": list(size)} if size else {})


def optimizer_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``build_optimizer``."""
    names = ("optim", "lr", "weight_decay", "staged_lr", "new_layers", "base_lr_mult")
    return {name: cfg.train[name] for name in names} | {
        "momentum": cfg.sgd.momentum,
        "sgd_dampening": cfg.sgd.dampening,
        "sgd_nesterov": cfg.sgd.nesterov,
        "rmsprop_alpha": cfg.rmsprop.alpha,
        "adam_beta1": cfg.adam.beta1,
        "adam_beta2": cfg.adam.beta2,
    }


def lr_scheduler_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``build_lr_scheduler``."""
    return {name: cfg.train[name] for name in ("lr_scheduler", "stepsize", "gamma", "max_epoch")}


def engine_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of the chosen torchreid engine, besides data, model, optimizer and schedule."""
    options = {"use_gpu": cfg.use_gpu, "label_smooth": cfg.loss.softmax.label_smooth}
    if cfg.loss.name == "triplet":
        options |= {name: cfg.loss.triplet[name] for name in ("margin", "weight_t", "weight_x")}
    if cfg.data.type == "video":
        options["pooling_method"] = cfg.video.pooling_method
    return options


def run_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of the engine's ``run``."""
    training = ("max_epoch", "start_epoch", "fixbase_epoch", "open_layers", "print_freq")
    testing = ("start_eval", "eval_freq", "dist_metric", "normalize_feature")
    testing += ("visrank", "visrank_topk", "ranks", "rerank")
    return {
        **{name: cfg.train[name] for name in training},
        **{name: cfg.test[name] for name in testing},
        "save_dir": cfg.data.save_dir,
        "test_only": cfg.test.evaluate,
        "use_metric_cuhk03": cfg.cuhk03.use_metric_cuhk03,
    }
