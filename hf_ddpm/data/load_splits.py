"""Load the splits that a config names: `train, test = load_splits(config.data, image_size=32)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_ddpm.data.open_splits import open_sources
from hf_ddpm.data.options import DecodeOptions, SplitsConfig
from hf_ddpm.data.scan import scan
from hf_ddpm.data.settle import settle_pixels
from hf_ddpm.data.sources import ImageSource
from hf_ddpm.data.table import ImageTable, decode_images
from hf_ddpm.image_shape import ImageSize
from hf_ddpm.run_folder import RunFolder


def load_splits(
    data: SplitsConfig, *, image_size: ImageSize, channels: int | None = None
) -> tuple[ImageTable, ImageTable | None]:
    """Open and decode the train split and, if one is named, the held-out split; see `decode_images`."""
    return decode_sources(data, open_sources(data), image_size=image_size, channels=channels)


def load_train_split(data: DecodeOptions, *, image_size: ImageSize, channels: int | None = None) -> ImageTable:
    """Open and decode the train split alone; see `load_splits`."""
    [source] = open_sources(data)
    return decode_images(source, image_size=image_size, channels=channels, **decode_options(data))


def decode_sources(
    data: SplitsConfig, sources: list[ImageSource], *, image_size: ImageSize, channels: int | None
) -> tuple[ImageTable, ImageTable | None]:
    """Decode the result of `open_sources`; its splits have the same number of channels and range of values."""
    scans = [scan(source, channels) for source in sources]
    if channels is None and scans[-1].channels > scans[0].channels:
        raise ValueError(
            f"test_split is {data.test_split!r}, which has images in colour, while {data.train_split!r} has none: "
            "give `channels` 3, or 1"
        )
    asked: dict[str, Any] = {"channels": channels, "pixel_type": data.pixel_type, "value_range": data.value_range}
    settled = settle_pixels(scans, sources[0].name, " and ".join(source.split for source in sources), **asked)
    tables = [
        decode_images(source, image_size=image_size, seen=(scanned, settled), **decode_options(data))
        for source, scanned in zip(sources, scans, strict=True)
    ]
    return tables[0], tables[1] if len(tables) > 1 else None


def options_of_run(model: str) -> dict[str, Any]:
    """The data options that a model, the folder of a pipeline, was trained with, read from the run that it belongs to.

    A `ValueError`: it belongs to no run, or the config of the run is damaged.
    """
    run = RunFolder.of(model)
    if run is None:
        raise ValueError("source is None: the model belongs to no run that says what it was trained on, give it")
    try:
        return as_recorded(run.read_options()["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.config} is damaged, name the data with `source`") from error


def as_recorded(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data options that a run has recorded, with what versions did that did not record it: they decoded to uint8."""
    return {"pixel_type": "uint8", **data}


def decode_options(data: DecodeOptions) -> dict[str, Any]:
    """How images are decoded, and what is done about those that cannot be, as keyword arguments."""
    names = ("value_range", "pixel_type", "resize", "on_bad_image", "max_bad_images")
    return {name: getattr(data, name) for name in names}
