"""The evaluation hook of one torchreid engine.

`attach` replaces the method ``_evaluate`` of that one instance; training, data loading and everything global
stay the host's. The hook extracts features as the host does, lets the configured chain transform them once,
and measures, re-ranks and draws from that. Where generated images have label smoothing of their own, the
instance's cross-entropy is replaced too. With every switch off nothing is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat, config
from torchreid_genext.data.filenames import global_frames, has_frames
from torchreid_genext.data.store.lookup import (
    FOLDERS,
    check_generated,
    collect_features,
    find_generated,
)
from torchreid_genext.data.torchreid_training.datasets import plain_name
from torchreid_genext.data.torchreid_training.label_smoothing import restore_labels, smooth_generated
from torchreid_genext.engine.console import show_results
from torchreid_genext.engine.reading import Pictures, tolerant_loader
from torchreid_genext.engine.steps import build_chain, build_step
from torchreid_genext.precision import comparison_device
from torchreid_genext.retrieval.protocol import (
    Chain,
    Comparison,
    Report,
    RetrievalSet,
    Sightings,
    Training,
    check_options,
    compare,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attach", "detach"]

_log = logging.getLogger(__name__)


def attach(engine: Any, cfg: CfgNode) -> Any:
    """Let `engine` evaluate with the steps that `cfg` switches on; attaching again replaces earlier steps.

    Args:
        engine: any torchreid engine, for images or videos.
        cfg: the whole tree, or its node ``genext``; a copy is kept, later changes have no effect.

    Returns:
        The same engine. It is as torchreid made it when no step, no ``evaluation.protocol`` and not
        ``evaluation.enabled`` is on.

    Raises:
        ValueError: if a key of a step that is on is out of its range, a switch is on beside a chain without
            its step, or the protocol is unknown; if the data lack what a step needs: times, cameras,
            generated images; if there is nothing to smooth for ``augmented.label_smoothing``.
    """
    detach(engine)
    cfg = cfg.clone()
    genext = _genext(cfg)
    chain = build_chain(genext)
    build_step("rerank", genext)
    _check(engine, cfg, chain)
    smooth_generated(engine, genext.augmented.label_smoothing)
    if genext.evaluation.enabled or genext.evaluation.protocol or not chain.is_identity:
        engine._evaluate = _Evaluation(engine, cfg)
    return engine


def detach(engine: Any) -> Any:
    """Give `engine` its own evaluation and labels back; without an earlier `attach` nothing happens."""
    restore_labels(engine)
    hook = vars(engine).get("_evaluate")
    if isinstance(hook, _Evaluation):
        hook.remove()
    return engine


def _check(engine: Any, cfg: CfgNode, chain: Chain) -> None:
    """Tell before a training, not after it, what the evaluation will lack."""
    genext = _genext(cfg)
    _check_options(genext.evaluation)
    wanted = [split for split in FOLDERS if f"generated {split}" in chain.needs]
    if wanted and not genext.ipg.root:
        raise ValueError("expected genext.ipg.root, a folder of generated images, got none")
    for split in wanted if not genext.ipg.generate else ():
        check_generated(genext.ipg.root, split)
    data = engine.datamanager
    for name in data.test_loader if data is not None else ():
        _check_data(plain_name(name), data.data_type, cfg, chain)


def _check_options(keys: CfgNode) -> None:
    protocol, limit = keys.protocol or "market1501", keys.memory_limit or None
    check_options(protocol=protocol, memory_limit=limit, index=keys.index)
    comparison_device(keys.device)


def _check_data(dataset: str, data_type: str, cfg: CfgNode, chain: Chain) -> None:
    known = {"cameras"}
    if data_type == "image":
        known = {"cameras"} if compat.cameras_known(dataset) else set()
        known |= {"training features", *(f"generated {split}" for split in FOLDERS)}
        known |= {"frames", "training times"} if has_frames(dataset) else set()
    try:
        chain.check_needs(known)
    except ValueError as error:
        raise ValueError(f"{error} by {dataset} ({data_type}s)") from error
    if chain.learns and "data" not in cfg:
        raise ValueError("expected the whole configuration for a chain that learns, got its node genext")


def _genext(cfg: CfgNode) -> CfgNode:
    return cfg.genext if "genext" in cfg else cfg


class _Evaluation:
    """Stands in for ``_evaluate`` of one engine and takes the same arguments."""

    def __init__(self, engine: Any, cfg: CfgNode) -> None:
        self.engine = engine
        self.cfg = cfg
        self._replaced = vars(engine).get("_evaluate")
        self._hide_results = show_results()

    def remove(self) -> None:
        self._hide_results()
        if self._replaced is None:
            del self.engine._evaluate
        else:
            self.engine._evaluate = self._replaced

    @torch.no_grad()
    def __call__(
        self,
        dataset_name: str = "",
        query_loader: DataLoader | None = None,
        gallery_loader: DataLoader | None = None,
        dist_metric: str = "euclidean",
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = "",
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> tuple[float, float]:
        """Evaluate one data set; returns rank-1 and mAP, both in 0..1, after re-ranking if that is on."""
        chain = build_chain(_genext(self.cfg), normalize=normalize_feature)
        name = plain_name(dataset_name)  # which has the same test images, and times in its file names
        query, unread = self._images(query_loader, name, "query", chain)
        gallery, more = self._images(gallery_loader, name, "gallery", chain)
        compared = compare(query, gallery, chain, **self._options(name, dist_metric, chain, query_loader))
        rules = {"protocol": self._protocol(use_metric_cuhk03), "max_rank": max(50, *ranks, 1)}
        report = final = compared.rank(**rules)
        result = report.to_json() | {"unreadable": unread | more}
        if rerank:
            compared = compared.after(build_step("rerank", _genext(self.cfg)))
            final = compared.rank(**rules)
            result["rerank"] = {"mAP": final.mAP, "cmc": final.cmc}
        _log_results(report, final.cmc, final.mAP, ranks)
        if save_dir:
            self._write(Path(save_dir), dataset_name, result)
        if visrank:
            self._draw(compared, dataset_name, Path(save_dir), visrank_topk)
        return final.cmc[0], final.mAP

    def _images(
        self, loader: DataLoader, dataset: str, split: str, chain: Chain
    ) -> tuple[RetrievalSet, dict[str, str]]:
        """One split with its features and what the chain looks at besides; and what could not be read."""
        images, unreadable = _extract(self.engine, loader, f"{dataset} {split}", self._device)
        if chain.knows_time and images.paths is not None and has_frames(dataset):
            images = replace(images, frames=torch.tensor(global_frames(images.paths, dataset)))
        if f"generated {split}" in chain.needs:
            images = self._with_generated(images, split, loader)
        return images, unreadable

    @property
    def _device(self) -> torch.device:
        """Where features are compared: with the network unless ``evaluation.device`` names a device."""
        return comparison_device(_genext(self.cfg).evaluation.device) or _device(self.engine)

    def _options(self, dataset: str, metric: str, chain: Chain, loader: DataLoader) -> dict[str, Any]:
        keys = _genext(self.cfg).evaluation
        return {
            "metric": metric,
            "memory_limit": keys.memory_limit or None,
            "index": keys.index,
            "train": self._training(dataset, chain, loader) if chain.learns else None,
        }

    def _training(self, dataset: str, chain: Chain, loader: DataLoader) -> Training | None:
        """The training split of the data set that is tested: who was where when, with features if asked."""
        train = compat.init_image_dataset(dataset, root=self.cfg.data.root, verbose=False).train
        paths, pids, camids = zip(*(record[:3] for record in train))
        frames = torch.tensor(global_frames(paths, dataset)) if has_frames(dataset) else None
        if "training features" not in chain.needs:
            return None if frames is None else Sightings(pids, camids, frames)
        features, kept = self._read(list(paths), loader, "train")
        pids, camids = torch.tensor(pids)[kept], torch.tensor(camids)[kept]
        return RetrievalSet(features, pids, camids, None if frames is None else frames[kept])

    def _protocol(self, cuhk03: bool) -> str:
        return _genext(self.cfg).evaluation.protocol or ("cuhk03" if cuhk03 else "market1501")

    def _with_generated(self, images: RetrievalSet, split: str, loader: DataLoader) -> RetrievalSet:
        """The set with features of its generated images."""
        ipg = _genext(self.cfg).ipg
        if ipg.generate:
            self._generate(images.paths, split)
        found = find_generated(ipg.root, images.paths, split)

        def read(files: list[str]) -> tuple[Tensor, Tensor]:
            features, kept = self._read(files, loader, f"generated {split}")
            return (features if len(kept) else images.features[:0]), kept

        return replace(images, generated=collect_features(found, images.features, read)[0])

    def _read(self, files: list[str], loader: DataLoader, label: str) -> tuple[Tensor, Tensor]:
        """Features of the files that can be read, in batches as a loader's, and which these are."""
        pictures = Pictures(files, self.engine.datamanager.transform_te)
        batches = _Batches(self.engine, tolerant_loader(loader, pictures), label)
        features = [features.to(self._device) for features, _ in batches]
        kept = torch.tensor([i for i, file in enumerate(files) if file not in batches.unreadable])
        return torch.cat(features or [torch.empty(0)]), kept

    def _generate(self, paths: Sequence[str], split: str) -> None:
        """Draw what the store lacks of generated images of these."""
        if "data" not in self.cfg:
            raise ValueError("expected the whole configuration for ipg.generate, got its node genext")
        from torchreid_genext.recipes.drawing import stores  # diffusers takes seconds to import

        stores.complete(self.cfg, {split: paths}, plain_name(self.cfg.data.targets[0]))

    def _write(self, folder: Path, dataset_name: str, result: Mapping[str, Any]) -> None:
        path = checkpoints.write_json(folder / f"genext_report_{dataset_name}.json", result)
        config.write_config(self.cfg if "genext" in self.cfg else CfgNode({"genext": self.cfg}), folder)
        _log.info("Report written to %s", path)

    def _draw(self, compared: Comparison, dataset_name: str, folder: Path, topk: int) -> None:
        manager = self.engine.datamanager
        records = manager.fetch_test_loaders(dataset_name)
        if manager.data_type == "image":  # of what could be read
            read = [set(images.paths) for images in (compared.query, compared.gallery)]
            records = tuple([r for r in some if r[0] in paths] for some, paths in zip(records, read))
        compat.visualize_ranked_results(
            compared.matrix().cpu().numpy(),
            records,
            manager.data_type,
            width=manager.width,
            height=manager.height,
            save_dir=str(folder / f"visrank_{dataset_name}"),
            topk=topk,
        )


def _extract(
    engine: Any, loader: DataLoader, split: str, device: torch.device
) -> tuple[RetrievalSet, dict[str, str]]:
    """Features of one split, by the engine's own parser and extractor, in the loader's order; and faults."""
    features, pids, camids, paths = [], [], [], []
    whole = isinstance(loader, DataLoader) and engine.datamanager.data_type == "image"
    batches = _Batches(engine, tolerant_loader(loader) if whole else loader, split)
    for found, batch in batches:
        _, batch_pids, batch_camids = engine.parse_data_for_eval(batch)
        features.append(found.to(device))
        pids.append(batch_pids)
        camids.append(batch_camids)
        paths.extend(batch.get("impath", ()))  # the host's parser drops it; tracklets have none
    if not features:
        raise ValueError(f"expected at least one readable image in {split}, got none")
    _log.info("%s: %d features of width %d", split, sum(map(len, features)), features[0].shape[1])
    columns = (torch.cat(values) for values in (features, pids, camids))
    return RetrievalSet(*columns, paths=paths or None), batches.unreadable


class _Batches:
    """Features of each batch, with the batch; what a tolerant loader could not read is named and kept."""

    def __init__(self, engine: Any, loader: DataLoader, label: str) -> None:
        self.engine, self.loader, self.label = engine, loader, label
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for batch in tqdm(self.loader, desc=self.label, unit="batch", leave=False, disable=None):
            batch, faults = batch if isinstance(batch, tuple) else (batch, {})
            for path, reason in faults.items():
                _log.warning("%s is left out: %s", path, reason)
            self.unreadable |= faults
            if batch:
                yield _features(self.engine, self.engine.parse_data_for_eval(batch)[0]), batch


def _features(engine: Any, images: Tensor) -> Tensor:
    return engine.extract_features(images.to(_device(engine)))


def _device(engine: Any) -> torch.device:
    """Where the engine's (first) network lives."""
    network = next(iter(engine._models.values()))
    return next(network.parameters()).device


def _log_results(report: Report, cmc: Sequence[float], mean_ap: float, ranks: Sequence[int]) -> None:
    """The figures in the form in which torchreid shows its own, then the whole report."""
    lines = ["** Results **", f"mAP: {mean_ap:.1%}", "CMC curve"]
    lines += [f"Rank-{rank:<3}: {cmc[rank - 1]:.1%}" for rank in ranks if rank <= len(cmc)]
    _log.info("%s", "\n".join(lines))
    _log.info("%s", report.summary())
