"""The summary of the reference images: computed in one pass over a table, and cached.

The cache is the folder `hf_ddpm/reference` of HF_HOME; each file is an .npz without pickle. The key, everything the summary
depends on, is in the file as JSON; a file with another key is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from huggingface_hub import constants

from hf_ddpm.data.table import ImageTable
from hf_ddpm.evaluation.features import Extractor
from hf_ddpm.evaluation.summary import FeatureSummary, empty_summary
from hf_ddpm.pipeline import check_number
from hf_ddpm.runtime.distributed import gather, shard
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.progress import Progress

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the files; raised whenever their content, or how it is computed, changes."""


def reference_summary(
    extractor: Extractor,
    table: ImageTable,
    *,
    batch_size: int,
    max_features: int = 10_000,
    cache_dir: str | Path | None = None,
    processes: PartialState | None = None,
    reference_statistics: str | Path | None = None,
    progress: bool = False,
) -> FeatureSummary:
    """Summarize the features of all images of a table, or read the summary of an earlier call.

    Args:
        extractor: network that computes the features.
        table: reference images.
        batch_size: images per batch and process; affects the result only by rounding.
        max_features: see `FeatureSummary`.
        cache_dir: folder of the cache; None = see above. Summaries of modules, whose code may change, are not cached.
        processes: share the pass; each must call this and gets the same summary. None = a single process.
        reference_statistics: cached file of the same images and extractor, or a `ValueError`; None = look in `cache_dir`.
        progress: whether to show how many images are done, see `Progress`.
    """
    check_number("batch_size", batch_size, 1, integer=True)
    is_first = processes is None or processes.is_main_process
    key = summary_key(extractor, table, max_features) if is_first else {}
    path = None
    if extractor.is_cacheable:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = Path(cache_dir or Path(constants.HF_HOME, "hf_ddpm", "reference")) / f"{digest}.npz"
    all_labels = table.class_labels if table.condition == "class" else None
    class_names = None if all_labels is None else table.class_names
    summary = empty_summary(extractor, table.num_images, max_features, class_names)
    found = _find(path, reference_statistics, key, summary) if is_first else None
    if processes is not None:
        # The others may not see the main process's files, and must not wait in vain.
        found = gather([found], processes)[0]
    if isinstance(found, ValueError):
        raise found
    if found is not None:
        return found
    summary = replace(summary)  # a damaged file may have filled a part of the first
    mine = torch.arange(table.num_images)
    if processes is not None:
        mine = mine[shard(table.num_images, processes)]
    with Progress("features of real images", len(mine), "image", shown=progress) as bar:
        for batch in mine.split(batch_size) if len(mine) else ():
            labels = None if all_labels is None else all_labels[batch]
            summary.update(extractor(table.images(batch), table.value_range), labels, batch)
            bar.advance(len(batch))
    if processes is not None:
        summary = summary.of_all_processes(processes)
    if path is not None and is_first:
        _write(path, key, summary)
    return summary


def summary_key(extractor: Extractor, table: ImageTable, max_features: int) -> dict[str, Any]:
    """Everything a summary depends on, as stored in its file."""
    return {
        "format": FORMAT,
        "features": extractor.name,
        "features_sha256": extractor.digest,
        "preprocessing": extractor.preprocessing,
        "predicted_classes": extractor.class_names,
        "data_fingerprint": table.fingerprint,
        "max_features": max_features,
    }


def _find(
    path: Path | None, given: str | Path | None, key: dict[str, Any], empty: FeatureSummary
) -> FeatureSummary | ValueError | None:
    """The summary of the given or the cached file, or why a given file is refused, or None = compute it."""
    try:
        if given is not None:
            return _read(Path(given), key, empty)
        return None if path is None or not path.exists() else _read(path, key, empty)
    except _Unusable as error:
        if given is not None:
            return ValueError(f"reference_statistics is {str(given)!r}: {error}, leave it out to compute it")
        logger.warning("%s: %s, so the summary is computed again", path, error)
        return None


class _Unusable(Exception):
    """The file is missing, damaged or of another summary; the message says which."""


def _read(path: Path, key: dict[str, Any], empty: FeatureSummary) -> FeatureSummary:
    """Fill an empty summary from a file with this key."""
    if not path.is_file():
        raise _Unusable("it does not exist")
    arrays = _load(path)
    try:
        found = dict(json.loads(arrays["key"].tobytes()))
    except (KeyError, ValueError, TypeError) as error:
        raise _Unusable("it is damaged (no key)") from error
    for name in key:
        if found.get(name) != key[name]:
            raise _Unusable(f"it was made with {name} {found.get(name)!r}, not {key[name]!r}")
    try:
        empty.load_arrays(arrays)
    except ValueError as error:
        raise _Unusable(f"it is damaged ({error})") from error
    return empty


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file; pickles are refused, and checksums verified."""
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an .npz")
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise all kinds of errors for a damaged file
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise _Unusable(f"it is damaged ({message})") from error


def _write(path: Path, key: dict[str, Any], summary: FeatureSummary) -> None:
    arrays: dict[str, Any] = {"key": np.frombuffer(json.dumps(key).encode(), dtype=np.uint8), **summary.to_arrays()}
    try:
        write_whole(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        logger.warning("the reference summary cannot be cached: %s", error)
