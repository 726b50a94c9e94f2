"""The evaluation hook of one torchreid engine, and torchreid's objects built from a configuration.

`attach` replaces the method ``_evaluate`` of that one instance; training, data loading and everything global
stay the host's. The hook extracts features as the host does, lets the configured chain transform them, and
measures with `retrieval.protocol.evaluate`. Where generated images have label smoothing of their own, the
instance's cross-entropy is replaced too. With every switch off nothing is replaced.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from tqdm import tqdm
from yacs.config import CfgNode

from torchreid_genext import checkpoints, compat, config
from torchreid_genext.data.augmented import augmenting, plain_name
from torchreid_genext.data.filenames import global_frames, has_frames
from torchreid_genext.data.generated import (
    FOLDERS,
    check_generated,
    collect_features,
    find_generated,
    reader,
)
from torchreid_genext.data.mixing import mix_batches, separate_softmax_engine
from torchreid_genext.data.smoothing import restore_labels, smooth_generated
from torchreid_genext.retrieval.protocol import (
    Chain,
    Report,
    RetrievalSet,
    Sightings,
    evaluate,
    transform,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader

__all__ = [
    "attach", "build_chain", "build_datamanager", "build_engine", "build_model",
    "console_copied_to", "detach",
]  # fmt: skip

_log = logging.getLogger(__name__)


def attach(engine: Any, cfg: CfgNode) -> Any:
    """Let `engine` evaluate with the steps that `cfg` switches on; attaching again replaces earlier steps.

    Args:
        engine: any torchreid engine, for images or videos.
        cfg: the whole tree, or its node ``genext``.

    Returns:
        The same engine. It is as torchreid made it when no step and not ``evaluation.enabled`` is on.

    Raises:
        ValueError: if a key of a step that is on is out of its range, or its generated images are not there;
            if there is nothing to smooth for ``augmented.label_smoothing``.
    """
    detach(engine)
    genext = _genext(cfg)
    _check_generated(genext.ipg)
    chain = build_chain(genext)
    smooth_generated(engine, genext.augmented.label_smoothing)
    if genext.evaluation.enabled or not chain.is_identity:
        show_results()
        engine._evaluate = _Evaluation(engine, cfg)
    return engine


def detach(engine: Any) -> Any:
    """Give `engine` its own evaluation and labels back; without an earlier `attach` nothing happens."""
    restore_labels(engine)
    hook = vars(engine).get("_evaluate")
    if isinstance(hook, _Evaluation):
        hook.remove()
    return engine


def build_chain(genext: CfgNode, *, normalize: bool = False) -> Chain:
    """The steps that are switched on, in the order in which they apply.

    Args:
        genext: the node ``cfg.genext``; its ``evaluation.chain``, if there is one, stands for all switches.
        normalize: L2-normalise (the host's ``test.normalize_feature``), after generated images are added.

    Raises:
        ValueError: if a key of a step that is on is out of its range.
    """
    if genext.evaluation.chain:
        return Chain.parse(genext.evaluation.chain)
    steps = []
    if genext.ipg.enabled:
        steps.append(_step("fuse", genext.ipg, ("eta", "reduce", "side", "normalize_before")))
    if normalize or genext.ipg.enabled and genext.ipg.normalize_after:
        steps.append("l2")
    steps += [_step(name, genext[node]) for name, node in _SWITCHES.items() if genext[node].enabled]
    return Chain.parse("+".join(steps) or "base")


# step -> the node of its keys, in the order in which they apply after generated images
_SWITCHES = {
    "camera_norm": "camera_norm",
    "tracklets": "tracklets",
    "nfc": "nfc",
    "dba": "database_augmentation",
    "alpha_qe": "query_expansion",
    "st": "spatiotemporal",
}


def _step(name: str, node: CfgNode, keys: Sequence[str] = ()) -> str:
    """A step as text, with some or all keys of its node."""
    keys = keys or [key for key in node if key != "enabled"]
    return f"{name}({','.join(f'{key}={node[key]}' for key in keys)})"


def _check_generated(ipg: CfgNode) -> None:
    """Tell before a training, not after it, that generated images are not where they are said to be."""
    if ipg.enabled and not ipg.root:
        raise ValueError("expected genext.ipg.root, a folder of generated images, got none")
    for split in FOLDERS if ipg.enabled and not ipg.generate else ():
        if ipg.side in (split, "both"):
            check_generated(ipg.root, split)






def _genext(cfg: CfgNode) -> CfgNode:
    return cfg.genext if "genext" in cfg else cfg


class _Evaluation:
    """Stands in for ``_evaluate`` of one engine and takes the same arguments."""

    def __init__(self, engine: Any, cfg: CfgNode) -> None:
        self.engine = engine
        self.cfg = cfg
        self._replaced = vars(engine).get("_evaluate")

    def remove(self) -> None:
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
        query = self._images(query_loader, name, "query", chain)
        gallery = self._images(gallery_loader, name, "gallery", chain)
        options = self._options(name, dist_metric, chain)
        protocol = self._protocol(use_metric_cuhk03)
        measured = functools.partial(
            evaluate, query, gallery, protocol=protocol, max_rank=max(50, *ranks), **options
        )
        report = final = measured(chain)
        result = report.to_json()
        if rerank:
            chain = Chain((*chain.steps, *Chain.parse(_step("rerank", _genext(self.cfg).rerank)).steps))
            final = measured(chain)
            result["rerank"] = {"mAP": final.mAP, "cmc": final.cmc}
        _log_results(report, final.cmc, final.mAP, ranks)
        if save_dir:
            self._write(Path(save_dir), dataset_name, result)
        if visrank:
            distances = transform(query, gallery, chain, **options).matrix().numpy()
            self._draw(distances, dataset_name, Path(save_dir), visrank_topk)
        return final.cmc[0], final.mAP

    def _images(self, loader: DataLoader, dataset: str, split: str, chain: Chain) -> RetrievalSet:
        """One split with its features, and what the chain looks at besides."""
        images = _extract(self.engine, loader, f"{dataset} {split}")
        if chain.knows_time and images.paths is not None and has_frames(dataset):
            images = replace(images, frames=torch.tensor(global_frames(images.paths, dataset)))
        return self._with_generated(images, split, loader)

    def _options(self, dataset: str, metric: str, chain: Chain) -> dict[str, Any]:
        keys = _genext(self.cfg).evaluation
        return {
            "metric": metric,
            "memory_limit": keys.memory_limit or None,
            "index": keys.index,
            "train": self._sightings(dataset) if chain.knows_time else None,
        }

    def _sightings(self, dataset: str) -> Sightings | None:
        """Who was where when in the training split of the data set that is tested."""
        if not has_frames(dataset):
            return None
        if "data" not in self.cfg:
            raise ValueError("expected the whole configuration for a chain with times, got its node genext")
        train = compat.init_image_dataset(dataset, root=self.cfg.data.root, verbose=False).train
        paths, pids, camids = zip(*(record[:3] for record in train))
        return Sightings(pids, camids, global_frames(paths, dataset))

    def _protocol(self, cuhk03: bool) -> str:
        return _genext(self.cfg).evaluation.protocol or ("cuhk03" if cuhk03 else "market1501")

    def _with_generated(self, images: RetrievalSet, split: str, loader: DataLoader) -> RetrievalSet:
        """The set with features of its generated images, if its side is to be fused with them."""
        ipg = _genext(self.cfg).ipg
        if not ipg.enabled or ipg.side not in (split, "both"):
            return images
        if images.paths is None:
            raise ValueError("expected single images with genext.ipg.enabled, got tracklets")
        if ipg.generate:
            self._generate(images.paths, split)
        found = find_generated(ipg.root, images.paths, split)
        read = reader(
            functools.partial(_features, self.engine),
            self.engine.datamanager.transform_te,
            batch_size=loader.batch_size,
            workers=loader.num_workers,
        )
        return replace(images, generated=collect_features(found, images.features, read)[0])

    def _generate(self, paths: Sequence[str], split: str) -> None:
        """Draw what the store lacks of generated images of these."""
        if "data" not in self.cfg:
            raise ValueError("expected the whole configuration for ipg.generate, got its node genext")
        from torchreid_genext.recipes import ipg_images  # diffusers takes seconds to import

        ipg_images.complete(self.cfg, {split: paths}, plain_name(self.cfg.data.targets[0]))

    def _write(self, folder: Path, dataset_name: str, result: Mapping[str, Any]) -> None:
        path = checkpoints.write_json(folder / f"genext_report_{dataset_name}.json", result)
        config.write_config(self.cfg if "genext" in self.cfg else CfgNode({"genext": self.cfg}), folder)
        _log.info("Report written to %s", path)

    def _draw(self, distances: np.ndarray, dataset_name: str, folder: Path, topk: int) -> None:
        manager = self.engine.datamanager
        compat.visualize_ranked_results(
            distances,
            manager.fetch_test_loaders(dataset_name),
            manager.data_type,
            width=manager.width,
            height=manager.height,
            save_dir=str(folder / f"visrank_{dataset_name}"),
            topk=topk,
        )


def _extract(engine: Any, loader: DataLoader, split: str) -> RetrievalSet:
    """Features of one split, by the engine's own parser and extractor, in the loader's order."""
    features, pids, camids, paths = [], [], [], []
    for batch in tqdm(loader, desc=split, unit="batch", leave=False, disable=None):
        images, batch_pids, batch_camids = engine.parse_data_for_eval(batch)
        features.append(_features(engine, images))
        pids.append(batch_pids)
        camids.append(batch_camids)
        paths.extend(batch.get("impath", ()))  # the host's parser drops it; tracklets have none
    if not features:
        raise ValueError(f"expected at least one image in {split}, got none")
    _log.info("%s: %d features of width %d", split, sum(map(len, features)), features[0].shape[1])
    return RetrievalSet(torch.cat(features), torch.cat(pids), torch.cat(camids), paths=paths or None)


def _features(engine: Any, images: Tensor) -> Tensor:
    return engine.extract_features(images.to(_device(engine))).cpu()


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


# torchreid's objects from a configuration, as its scripts make them












