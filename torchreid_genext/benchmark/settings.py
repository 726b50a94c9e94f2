"""What a benchmark is asked to do, read from the configuration and checked before any work."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchreid_genext import compat, config, data
from torchreid_genext.backbones import loading, sources
from torchreid_genext.backbones.card import Preprocessing
from torchreid_genext.backbones.spec import Backbone
from torchreid_genext.data.filenames import global_frames
from torchreid_genext.data.folders.names import PREFIX as FOLDER
from torchreid_genext.data.store.lookup import GeneratedImages, find_generated
from torchreid_genext.extraction import Encoder, FeatureTable
from torchreid_genext.precision import comparison_device, resolve
from torchreid_genext.retrieval.protocol import (
    Chain,
    Sightings,
    check_options,
    expand_chains,
)
from torchreid_genext.retrieval.rules import protocol_named

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = [
    "Backbone", "Images", "backbones", "build_encoder", "build_network", "cache_dir", "chains",
    "check_dataset", "check_keys", "check_needs", "dataset_name", "is_ours", "is_present", "open_dataset",
    "open_training", "protocol", "training_sightings", "with_generated",
]  # fmt: skip

_LAYOUT = (
    "lay it out as torchreid's documentation of data sets says, "
    "Market-1501 as <data.root>/market1501/Market-1501-v15.09.15/{bounding_box_train,bounding_box_test,query}"
)


def backbones(cfg: CfgNode) -> list[Backbone]:
    """The models of ``genext.benchmark.models``, or the one of ``model``.

    Raises:
        ValueError: if one cannot be read, is unknown (the choices are listed), its card cannot be read, or
            labels repeat.
        FileNotFoundError: if a card names weights that are not there.
        ImportError: if a package is missing; the message names the cure.
    """
    texts, keys = cfg.genext.benchmark.models, cfg.model
    found = [Backbone.parse(text) for text in texts]
    found = found or [Backbone.of_model(keys.name, keys.load_weights)]
    for backbone in found:
        sources.check(backbone.name)
    found = [replace(backbone, pretrained=keys.pretrained).with_card() for backbone in found]
    labels = [backbone.label for backbone in found]
    if len(set(labels)) < len(labels):
        raise ValueError(f"expected different labels for the models, got {', '.join(labels)}")
    return found


def check_keys(cfg: CfgNode) -> None:
    """Tell before any work which key of evaluation or report is out of its range.

    Raises:
        ValueError: naming the key or the choices.
    """
    keys, evaluation = cfg.genext.benchmark, cfg.genext.evaluation
    check_options(
        metric=cfg.test.dist_metric, protocol=protocol(cfg), memory_limit=evaluation.memory_limit or None,
        index=evaluation.index,
    )  # fmt: skip
    comparison_device(evaluation.device)
    for name, least in (("bootstrap", 0), ("seed", 0), ("rank_list_queries", 1), ("rank_list_depth", 1)):
        if keys[name] < least:
            raise ValueError(f"expected genext.benchmark.{name} >= {least}, got {keys[name]}")


def protocol(cfg: CfgNode) -> str:
    """Which evaluation the configuration asks for."""
    usual = "cuhk03" if cfg.cuhk03.use_metric_cuhk03 else "market1501"
    name = dataset_name(cfg)
    # What no registry knows is told later, by a better sentence.
    blind = name.startswith(FOLDER) and not compat.cameras_known(name)
    return cfg.genext.evaluation.protocol or ("plain" if blind else usual)


def chains(cfg: CfgNode) -> list[Chain]:
    """The chains of ``genext.benchmark.chains``, grids spread out; the others are compared with the first.

    Raises:
        ValueError: if there is none, or a step or argument is unknown.
    """
    found = expand_chains(cfg.genext.benchmark.chains)
    if not found:
        raise ValueError("expected at least one chain in genext.benchmark.chains, got none")
    return found


def cache_dir(cfg: CfgNode) -> Path:
    """Where features are kept."""
    return Path(cfg.genext.benchmark.cache_dir or Path(cfg.data.save_dir, "features"))


def build_encoder(cfg: CfgNode, backbone: Backbone, *, exact: bool = False) -> Encoder | FeatureTable:
    """The model with its weights, and the preprocessing of its card, else of the configuration.

    A network of timm with timm's own weights sees images as timm says, where no card says otherwise.

    Args:
        cfg: the whole tree.
        backbone: which model and weights.
        exact: in fp32, as torchreid runs it, whatever ``genext.inference`` says of precision and speed.

    Raises:
        ValueError: if the weights are of another model, or an inference key is out of range.
        FileNotFoundError: if there is no weights file.
    """
    source, name = sources.source_of(backbone.name)
    if source == "features":
        return FeatureTable(name)
    names = ("flip",) if exact else ("flip", "channels_last", "compile")
    device, seen = _device(cfg), seen_by(cfg, backbone)
    model = _build_model(cfg, backbone, seen)
    if backbone.origin == "pretrained" and not backbone.card.preprocessing:
        seen = replace(seen, **getattr(model, "preprocessing", {}))
    return Encoder(
        model,
        backbone.name,
        **loading.seeing(seen, backbone),
        precision="fp32" if exact else resolve(cfg.genext.inference.precision, device),
        device=device,
        **{name: cfg.genext.inference[name] for name in names},
    )


def build_network(cfg: CfgNode, backbone: Backbone) -> torch.nn.Module:
    """The model of `build_encoder` alone; raises as it does."""
    return _build_model(cfg, backbone, seen_by(cfg, backbone))


def seen_by(cfg: CfgNode, backbone: Backbone) -> Preprocessing:
    """What it sees of images: as the run, else the card, else the configuration says."""
    return backbone.preprocessing(_preprocessing(cfg))


def _preprocessing(cfg: CfgNode) -> Preprocessing:
    keys = cfg.data
    return Preprocessing(keys.height, keys.width, tuple(keys.norm_mean), tuple(keys.norm_std))


def _build_model(cfg: CfgNode, backbone: Backbone, seen: Preprocessing) -> torch.nn.Module:
    backbone = replace(backbone, pretrained=backbone.pretrained and cfg.model.pretrained)
    configure = functools.partial(config.configure_model, cfg=cfg)
    return loading.load(backbone, seen.size, loss=cfg.loss.name, seed=cfg.train.seed, configure=configure)


def _device(cfg: CfgNode) -> torch.device:
    accelerated = cfg.use_gpu and torch.accelerator.is_available()
    return torch.accelerator.current_accelerator() if accelerated else torch.device("cpu")


@dataclass(frozen=True)
class Images:
    """One split: image files with identity and, where they are known, camera and time of each; generated
    images where a chain uses them.
    """

    paths: list[str]
    pids: list[int]
    camids: list[int] | None
    frames: list[int] | None = None
    generated: GeneratedImages | None = None

    @classmethod
    def of(cls, records: Sequence[tuple[Any, ...]], dataset: str, host: Any = None) -> Images:
        """From torchreid's records (path, pid, camid, ...), by path: their own order is the file system's.

        Args:
            records: of a split.
            dataset: name of the data set.
            host: the data set, if it may know that there are no cameras, or times that names do not tell.
        """
        paths, pids, camids = zip(*(record[:3] for record in sorted(records)))
        times = getattr(host, "frames", None)
        frames = [times[path] for path in paths] if times else _frames(paths, dataset)
        known = getattr(host, "has_cameras", True)
        return cls(list(paths), list(pids), list(camids) if known else None, frames)

    def sightings(self) -> Sightings | None:
        """Who was where when; None where names do not tell the time."""
        known = self.frames is not None and self.camids is not None
        return None if not known else Sightings(self.pids, self.camids, self.frames)


def _frames(paths: Sequence[str], dataset: str) -> list[int] | None:
    try:
        return global_frames(paths, dataset)
    except ValueError:  # a data set without times, or with names of its own among them
        return None


def dataset_name(cfg: CfgNode) -> str:
    """The data set that is measured.

    Raises:
        ValueError: if it is not of images.
    """
    if cfg.data.type != "image":
        raise ValueError(
            f"expected data.type image, since features are of single images, got {cfg.data.type!r}"
        )
    return cfg.genext.benchmark.dataset or cfg.data.targets[0]


def is_ours(cfg: CfgNode) -> bool:
    """Whether the data set is one of this package, which write themselves."""
    return dataset_name(cfg) in data.image_datasets()


def is_present(cfg: CfgNode) -> bool:
    """Whether the data set can be opened without being drawn or downloaded first, as its folder tells."""
    return compat.image_dataset_folder(dataset_name(cfg), cfg.data.root).is_dir()


def check_dataset(cfg: CfgNode) -> None:
    """Tell before a network is built whether the data set is known and there; raises as `open_dataset`."""
    name = dataset_name(cfg)
    if not name.startswith(FOLDER) and not is_ours(cfg) and not is_present(cfg):
        folder = compat.image_dataset_folder(name, cfg.data.root)
        raise ValueError(f"expected {name} in {str(folder)!r}, got no such folder; {_LAYOUT}")


def open_dataset(cfg: CfgNode) -> tuple[Images, Images]:
    """Query and gallery of the data set; one of this package is written on first use.

    Raises:
        ValueError: if the data set is unknown or not there; it says how to lay it out.
    """
    name, dataset = dataset_name(cfg), _host_dataset(cfg)
    for split in ("query", "gallery"):
        if not getattr(dataset, split):
            cure = "add a folder query and one gallery"
            raise ValueError(f"expected {split} images in {name}, got none; {cure}")
    return Images.of(dataset.query, name, dataset), Images.of(dataset.gallery, name, dataset)


def open_training(cfg: CfgNode) -> Images:
    """The training split, its identities numbered as torchreid does; raises as `open_dataset`."""
    if (images := _training(cfg)) is None:
        raise ValueError(f"expected training images in {dataset_name(cfg)}, got none; add a folder train")
    return images


def training_sightings(cfg: CfgNode) -> Sightings | None:
    """Who was where when in the training split; None where there is none, or it does not tell."""
    images = _training(cfg)
    return None if images is None else images.sightings()


def _training(cfg: CfgNode) -> Images | None:
    name, dataset = dataset_name(cfg), _host_dataset(cfg)
    return Images.of(dataset.train, name, dataset) if dataset.train else None


def _host_dataset(cfg: CfgNode) -> Any:
    name, root = dataset_name(cfg), cfg.data.root
    if name.startswith(FOLDER):
        return compat.init_image_dataset(name, root=root, verbose=False)
    check_dataset(cfg)
    try:
        return compat.init_image_dataset(name, root=root, verbose=False, **_host_options(cfg))
    except ValueError as error:
        raise ValueError(str(error) if "choose from" in str(error) else f"{error}; {_LAYOUT}") from error


def check_needs(cfg: CfgNode, images: tuple[Images, Images], chains: Sequence[Chain]) -> None:
    """Tell before any work what the data set lacks for a chain.

    Raises:
        ValueError: naming the chain, the step and what is missing.
    """
    known = {"training features"}
    known |= {"cameras"} if all(split.camids is not None for split in images) else set()
    known |= {"generated query", "generated gallery"}  # which are looked for by themselves
    known |= {"frames"} if all(split.frames is not None for split in images) else set()
    for split, whose in zip(images, ("query", "gallery")):
        protocol_named(protocol(cfg)).check_cameras(split.camids, whose)
    for chain in chains:
        if "training times" in chain.needs and training_sightings(cfg) is not None:
            known.add("training times")
        try:
            chain.check_needs(known)
        except ValueError as error:
            raise ValueError(f"{error} by names of {dataset_name(cfg)}, in the chain {chain.name}") from error


def check_backbones(backbones: Sequence[Backbone], chains: Sequence[Chain]) -> None:
    """Tell before any work what a backbone cannot give to a chain.

    Raises:
        ValueError: if a chain takes generated images, and a backbone is but a file of features.
    """
    tables = [each.label for each in backbones if sources.source_of(each.name)[0] == "features"]
    for chain in chains:
        if tables and any(need.startswith("generated") for need in chain.needs):
            rule = f"expected a network for the images of {chain.name}"
            raise ValueError(f"{rule}, got features of {tables[0]}")


def training_images(cfg: CfgNode, chains: Sequence[Chain]) -> list[Images]:
    """The training split, if a chain learns from its features; it is extracted like the others."""
    wanted = any("training features" in chain.needs for chain in chains)
    return [open_training(cfg)] if wanted else []


def with_generated(
    cfg: CfgNode, images: tuple[Images, Images], chains: Sequence[Chain]
) -> tuple[Images, Images]:
    """Query and gallery with the generated images that the chains use, of ``genext.ipg.root``.

    What is missing there is drawn first, if ``genext.ipg.generate`` asks for it.

    Raises:
        ValueError: if there are none, or no root is given.
    """
    used = {side for chain in chains for side in ("query", "gallery") if f"generated {side}" in chain.needs}
    if used and not cfg.genext.ipg.root:
        raise ValueError("expected genext.ipg.root, the folder of the images that fuse adds, got none")
    paths = {name: split.paths for name, split in zip(("query", "gallery"), images) if name in used}
    if paths and cfg.genext.ipg.generate:
        from torchreid_genext.recipes.drawing import stores  # diffusers takes seconds to import

        stores.complete(cfg, paths, dataset_name(cfg))
    found = {
        name: find_generated(cfg.genext.ipg.root, split.paths, name) if name in used else None
        for name, split in zip(("query", "gallery"), images)
    }
    query, gallery = (replace(split, generated=found[name]) for name, split in zip(found, images))
    return query, gallery


def _host_options(cfg: CfgNode) -> dict[str, Any]:
    return {
        "split_id": cfg.data.split_id,
        "cuhk03_labeled": cfg.cuhk03.labeled_images,
        "cuhk03_classic_split": cfg.cuhk03.classic_split,
        "market1501_500k": cfg.market1501.use_500k_distractors,
    }
