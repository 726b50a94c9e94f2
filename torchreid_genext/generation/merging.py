"""Stores into one: what is missing or damaged is copied, what is there stays."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from torchreid_genext import checkpoints
from torchreid_genext.data.images.reading import UNREADABLE
from torchreid_genext.data.store import Entry, ImageStore, has_end
from torchreid_genext.data.store.judgements import mark_file, read_mark
from torchreid_genext.generation.survey import refuse

__all__ = ["is_readable", "merge"]

_log = logging.getLogger(__name__)


def merge(target: ImageStore, *sources: ImageStore, progress: bool = True) -> int:
    """Copy into a store what others hold, with what was said of the pictures.

    A picture is the same wherever it was made, so none is copied twice; but one that is damaged in the target
    is replaced, and one that is damaged in a source is left out, with a warning. A mark is copied where the
    target has none, or the picture is replaced. It may be interrupted and repeated.

    Args:
        target: is added to.
        sources: are read.
        progress: show a progress bar on a terminal.

    Returns:
        How many pictures were copied.

    Raises:
        ValueError: if two of them have different pictures of one reference in one pose; then none is copied.
        OSError: if the target cannot be written.
    """
    _check_alike(target, *sources)
    found = ((source, entry) for source in sources for entry in source.entries(dropped=True))
    hidden = None if progress else True
    return sum(_copied(target, *each) for each in tqdm(found, desc="merge", unit="img", disable=hidden))


def _check_alike(*stores: ImageStore) -> None:
    """Two answers to one question would leave it open which is meant."""
    said = [(store, *each) for store in stores for each in store.answers().items()]
    dropped = {key for *_, answers in said for key, reasons in answers.items() if reasons}
    kept: dict[tuple[str, str, str], tuple[ImageStore, str]] = {}
    for store, asked, answers in said:
        for key in answers.keys() - dropped:
            other, first = kept.setdefault(asked, (store, key))
            if first != key:
                refuse(store, [(other.entry(first), store.entry(key))])


def _copied(target: ImageStore, source: ImageStore, entry: Entry) -> bool:
    """Whether the picture of an entry had to be copied, and could be."""
    old, new = source.path(entry), target.path(entry)
    needed = not (target.has(**vars(entry)) and is_readable(new))
    if needed and not is_readable(old):
        _log.warning("left out, since it cannot be read: %s", old)
        return False
    if needed:
        for suffix in (".png", ".json"):  # the entry last, since with it the picture is there
            _copy(old.with_suffix(suffix), new.with_suffix(suffix))
        mark_file(new).unlink(missing_ok=True)  # it was said of what was there before
    if read_mark(old) and not read_mark(new):
        _copy(mark_file(old), mark_file(new))
    return needed


def is_readable(picture: Path) -> bool:
    """Whether a picture has its end, and all its checksums are right."""
    try:
        with Image.open(picture, formats=["PNG"]) as image:
            image.verify()
    except UNREADABLE:
        return False
    return has_end(picture)  # Pillow does not miss the last bytes


def _copy(old: Path, new: Path) -> None:
    with checkpoints.atomic_path(new) as temporary:
        shutil.copyfile(old, temporary)
