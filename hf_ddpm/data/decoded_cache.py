"""Keep what was computed from all images of a dataset in a file: `read_or_build(cache_file(...), features, ...)`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.compute
from datasets.utils import tqdm

from hf_ddpm.data.sources import in_short
from hf_ddpm.data.undecoded import local_file
from hf_ddpm.runtime.files import write_whole

FOLDERS = {"pixels": "hf_ddpm_pixels", "facts": "hf_ddpm_facts"}
STALE = 600  # seconds; a file that is being written grows every few seconds
Rows = Callable[[], Iterable[dict[str, list[Any]]]]

logger = logging.getLogger(__name__)


def stamps_of(records: datasets.Dataset, image_column: str, roots: tuple[str, ...]) -> list[list[Any]] | None:
    """Size and time of every file that the images come from; None = they are in memory alone."""
    files = [file["filename"] for file in records.cache_files]
    stamps = [_stamp(Path(file)) for file in files]
    is_listed = bool(files) and records.info.builder_name == "imagefolder"
    if isinstance(records.features[image_column], datasets.Image) and not is_listed:
        paths = _paths_without_bytes(records, image_column)
        if files or len(paths) == len(records):
            stamps += [_stamp(local_file(path, roots) or Path(path)) for path in paths if path]
    return stamps or None


def cache_file(what: str, parts: list[Any]) -> Path:
    """The file of `pixels` or `facts` in the datasets cache, named by `parts`, everything that its content depends on."""
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / FOLDERS[what] / f"{key}.arrow"


def read_or_build(
    place: Path | None, features: datasets.Features, count: int, rows: Rows, description: str, length: int | None = None
) -> datasets.Dataset:
    """Read a table from a file, or build it and write the file; a damaged file is built again, and the log says so.

    Args:
        place: the file; None = the table stays in memory.
        features: types of the columns.
        count: number of rows.
        rows: called without arguments, yields the rows in batches of columns.
        description: what is done, for the progress bar.
        length: bytes in each value of the first column that is not missing; None = of any length.

    Raises:
        OSError: the file cannot be written; the message names it, and nothing is left behind.
    """
    if place is None:
        batches = [pyarrow.record_batch(batch, schema=features.arrow_schema) for batch in _watched(rows, count, description)]
        return datasets.Dataset(pyarrow.Table.from_batches(batches, schema=features.arrow_schema))
    if place.exists():
        try:
            return _read(place, features, count, length)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            logger.warning("the cache file %s is damaged (%s): it is made again", place, in_short(error))

    def write(path: Path) -> None:
        with path.open("wb") as file, pyarrow.ipc.new_stream(file, features.arrow_schema) as writer:
            for batch in _watched(rows, count, description):
                writer.write_batch(pyarrow.record_batch(batch, schema=features.arrow_schema))

    _remove_stale(place.parent)
    try:
        write_whole(place, write)
    except OSError as error:
        raise OSError(f"{error}; the environment variable HF_DATASETS_CACHE can name a folder on another disk") from error
    return _read(place, features, count, length)


def _read(place: Path, features: datasets.Features, count: int, length: int | None) -> datasets.Dataset:
    """Map a file into memory; an error of one of several types if it is not whole."""
    table = datasets.Dataset.from_file(str(place))
    if table.features != features or len(table) != count:
        raise ValueError(f"{len(table)} rows of {', '.join(table.column_names)} instead of {count} of {', '.join(features)}")
    table.data.table.validate(full=True)
    if length is not None:
        lengths = pyarrow.compute.min_max(pyarrow.compute.binary_length(table.data.column(0))).as_py()
        if any(found not in (None, length) for found in lengths.values()):
            raise ValueError(f"values of {lengths['min']} to {lengths['max']} bytes instead of {length}")
    return table


def _watched(rows: Rows, count: int, description: str) -> Iterable[dict[str, list[Any]]]:
    """The batches of rows, with a progress bar."""
    with tqdm(total=count, desc=description, unit=" images") as bar:
        for batch in rows():
            yield batch
            bar.update(len(next(iter(batch.values()))))


def _paths_without_bytes(records: datasets.Dataset, image_column: str) -> list[str | None]:
    """The paths of the images that have no bytes; the bytes of the others are not read."""
    paths = []
    for batch in records.with_format("arrow").iter(batch_size=1000):
        column = batch[image_column].combine_chunks()
        missing = pyarrow.compute.is_null(pyarrow.compute.struct_field(column, "bytes"))
        images = column.filter(pyarrow.compute.and_(missing, column.is_valid()))
        paths += pyarrow.compute.struct_field(images, "path").to_pylist()
    return paths


def _stamp(file: Path) -> list[Any]:
    try:
        status = file.stat()
    except OSError:  # decoding names it
        return [str(file), None, None]
    return [str(file), status.st_size, status.st_mtime_ns]


def _remove_stale(folder: Path) -> None:
    """Remove what a killed process was writing, as it may fill the disk."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*.partial*"):
            if time.time() - os.stat(path).st_mtime > STALE:
                path.unlink(missing_ok=True)
