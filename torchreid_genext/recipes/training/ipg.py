"""IPG from a configuration: the small pipeline, its pairs of images with a skeleton, and its training."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from torchreid_genext import checkpoints
from torchreid_genext.data.generator_batches.orders import Partners, Shuffled, alike, batches
from torchreid_genext.data.images.batch_transforms import Augmentation
from torchreid_genext.data.images.in_memory import ImageTensor, load_images
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.data.poses.skeletons import draw_skeletons
from torchreid_genext.generators.ipg import (
    IdentityProjector,
    IPGDenoiser,
    IPGPipeline,
    PatchAutoencoder,
    PoseGuider,
    PrincipalAutoencoder,
    TorchreidEncoder,
    TransReID,
    load_any,
    lora,
    official_scheduler,
)
from torchreid_genext.generators.ipg.lora import LowRank
from torchreid_genext.recipes.training.examples import asked_for, first_shown, two_of_each
from torchreid_genext.training import Options, fit
from torchreid_genext.training.ipg import IPGTask, learners

__all__ = ["STAGES", "build", "train"]

STAGES = ("ipg",)

_PIPELINE = "pipeline"  # folder of the result
_TYPICAL = 2000  # images of which principal components are taken
# Keys that leave weights alone; and keys that do so when off, which a description then leaves out, so that
# trainings go on that began before there were any.
_SHAPELESS = ("train", "gradient_checkpointing", "examples", "base_model", "vae")
_NEUTRAL = {"init": "", "latent_channels": 0, "guider_width": 16, "lora_rank": 0,
            "cache_latents": False, "noise_bias": 0.0, "channel_power": 0.0,
            "person_weight": 1.0}  # fmt: skip


def build(cfg: CfgNode, *, reid_encoder: TransReID | None = None) -> IPGPipeline:
    """The pipeline of ``genext.ipg.generator`` before its training.

    Args:
        cfg: the whole configuration.
        reid_encoder: to be filled from the authors' files; None for one of the official size.

    Returns:
        The one that ``init`` names; else the small one, untrained but for its identity encoder.

    Raises:
        FileNotFoundError: if weights are missing.
        ValueError: if weights do not fit.
    """
    node = cfg.genext.ipg.generator
    torch.manual_seed(cfg.genext.training.seed)
    if not node.init:
        return _small(node)
    pipe = load_any(node.init, base_model=node.base_model, vae=node.vae, reid_encoder=reid_encoder)
    return pipe.to(torch.float32)  # it may be stored in half precision


def _small(node: CfgNode) -> IPGPipeline:
    channels = node.latent_channels
    autoencoder = PrincipalAutoencoder(node.patch, channels) if channels else PatchAutoencoder(node.patch)
    encoder = TorchreidEncoder(node.encoder, tuple(node.encoder_size))
    if node.encoder_weights:
        checkpoints.load_weights(encoder.network, node.encoder_weights)
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, *node.encoder_size)).shape[1]
    guider_widths = tuple(node.guider_width * 2**level for level in range(node.patch.bit_length()))
    guider = PoseGuider(node.widths[0], guider_widths)
    return IPGPipeline(
        autoencoder,
        IPGDenoiser(_unet(node, autoencoder.latent_channels)),
        guider,
        IdentityProjector(features, node.tokens, node.token_width),
        encoder,
        official_scheduler(),
    )


def _unet(node: CfgNode, channels: int) -> dict[str, Any]:
    attended = [level >= len(node.widths) - node.attention for level in range(len(node.widths))]
    return dict(
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
    folder = Path(os.path.expanduser(cfg.data.save_dir), "ipg")
    pipe = build(cfg)
    images, skeletons = _images(cfg, pipe.config.pose_style)
    pipe.set_progress_bar_config(disable=True)  # of its pictures; the training has one
    if isinstance(pipe.vae, PrincipalAutoencoder) and not cfg.genext.ipg.generator.init:
        _fit(pipe.vae, images, cfg.genext.training.seed)
    changes = _changes(cfg, pipe)
    task = _task(cfg, pipe, changes, images, skeletons)
    fit(
        task, _pairs(cfg, images), _options(cfg, folder), description=_description(cfg, images),
        finish=functools.partial(_write, pipe, task, changes, folder),
    )  # fmt: skip
    return folder / _PIPELINE


def _write(pipe: IPGPipeline, task: IPGTask, changes: dict[str, LowRank], folder: Path) -> None:
    if changes:
        _put_in(changes, task, folder / "lora.safetensors")
    _save(pipe, folder / _PIPELINE)


def _fit(autoencoder: PrincipalAutoencoder, images: ImageTensor, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    some = images.images[torch.randperm(len(images), generator=random)[:_TYPICAL]]
    autoencoder.fit(2 * some.float() / 255 - 1)


def _put_in(changes: dict[str, LowRank], task: IPGTask, path: Path) -> None:
    """Write all that was learnt as a small file, and make changes part of the pipeline."""
    (phase,) = task.phases.values()
    lora.save(path, {name.removesuffix("_lora"): task.modules[name] for name in phase.modules})
    for each in changes.values():
        each.merge()


def _changes(cfg: CfgNode, pipe: IPGPipeline) -> dict[str, LowRank]:
    """What trained U-Nets learn in place of all their weights; empty if it is these."""
    node, random = cfg.genext.ipg.generator, torch.Generator().manual_seed(cfg.genext.training.seed)
    unets = [part for part in node.parts if part.endswith("unet") and node.lora_rank]
    return {part: LowRank(getattr(pipe, part), node.lora_rank, random) for part in unets}


def _task(
    cfg: CfgNode, pipe: IPGPipeline, changes: dict[str, LowRank], images: ImageTensor, skeletons: Tensor
) -> IPGTask:
    node = cfg.genext.ipg.generator
    pipe.check_inputs(node.height, node.width, "pil", ())
    trained = learners(pipe, node.parts, changes).values()
    parameters = [parameter for module in trained for parameter in module.parameters()]
    return IPGTask(
        pipe,
        torch.optim.AdamW(parameters, node.train.lr, weight_decay=node.train.weight_decay, fused=True),
        poses=skeletons,
        augment=Augmentation(flip=node.flip),
        parts=node.parts,
        changes=changes,
        images=_to_encode(node, images),
        gradient_checkpointing=node.gradient_checkpointing,
        unconditional=node.unconditional,
        noise_offset=node.noise_offset,
        snr_gamma=node.snr_gamma,
        noise_bias=node.noise_bias,
        person_weight=node.person_weight,
        channel_weights=_channel_weights(pipe.vae, node.channel_power),
        examples=_examples(cfg, pipe.config.pose_style),
    )


def _channel_weights(autoencoder: torch.nn.Module, power: float) -> Tensor | None:
    """Of latents whose channels differ in how much of the image they are."""
    if not power:
        return None
    if not isinstance(autoencoder, PrincipalAutoencoder):
        rule = "expected channel_power 0 without principal components for latents"
        raise ValueError(f"{rule}, got {power} and {type(autoencoder).__name__}")
    weights = autoencoder.loudness() ** power
    return weights / weights.mean()


def _to_encode(node: CfgNode, images: ImageTensor) -> Tensor | None:
    """What is encoded once, before training."""
    if node.cache_latents and node.flip:
        raise ValueError(f"expected flip 0 with cache_latents, which keeps no mirror images, got {node.flip}")
    return images.images if node.cache_latents else None


def _images(cfg: CfgNode, style: str = "bold") -> tuple[ImageTensor, Tensor]:
    """Images to learn from that have joints, and their skeletons, drawn in this style."""
    images, node = _load(cfg, "train"), cfg.genext.ipg.generator
    skeletons, shown = draw_skeletons(images.paths, _joints(cfg), (node.height, node.width), style=style)
    return images.select(shown), skeletons[shown]


def _load(cfg: CfgNode, split: str) -> ImageTensor:
    node = cfg.genext.ipg.generator
    return load_images(
        cfg.data.sources[0], cfg.data.root, height=node.height, width=node.width, split=split,
        cache_dir=Path(cfg.data.save_dir, "images"),
    )  # fmt: skip


def _joints(cfg: CfgNode) -> dict[str, np.ndarray]:
    return read_dataset_poses(cfg.data.sources[0], cfg.data.root, cfg.genext.ipg.generator.poses)


def _examples(cfg: CfgNode, style: str = "bold") -> tuple[Tensor, Tensor, Tensor] | None:
    """People, by default such as are not learnt from: an image of each, and another with its skeleton."""
    splits = (cfg.genext.ipg.generator.examples, "query", "gallery", "train")
    return first_shown(splits, functools.partial(_shown, cfg, style, _joints(cfg)))


def _shown(
    cfg: CfgNode, style: str, joints: dict[str, np.ndarray], split: str
) -> tuple[Tensor, Tensor, Tensor]:
    images, node = asked_for(cfg, split, _load(cfg, split)), cfg.genext.ipg.generator
    poses = [joints.get(Path(path).name) for path in images.paths]
    images = images.select(torch.tensor([pose is not None and (pose >= 0).any() for pose in poses]))
    images = images.select(two_of_each(images.pids).flatten())
    skeletons, _ = draw_skeletons(images.paths, joints, (node.height, node.width), style=style)
    (references, targets), (_, wanted) = images.images.chunk(2), skeletons.chunk(2)
    return references, wanted, targets


def _pairs(cfg: CfgNode, images: ImageTensor) -> Callable:
    node, seed = cfg.genext.ipg.generator, cfg.genext.training.seed
    order, partners = Shuffled(len(images), node.train.batch_size, seed), Partners(_alike(cfg, images))
    if node.cache_latents:  # a batch says which images; the task knows what was made of them
        images = replace(images, images=torch.arange(len(images)))
    return batches(images, order, partners=partners, seed=seed)


def _alike(cfg: CfgNode, images: ImageTensor) -> Tensor:
    return alike(images.pids, images.camids, cfg.genext.ipg.generator.partners)


def _options(cfg: CfgNode, folder: Path) -> Options:
    schedule = dict(cfg.genext.ipg.generator.train)
    for name in ("batch_size", "lr", "weight_decay"):
        del schedule[name]
    return Options(folder=folder, **dict(cfg.genext.training), **schedule)


def _description(cfg: CfgNode, images: ImageTensor) -> dict[str, Any]:
    """What decides on the weights, beside the loop's own options."""
    node = cfg.genext.ipg.generator
    keys = {name: value for name, value in node.items() if name not in _SHAPELESS}
    keys = {name: value for name, value in keys.items() if name not in _NEUTRAL or value != _NEUTRAL[name]}
    return {
        "data": cfg.data.sources[0], "images": len(images), "batch_size": node.train.batch_size, "keys": keys
    }  # fmt: skip


def _save(pipe: IPGPipeline, folder: Path) -> None:
    """Write the pipeline whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):  # other memory orders are refused by older diffusers
            network.to(memory_format=torch.contiguous_format)
    pipe.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
