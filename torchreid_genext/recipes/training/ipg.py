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
from torchreid_genext.backbones.card import Preprocessing
from torchreid_genext.backbones.spec import Backbone
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
from torchreid_genext.recipes.training.schedules import Schedule, configured_size, run, schedule
from torchreid_genext.training.ipg import IPGTask, learners
from torchreid_genext.training.machine import place_of

__all__ = ["STAGES", "build", "train"]

STAGES = ("ipg",)

_PIPELINE = "pipeline"  # folder of the result
_TYPICAL = 2000  # images of which principal components are taken
_SIZE = (128, 64)
_HEADS, _TOKENS, _TOKEN_WIDTH = 4, 4, 64  # of attention, and of an identity
_ATTENDING = 2  # levels with attention, the deepest ones
_GUIDED = 64  # channels of the pose guider's last level


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
        return _small(cfg)
    pipe = load_any(node.init, reid_encoder=reid_encoder)
    return pipe.to(torch.float32)  # it may be stored in half precision


def _small(cfg: CfgNode) -> IPGPipeline:
    node = cfg.genext.ipg.generator
    channels, (encoder, features) = node.latent_channels, _encoder(node.encoder)
    autoencoder = PrincipalAutoencoder(node.patch, channels) if channels else PatchAutoencoder(node.patch)
    halvings = range(node.patch.bit_length() - 1, -1, -1)
    guider = PoseGuider(node.widths[0], [_GUIDED >> each for each in halvings])
    return IPGPipeline(
        autoencoder,
        IPGDenoiser(_unet(cfg, autoencoder.latent_channels)),
        guider,
        IdentityProjector(features, _TOKENS, _TOKEN_WIDTH),
        encoder,
        official_scheduler(),
    )


def _encoder(text: str) -> tuple[TorchreidEncoder, int]:
    """The network that a text names, and the width of its features."""
    try:
        backbone = Backbone.parse(text).with_card()
    except ValueError as error:
        raise ValueError(f"{error}, in genext.ipg.generator.encoder") from error
    seen = backbone.preprocessing(Preprocessing(*_SIZE))
    _check_plain(backbone, seen)
    encoder = TorchreidEncoder(backbone.name, seen.size, seen.mean, seen.std)
    if backbone.weights:
        checkpoints.load_weights(encoder.network, backbone.weights)
    with torch.no_grad():
        return encoder, encoder(torch.zeros(1, 3, *seen.size)).shape[1]


def _check_plain(backbone: Backbone, seen: Preprocessing) -> None:
    """A pipeline knows its encoder by name, size, mean and std."""
    card = backbone.card
    ways = (dict(backbone.options), card.feature, card.camera, seen.interpolation, seen.resize)
    if ways != ({}, "", "none", "bilinear", "stretch"):
        rule = "expected an encoder whose card tells height, width, mean and std alone"
        raise ValueError(f"{rule}, got {', '.join(map(str, filter(None, ways)))} of {backbone.label}")


def _size(cfg: CfgNode) -> tuple[int, int]:
    return configured_size(cfg, _SIZE)


def _unet(cfg: CfgNode, channels: int) -> dict[str, Any]:
    node = cfg.genext.ipg.generator
    attended = [level >= len(node.widths) - _ATTENDING for level in range(len(node.widths))]
    return dict(
        sample_size=_size(cfg)[0] // node.patch,
        in_channels=channels,
        out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if seen else "DownBlock2D" for seen in attended),
        up_block_types=tuple("CrossAttnUpBlock2D" if seen else "UpBlock2D" for seen in reversed(attended)),
        block_out_channels=tuple(node.widths),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=_HEADS,
        cross_attention_dim=_TOKEN_WIDTH,
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
        ValueError: if a stage is unknown, no image has joints, or as `schedule` and `training.fit`.
    """
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"unknown stage {unknown[0]!r}; choose from {', '.join(STAGES)}")
    return {stage: _train(cfg) for stage in stages}


def _train(cfg: CfgNode) -> Path:
    folder, how = Path(os.path.expanduser(cfg.data.save_dir), "ipg"), schedule(cfg, "ipg")
    pipe = build(cfg)
    images, skeletons = _images(cfg, pipe.config.pose_style)
    pipe.set_progress_bar_config(disable=True)  # of its pictures; the training has one
    if isinstance(pipe.vae, PrincipalAutoencoder) and not cfg.genext.ipg.generator.init:
        _fit(pipe.vae, images, cfg.genext.training.seed)
    place = place_of(images.images.nbytes + skeletons.nbytes)
    images, skeletons = images.to(place), skeletons.to(place)
    changes = _changes(cfg, pipe)
    task = _task(cfg, how, pipe, changes, images, skeletons)
    finish = functools.partial(_write, pipe, task, changes, folder)
    run(cfg, task, _pairs(cfg, how, images), how, folder, _description(cfg, how, images), finish)
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
    cfg: CfgNode, how: Schedule, pipe: IPGPipeline, changes: dict[str, LowRank], images: ImageTensor,
    skeletons: Tensor,
) -> IPGTask:  # fmt: skip
    node = cfg.genext.ipg.generator
    pipe.check_inputs(*_size(cfg), "pil", ())
    trained = learners(pipe, node.parts, changes).values()
    parameters = [parameter for module in trained for parameter in module.parameters()]
    return IPGTask(
        pipe,
        torch.optim.AdamW(parameters, how.lr, weight_decay=how.weight_decay, fused=True),
        poses=skeletons,
        augment=Augmentation(flip=how.flip),
        parts=node.parts,
        changes=changes,
        images=_to_encode(node, how, images),
        gradient_checkpointing=node.gradient_checkpointing,
        unconditional=node.unconditional,
        snr_gamma=node.snr_gamma,
        noise_bias=node.noise_bias,
        channel_weights=_channel_weights(pipe.vae),
        examples=_examples(cfg, pipe.config.pose_style),
    )


def _channel_weights(autoencoder: torch.nn.Module) -> Tensor | None:
    """Of latents whose channels differ in how much of the image they are."""
    if not isinstance(autoencoder, PrincipalAutoencoder):
        return None
    weights = autoencoder.loudness()
    return weights / weights.mean()


def _to_encode(node: CfgNode, how: Schedule, images: ImageTensor) -> Tensor | None:
    """What is encoded once, before training."""
    if node.cache_latents and how.flip:
        raise ValueError(f"expected flip 0 with cache_latents, which keeps no mirror images, got {how.flip}")
    return images.images if node.cache_latents else None


def _images(cfg: CfgNode, style: str) -> tuple[ImageTensor, Tensor]:
    """Images to learn from that have joints, and their skeletons."""
    images = _load(cfg, "train")
    skeletons, shown = draw_skeletons(images.paths, _joints(cfg), _size(cfg), style=style)
    return images.select(shown), skeletons[shown]


def _load(cfg: CfgNode, split: str) -> ImageTensor:
    height, width = _size(cfg)
    return load_images(
        cfg.data.sources[0], cfg.data.root, height=height, width=width, split=split,
        cache_dir=Path(cfg.data.save_dir, "images"),
    )  # fmt: skip


def _joints(cfg: CfgNode) -> dict[str, np.ndarray]:
    return read_dataset_poses(cfg.data.sources[0], cfg.data.root, cfg.genext.joints)


def _examples(cfg: CfgNode, style: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """People, best such as are not learnt from: an image of each, and another with its skeleton."""
    return first_shown(("query", "gallery", "train"), functools.partial(_shown, cfg, style, _joints(cfg)))


def _shown(
    cfg: CfgNode, style: str, joints: dict[str, np.ndarray], split: str
) -> tuple[Tensor, Tensor, Tensor]:
    images = asked_for(cfg, split, _load(cfg, split))
    poses = [joints.get(Path(path).name) for path in images.paths]
    images = images.select(torch.tensor([pose is not None and (pose >= 0).any() for pose in poses]))
    images = images.select(two_of_each(images.pids).flatten())
    skeletons, _ = draw_skeletons(images.paths, joints, _size(cfg), style=style)
    (references, targets), (_, wanted) = images.images.chunk(2), skeletons.chunk(2)
    return references, wanted, targets


def _pairs(cfg: CfgNode, how: Schedule, images: ImageTensor) -> Callable:
    seed, rule = cfg.genext.training.seed, cfg.genext.training.partners
    order = Shuffled(len(images), how.batch_size, seed)
    partners = Partners(alike(images.pids, images.camids, rule))
    if cfg.genext.ipg.generator.cache_latents:  # a batch says which; the task knows what was made of them
        images = replace(images, images=torch.arange(len(images)))
    return batches(images, order, partners=partners, seed=seed)


def _description(cfg: CfgNode, how: Schedule, images: ImageTensor) -> dict[str, Any]:
    """What decides on the weights, beside the loop's own options."""
    node, training = cfg.genext.ipg.generator, cfg.genext.training
    keys = {name: value for name, value in node.items() if name != "gradient_checkpointing"}
    keys |= {"image_size": _size(cfg), "partners": training.partners, "flip": how.flip}
    return {"images": len(images), "keys": keys}


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
