"""Data: file names, poses, and the embedded pedestrian world SynthReID."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchreid_genext.compat import ImageDataset

__all__ = ["folder_datasets", "image_datasets"]


def folder_datasets(name: str) -> dict[str, type[ImageDataset]]:
    """Data sets of a name such as ``folder:PATH``; see ``folders.names``."""
    from torchreid_genext.data.folders import dataset

    return dataset.folder_datasets(name)


def image_datasets() -> dict[str, type[ImageDataset]]:
    """The image datasets of this package by the name under which torchreid gets them.

    Returns:
        Name to torchreid dataset class; the classes are imported here, because they need torchreid.
    """
    from torchreid_genext.data.synthetic import dataset

    kinds = (
        dataset.SynthReID,
        dataset.SynthReIDTiny,
        dataset.SynthReIDFull,
        dataset.SynthReIDTurning,
        dataset.SynthReIDInfrared,
        dataset.SynthReIDOccluded,
    )
    return {kind.dataset_dir: kind for kind in kinds}
