"""IPG from a configuration: the small pipeline, its pairs of images with a skeleton, and its training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat
from torchreid_genext.data.augmentation import Augmentation
from torchreid_genext.data.memory import ImageTensor, load_images
from torchreid_genext.data.pairs import Partners, Shuffled, batches
from torchreid_genext.data.poses import read_market_annotations
from torchreid_genext.data.skeletons import draw_skeletons
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGPipeline,
    PatchAutoencoder,
    PoseGuider,
    TorchreidEncoder,
    official_scheduler,
    without_head,
)
from torchreid_genext.training import Options, fit, trained_weights
from torchreid_genext.training.ipg import IPGTask

__all__ = ["STAGES", "build", "train"]

STAGES = ("ipg",)

_EXAMPLES = 8  # people in a picture


def build(cfg: CfgNode) -> IPGPipeline:
    """The small pipeline of ``genext.ipg.generator``, untrained but for its identity encoder."""
    node = cfg.genext.ipg.generator
    torch.manual_seed(cfg.genext.training.seed)
    autoencoder = PatchAutoencoder(node.patch)
    encoder = TorchreidEncoder(node.encoder, tuple(node.encoder_size))
    if node.encoder_weights:
        checkpoints.load_weights(encoder.network, node.encoder_weights)
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, *node.encoder_size)).shape[1]
    guider = PoseGuider(node.widths[0], tuple(16 * 2**level for level in range(node.patch.bit_length())))
    return IPGPipeline(
        autoencoder,
        without_head(_unet(node, autoencoder.config.latent_channels)),
        _unet(node, autoencoder.config.latent_channels),
        guider,
        IdentityProjector(features, node.tokens, node.token_width),
        encoder,
        official_scheduler(),
    )


def _unet(node: CfgNode, channels: int) -> UNet2DConditionModel:
    attended = [level >= len(node.widths) - node.attention for level in range(len(node.widths))]
    return UNet2DConditionModel(
        sample_size=node.height // node.patch,
        in_channels=channels,
        out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if seen else "DownBlock2D" for seen in attended),
        up_block_types=tuple("CrossAttnUpBlock2D" if seen else "UpBlock2D" for seen in reversed(attended)),
        block_out_channels=tuple(node.widths),
        layers_per_block=node.layers,
        norm_num_groups=8,
        attention_head_dim=node.heads,
        cross_attention_dim=node.token_width,
    )


def train(cfg: CfgNode, stages: Sequence[str] = STAGES) -> dict[str, Path]:
    """Train the small pipeline on the first of ``data.sources``.

    Args:
        cfg: the whole configuration.
        stages: there is only one.

    Returns:
        The folder of the pipeline, as ``IPGPipeline.from_pretrained`` reads it; weights are averages.

    Raises:
        FileNotFoundError: if there is no file of joints.
        ValueError: if a stage is unknown, no image has joints, or as `training.fit`.
    """
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}")
    return {stage: _train(cfg) for stage in stages}


def _train(cfg: CfgNode) -> Path:
    node, folder = cfg.genext.ipg.generator, Path(cfg.data.save_dir, "ipg")
    images, skeletons = _images(cfg, "train")
    pipe = build(cfg)
    parameters = [parameter for part in node.parts for parameter in getattr(pipe, part).parameters()]
    task = IPGTask(
        pipe,
        torch.optim.AdamW(parameters, node.train.lr, weight_decay=node.train.weight_decay, fused=True),
        poses=skeletons,
        augment=Augmentation(flip=node.flip),
        parts=node.parts,
        unconditional=node.unconditional,
        noise_offset=node.noise_offset,
        snr_gamma=node.snr_gamma,
        examples=_examples(cfg),
    )
    fitted = fit(task, _pairs(cfg, images), _options(cfg, folder), description=_description(cfg, images))
    for part, weights in trained_weights(fitted.checkpoint).items():
        getattr(pipe, part).load_state_dict(weights)
    return _save(pipe, folder / "pipeline")


def _images(cfg: CfgNode, split: str) -> tuple[ImageTensor, Tensor]:
    """Images that have joints, and their skeletons."""
    node, name = cfg.genext.ipg.generator, cfg.data.sources[0]
    images = load_images(
        name, cfg.data.root, height=node.height, width=node.width, split=split,
        cache_dir=Path(cfg.data.save_dir, "images"),
    )  # fmt: skip
    poses = read_market_annotations(compat.image_dataset_folder(name, cfg.data.root) / node.poses)
    skeletons, shown = draw_skeletons(images.paths, poses, (node.height, node.width))
    return images.select(shown), skeletons[shown]


def _examples(cfg: CfgNode) -> tuple[Tensor, Tensor, Tensor]:
    """People who are not learnt from: a query of each, and another of theirs with its skeleton."""
    images, skeletons = _images(cfg, "query")
    people, counts = images.pids.unique(return_counts=True)
    pairs = [(images.pids == person).nonzero()[:2, 0] for person in people[counts > 1][:_EXAMPLES]]
    reference, target = torch.stack(pairs).T
    return images.images[reference], skeletons[target], images.images[target]


def _pairs(cfg: CfgNode, images: ImageTensor) -> Callable:
    seed, size = cfg.genext.training.seed, cfg.genext.ipg.generator.train.batch_size
    order, partners = Shuffled(len(images), size, seed), Partners(_alike(cfg, images))
    return batches(images, order, partners=partners, seed=seed)


def _alike(cfg: CfgNode, images: ImageTensor) -> Tensor:
    """A number for each image (N,); those with the same one show each other's person."""
    rule = cfg.genext.ipg.generator.partners
    if rule not in ("any", "same_camera"):
        raise ValueError(f"unknown partners {rule!r}; choose from any, same_camera")
    return images.pids if rule == "any" else images.pids * (images.camids.max() + 1) + images.camids


def _options(cfg: CfgNode, folder: Path) -> Options:
    schedule = dict(cfg.genext.ipg.generator.train)
    for name in ("batch_size", "lr", "weight_decay"):
        del schedule[name]
    return Options(folder=folder, **dict(cfg.genext.training), **schedule)


def _description(cfg: CfgNode, images: ImageTensor) -> dict[str, Any]:
    """What decides on the weights, beside the loop's own options."""
    node = cfg.genext.ipg.generator
    keys = {name: value for name, value in node.items() if name != "train"}
    return {
        "data": cfg.data.sources[0], "images": len(images), "batch_size": node.train.batch_size, "keys": keys
    }  # fmt: skip


def _save(pipe: IPGPipeline, folder: Path) -> Path:
    """Write the pipeline whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipe.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder
