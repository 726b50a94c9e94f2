"""Generators at work: poses or cameras, people, and stores that are filled with both."""

from __future__ import annotations

import functools
import glob
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from yacs.config import CfgNode

from torchreid_genext import compat
from torchreid_genext.data.images.reading import image_size, open_image
from torchreid_genext.data.poses import draw_skeleton
from torchreid_genext.data.poses.choosing import choose_poses
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.data.poses.skeletons import scaled
from torchreid_genext.data.poses.standard import standard_poses
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.camstyle_folder import style_pose
from torchreid_genext.data.store.references import without_suffix
from torchreid_genext.generation import Filled, Work, content_hash, fill, works
from torchreid_genext.generation.plan import Plan, plan
from torchreid_genext.generation.processes import fill_by_processes, processes_for
from torchreid_genext.generation.survey import Survey, survey
from torchreid_genext.generation.work import shard_of, units_of
from torchreid_genext.generators.ipg import IPGPipeline, IPGSampler, Sampling, load_any
from torchreid_genext.precision import resolve
from torchreid_genext.recipes.drawing.remembering import recall, remember
from torchreid_genext.recipes.drawing.samplers import (
    CameraSampler,
    PoseSampler,
    cameras_of,
    load_generator,
    pose_sampler,
)
from torchreid_genext.recipes.training.schedules import configured_size

__all__ = [
    "Drawing",
    "complete",
    "draw_poses",
    "fastest_device",
    "joints",
    "load_pipeline",
    "sampling",
]

_STEPS = 20  # of IPG's scheduler, where the configuration does not say
_CHOSEN = 8  # poses of a data set
_WORTH_A_PLAN = 8  # batches; of fewer a plan would make a good part
_OFFICIAL_SIZE = (128, 64)
_log = logging.getLogger(__name__)


def load_pipeline(cfg: CfgNode, **files: Any) -> IPGPipeline:
    """The pipeline of ``genext.sampling``, without progress bars of its own, on an accelerator if any.

    Args:
        cfg: the whole configuration; its ``pipeline`` may be a folder of the authors' files, too.
        files: ``base_model`` and ``vae`` of these, as of `load_any`.

    Raises:
        OSError: if there is none, or no small autoencoder where one is named.
        ValueError: if that has other latents.
    """
    node = cfg.genext.sampling
    tiny = AutoencoderTiny.from_pretrained(node.tiny_vae) if node.tiny_vae else None
    pipe = load_any(node.pipeline, **files)
    expected = pipe.denoising_unet.config.in_channels
    if tiny and (found := tiny.config.latent_channels) != expected:
        raise ValueError(f"expected an autoencoder of {expected} channels in {node.tiny_vae}, got {found}")
    pipe.vae = tiny or pipe.vae
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(fastest_device())


def fastest_device() -> torch.device:
    """An accelerator if there is one; of several processes on a machine each takes its own."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind, own = torch.accelerator.current_accelerator().type, int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device(kind, own % torch.accelerator.device_count())


def sampling(cfg: CfgNode, pipe: IPGPipeline) -> Sampling:
    """How ``genext.sampling`` draws.

    Raises:
        ValueError: as `Sampling`.
    """
    node = cfg.genext.sampling
    height = pipe.denoising_unet.config.sample_size * pipe.vae_scale_factor
    size = configured_size(cfg, (height, height // 2), "sampling")
    return Sampling(
        *size, node.scheduler, node.steps or _STEPS, node.guidance, tuple(node.interval),
        precision=resolve(node.precision, pipe.device), compile=node.compile,
    )  # fmt: skip


def joints(cfg: CfgNode, dataset: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The poses that ``genext.sampling.poses`` names, (18, 2) each, by name.

    Args:
        cfg: the whole configuration.
        dataset: whose own poses are taken where these are asked for.
        size: height and width in pixels of what is drawn.

    Raises:
        ValueError: if the word is unknown, or the data set has too few poses.
        FileNotFoundError: if it has none.
    """
    node = cfg.genext.sampling
    kind, *words = node.poses.split()
    if kind == "standard":
        return _some(standard_poses(*size), words)
    count = _count(node.poses)
    folder = compat.image_dataset_folder(dataset, cfg.data.root)
    known = read_dataset_poses(dataset, cfg.data.root, cfg.genext.joints)
    found = {name: pose for name, pose in known.items() if (pose >= 0).any()}
    chosen = _random(found, count, node.seed) if count else choose_poses(found, _CHOSEN)
    return {without_suffix(name).replace("/", "_"): _to_size(found[name], folder, name, size) for name in chosen}


def _some(standard: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those that are named; all if none is."""
    if unknown := [name for name in names if name not in standard]:
        raise ValueError(f"unknown standard pose {unknown[0]!r}; choose from {', '.join(standard)}")
    return {name: standard[name] for name in names or standard}


def _count(poses: str) -> int:
    """Of random poses; 0 for those that stand for a data set."""
    if poses == "dataset":
        return 0
    if found := re.fullmatch("random ([1-9][0-9]*)|([1-9][0-9]*) random", poses):
        return int(found[1] or found[2])
    raise ValueError(f"expected poses 'standard', 'standard 1 5', 'dataset' or 'random 4', got {poses!r}")


def _random(found: Mapping[str, np.ndarray], count: int, seed: int) -> list[str]:
    names = sorted(found)
    if count > len(names):
        raise ValueError(f"expected a number of poses in 1..{len(names)}, got {count}")
    return [names[row] for row in np.random.default_rng(seed).choice(len(names), count, replace=False)]


def _to_size(pose: np.ndarray, folder: Path, name: str, size: tuple[int, int]) -> np.ndarray:
    """Joints in an image of a data set, for an image of another size."""
    known, stem = glob.escape(name), glob.escape(without_suffix(name))
    (path, *_) = [*folder.rglob(known), *folder.rglob(f"{stem}.*")]
    return scaled(pose, image_size(path), size)


def draw_poses(
    poses: Mapping[str, np.ndarray], size: tuple[int, int], style: str = "bold"
) -> dict[str, Image.Image]:
    """Skeletons of poses by name, as IPG looks at them; official ones are small, and enlarged by it."""
    drawn_at = _OFFICIAL_SIZE if style == "official" else size
    return {
        name: draw_skeleton(scaled(pose, size, drawn_at), drawn_at, style=style)
        for name, pose in poses.items()
    }


# With poses, and how they look; to CamStyle cameras are what poses are to the others.
_Sampler = tuple[IPGSampler | PoseSampler | CameraSampler, dict[str, Any], str]


def _ipg(cfg: CfgNode, dataset: str, pipe: IPGPipeline | None) -> _Sampler:
    pipe = load_pipeline(cfg) if pipe is None else pipe
    how, style = sampling(cfg, pipe), pipe.config.pose_style
    size = (how.height, how.width)
    poses = joints(cfg, dataset, size)
    return IPGSampler(pipe, draw_poses(poses, size, style), how, open_image), poses, f" {style}"


def _adversarial(cfg: CfgNode, dataset: str) -> _Sampler:
    generator = load_generator(cfg).to(fastest_device())
    poses = joints(cfg, dataset, generator.image_size)
    return pose_sampler(cfg, dataset, generator, poses), poses, ""


def _camstyle(cfg: CfgNode, dataset: str) -> _Sampler:
    generator = load_generator(cfg).to(fastest_device())
    cameras = cameras_of(dataset, cfg.data.root)
    known = {style_pose(camera): camera for camera in generator.cameras}
    sampler = CameraSampler(generator, cameras, precision=cfg.genext.sampling.precision)
    return sampler, _styles(known, cfg.genext.sampling.poses.split()), ""


def _styles(known: Mapping[str, int], words: Sequence[str]) -> dict[str, int]:
    """Those that are named; all by default, which is the word for the standard poses."""
    if unknown := [word for word in words if word not in known and words != ["standard"]]:
        raise ValueError(f"unknown style {unknown[0]!r}; choose from {', '.join(known)}")
    return {name: camera for name, camera in known.items() if name in words or words == ["standard"]}


class Drawing:
    """People of a data set in poses, or as other cameras see them, by what ``genext.generator`` names.

    Args:
        cfg: the whole configuration; ``genext.sampling`` has poses, batches and precision of all.
        dataset: whose people are drawn; its poses are meant, if the standard ones are not.
        pipe: of IPG; None for that of the configuration.

    Raises:
        ValueError: if the generator is unknown or has no weights, or as `joints`.

    Attributes:
        poses: their names.
        style: how IPG's skeletons look, as entries tell it.
    """

    def __init__(self, cfg: CfgNode, dataset: str = "", *, pipe: IPGPipeline | None = None) -> None:
        self.cfg = cfg.genext.sampling
        if cfg.genext.generator == "ipg":
            self._sampler, poses, style = _ipg(cfg, dataset, pipe)
        elif cfg.genext.generator == "camstyle":
            self._sampler, poses, style = _camstyle(cfg, dataset)
        else:
            self._sampler, poses, style = _adversarial(cfg, dataset)
        self.poses = [*poses]
        self.style, self._hashes = style, _hashes(poses, style)
        self._kept: dict[Work, Image.Image] = {}  # what a plan made

    def __call__(self, batch: Sequence[Work]) -> list[Image.Image]:
        """The pictures that are wanted."""
        made = {work: self._kept.pop(work) for work in batch if work in self._kept}
        if rest := [work for work in batch if work not in made]:
            references, poses, seeds = zip(*((work.reference, work.pose, work.seed) for work in rest))
            made |= zip(rest, self._sampler(references, poses, seeds))
        return [made[work] for work in batch]

    def _keep(self, batch: Sequence[Work]) -> list[Image.Image]:
        pictures = self(batch)
        self._kept |= zip(batch, pictures)
        return pictures

    @functools.cached_property
    def how(self) -> dict[str, Any]:
        """What beside pose, seed and reference decides on a picture."""
        return self._sampler.provenance()

    def provenance(self, work: Work) -> dict[str, Any]:
        """How a picture is made, beside its seed and reference."""
        return self.how | {"pose": self._hashes[work.pose]}

    def works(self, split: str, references: Sequence[str]) -> list[Work]:
        """Every reference in every pose, or in the style of every camera but its own."""
        found = works(split, references, self.poses, seed=self.cfg.seed)
        if isinstance(self._sampler, CameraSampler):
            return [work for work in found if self._sampler.changes(work.reference, work.pose)]
        return found

    def survey(
        self, store: ImageStore | None, wanted: Sequence[Work], shard: tuple[int, int] | None = None
    ) -> Survey:
        """What a store lacks of what is wanted, or of a shard (index, count) of that.

        Raises:
            ValueError, OSError: as `generation.survey.survey`.
        """
        part = [work for unit in shard_of(units_of(wanted), shard) for work in unit]
        return survey(store, part, self.provenance, self.how)

    def fill(
        self, store: ImageStore, wanted: Sequence[Work], *, shard: tuple[int, int] | None = None,
        found: Survey | None = None, **options: Any,
    ) -> Filled:  # fmt: skip
        """Make what a store lacks, on a CPU by as many processes as torch has threads.

        Args:
            store: is filled.
            wanted: all works.
            shard: (index, count) of this process, as in `generation.fill`.
            found: what `survey` found, if that is known.
            options: of `generation.fill`.

        Raises:
            ValueError, OSError: as `generation.fill`.
        """
        found = self.survey(store, wanted, shard) if found is None else found
        options |= {"provenance": self.provenance, "batch_size": self.cfg.batch_size}
        options["shard"] = (0, 1) if shard else None  # what is left of a shard is all of this process
        processes = self._processes(len(found.missing))
        if processes == 1:
            filled = fill(store, found.missing, self, **options)
        else:
            filled = fill_by_processes(processes, store, found.missing, self, **options)
        return Filled(filled.made, filled.present + found.present, found.failed | filled.failed)

    def _processes(self, count: int) -> int:
        if self.cfg.compile:  # each would compile anew
            return 1
        return processes_for(count, self.cfg.batch_size, fastest_device())

    def is_worth_a_plan(self, found: Survey) -> bool:
        """Whether there is so much to make that telling its cost first costs little."""
        return len(found.missing) > _WORTH_A_PLAN * self.cfg.batch_size

    def plan(self, found: Survey, *, keep: bool = False) -> Plan:
        """What making all that is missing will cost.

        Args:
            found: what `survey` found.
            keep: what is made for the plan is kept in memory, so that `fill` does not make it again.

        Raises:
            ValueError: if nothing is missing.
        """
        options = {"batch_size": self.cfg.batch_size, "processes": self._processes(len(found.missing))}
        return plan(found.missing, found.present, self._keep if keep else self, **options)


def _hashes(poses: Mapping[str, Any], style: str) -> dict[str, str]:
    """What provenance says of poses, by name."""
    return {name: content_hash(pose)[:16] + style for name, pose in poses.items()}


def complete(cfg: CfgNode, references: Mapping[str, Sequence[str]], dataset: str = "") -> Filled:
    """Draw what the store at ``genext.ipg.root`` lacks; where that is nothing, IPG is loaded once to know it.

    Args:
        cfg: the whole configuration.
        references: files of real images, by split.
        dataset: their data set.

    Raises:
        ValueError: if no root is set, or as `Drawing.fill`.
        OSError: if there is no pipeline, or the store cannot be written.
    """
    if not cfg.genext.ipg.root:
        raise ValueError("expected genext.ipg.root, the store that is to be filled, got none")
    store = ImageStore.create(cfg.genext.ipg.root)
    found = _recalled(cfg, store, references, dataset)
    if found is None or found.missing:
        drawing = Drawing(cfg, dataset)
        wanted = [work for split, paths in references.items() for work in drawing.works(split, paths)]
        found = drawing.survey(store, wanted)
        remember(cfg, store.root, fastest_device(), {"how": drawing.how, "style": drawing.style})
    if not found.missing:
        return Filled(made=0, present=found.present, failed=found.failed)
    _log.info("drawing into %s what it lacks: %d pictures", store.root, len(found.missing))
    filled = drawing.fill(store, wanted, found=found)
    _log.info("%s: %s", store.root, filled)
    return filled


def _recalled(
    cfg: CfgNode, store: ImageStore, references: Mapping[str, Sequence[str]], dataset: str
) -> Survey | None:
    """What the store lacks, if it is known how the pipeline draws; else None."""
    if (known := recall(cfg, store.root, fastest_device())) is None:
        return None
    node, how = cfg.genext.sampling, known["how"]
    poses = joints(cfg, dataset, (how["sampling"]["height"], how["sampling"]["width"]))
    hashes = _hashes(poses, known["style"])
    asked = [
        work for split, paths in references.items() for work in works(split, paths, [*poses], seed=node.seed)
    ]
    return survey(store, asked, lambda work: how | {"pose": hashes[work.pose]}, how)
