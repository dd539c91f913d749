"""The summary of the reference images: computed in one pass over a table, and kept so that the next run need not.

summary = reference_summary(extractor, load_images("digits", "train", image_size=8), batch_size=64)

It is kept as an .npz of numbers, without pickle, under the folder `hf_ddpm/reference` of HF_HOME. The key, all that it
depends on, stands in the file as JSON; a file with another key is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from huggingface_hub import constants
from tqdm.auto import tqdm

from hf_ddpm.data.table import ImageTable
from hf_ddpm.evaluation.features import Extractor
from hf_ddpm.evaluation.summary import MAX_FEATURES, FeatureSummary
from hf_ddpm.pipeline import check_number
from hf_ddpm.runtime.distributed import gather, shard
from hf_ddpm.runtime.files import write_whole

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the files; a new one whenever what is in them, or how it is computed, changes."""


def reference_summary(
    extractor: Extractor,
    table: ImageTable,
    *,
    batch_size: int,
    max_features: int = MAX_FEATURES,
    cache_dir: str | Path | None = None,
    processes: PartialState | None = None,
    reference_statistics: str | Path | None = None,
    progress: bool = False,
) -> FeatureSummary:
    """Summarise the features of all images of a table, or read what an earlier call has kept.

    Args:
        extractor: what computes the features.
        table: the reference images.
        batch_size: images at a time in a process; has no influence on the result beyond rounding.
        max_features: see `FeatureSummary`.
        cache_dir: where summaries are kept; None = the folder of `cache_folder`. Those of modules, whose code may change,
            are not kept.
        processes: which share the pass, every one of which has to call this and gets the same; None = this one alone.
        reference_statistics: a file that such a call has kept, of the same images and extractor; None = look in `cache_dir`.
        progress: show a bar on stderr that counts images.

    Raises:
        ValueError: `reference_statistics` cannot be read or is of something else, or an option or image is wrong.
    """
    check_number("batch_size", batch_size, 1, integer=True)
    is_first = processes is None or processes.is_main_process
    key = summary_key(extractor, table, max_features) if is_first else {}
    path = None
    if extractor.is_cacheable:
        path = Path(cache_dir or cache_folder()) / f"{_digest(key)}.npz"
    summary = _agreed(_find(path, reference_statistics, key, _empty(extractor, table, max_features), is_first), processes)
    if summary is not None:
        return summary
    summary = _one_pass(extractor, table, batch_size, max_features, processes, progress)
    if path is not None and is_first:
        _write(path, key, summary)
    return summary


def summary_key(extractor: Extractor, table: ImageTable, max_features: int) -> dict[str, Any]:
    """All that a summary depends on, as it stands in its file."""
    return {
        "format": FORMAT,
        "features": extractor.name,
        "features_sha256": extractor.digest,
        "preprocessing": extractor.preprocessing,
        "predicted_classes": extractor.class_names,
        "data_fingerprint": table.fingerprint,
        "max_features": max_features,
    }


def cache_folder() -> Path:
    """Where summaries are kept unless another folder is given: beside the Hub's files, in HF_HOME."""
    return Path(constants.HF_HOME) / "hf_ddpm" / "reference"


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _empty(extractor: Extractor, table: ImageTable, max_features: int) -> FeatureSummary:
    return FeatureSummary(
        dim=extractor.dim,
        total_images=table.num_images,
        max_features=max_features,
        class_names=table.class_names,
        predicted_class_names=extractor.class_names,
    )


def _one_pass(
    extractor: Extractor,
    table: ImageTable,
    batch_size: int,
    max_features: int,
    processes: PartialState | None,
    progress: bool,
) -> FeatureSummary:
    """Each process computes its share, and merges those of all in the same order."""
    positions = torch.arange(table.num_images)
    mine = positions if processes is None else positions[shard(table.num_images, processes)]
    summary = _empty(extractor, table, max_features)
    is_first = processes is None or processes.is_main_process
    with tqdm(total=len(mine), unit="image", desc="reference features", disable=not (progress and is_first)) as bar:
        for batch in mine.split(batch_size) if len(mine) else ():
            labels = None if table.class_labels is None else table.class_labels[batch]
            summary.update(extractor(table.images(batch)), labels, batch)
            bar.update(len(batch))
    return summary if processes is None else summary.of_all_processes(processes)


def _find(
    path: Path | None, given: str | Path | None, key: dict[str, Any], empty: FeatureSummary, is_first: bool
) -> FeatureSummary | ValueError | None:
    """Read a kept summary in the first process: what is in the file, or why a given one is refused, or None = compute it."""
    if not is_first:
        return None
    try:
        if given is not None:
            return _read(Path(given), key, empty)
        return None if path is None or not path.exists() else _read(path, key, empty)
    except _Unusable as error:
        if given is not None:
            return ValueError(f"reference_statistics is {str(given)!r}: {error}, leave it out to compute it")
        logger.warning("%s: %s, so its features are computed again", path, error)
        return None


def _agreed(found: FeatureSummary | ValueError | None, processes: PartialState | None) -> FeatureSummary | None:
    """What the first process has found, in all: its files need not be seen by the others, which must not wait for it."""
    if processes is not None:
        found = gather([found], processes)[0]
    if isinstance(found, ValueError):
        raise found
    return found


class _Unusable(Exception):
    """A file is missing, damaged or of something else; the message says which."""


def _read(path: Path, key: dict[str, Any], empty: FeatureSummary) -> FeatureSummary:
    """Fill an empty summary from a file that was made with this key."""
    if not path.is_file():
        raise _Unusable("there is no such file")
    arrays = _load(path)
    try:
        found = dict(json.loads(arrays["key"].tobytes()))
    except (KeyError, ValueError, TypeError) as error:
        raise _Unusable("it is damaged (it has no key)") from error
    for name in key:
        if found.get(name) != key[name]:
            raise _Unusable(f"it was made with {name} {found.get(name)!r}, not {key[name]!r}")
    try:
        empty.load_arrays(arrays)
    except ValueError as error:
        raise _Unusable(f"it is damaged ({error})") from error
    return empty


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file; a pickled one is refused, and checksums are compared."""
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an .npz")
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise all kinds for what is damaged
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise _Unusable(f"it is damaged ({message})") from error


def _write(path: Path, key: dict[str, Any], summary: FeatureSummary) -> None:
    arrays: dict[str, Any] = {"key": np.frombuffer(json.dumps(key).encode(), dtype=np.uint8), **summary.to_arrays()}
    try:
        write_whole(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        logger.warning("the reference summary cannot be kept: %s", error)
