"""The splits that options name: `train, test = load_splits(config.data, image_size=32)`."""

from __future__ import annotations

from typing import Any

from hf_ddpm.config import DataConfig
from hf_ddpm.data.sources import ImageSource, open_source
from hf_ddpm.data.table import ImageTable, decode_images
from hf_ddpm.run_folder import RunFolder


def load_splits(data: DataConfig, *, image_size: int, channels: int | None = None) -> tuple[ImageTable, ImageTable | None]:
    """Open and decode the train split and, where one is named, the held-out split.

    Args:
        data: options.
        image_size, channels: see `decode_images`.

    Raises:
        ValueError: an option is wrong, the data cannot be read, or the two splits have other classes.
    """
    return decode_sources(data, open_sources(data), image_size=image_size, channels=channels)


def open_sources(data: DataConfig) -> list[ImageSource]:
    """Open the train split and, where one is named, the held-out split, which has to be of the same classes."""
    sources = [open_source(data.source, data.train_split, max_images=data.max_images, **column_options(data))]
    if data.test_split is not None:
        sources.append(open_source(data.source, data.test_split, **column_options(data)))
    check_classes(data, *sources)
    return sources


def decode_sources(
    data: DataConfig, sources: list[ImageSource], *, image_size: int, channels: int | None
) -> tuple[ImageTable, ImageTable | None]:
    """Decode what `open_sources` has opened, the held-out split to as many channels as the train split."""
    train = decode_images(sources[0], image_size=image_size, channels=channels, **bad_image_options(data))
    if len(sources) == 1:
        return train, None
    return train, decode_images(sources[1], image_size=image_size, channels=train.channels, **bad_image_options(data))


def check_classes(data: DataConfig, train: Any, test: Any = None) -> None:
    """Refuse a held-out split (None = there is none) of other classes than the train split's."""
    if test is not None and test.class_names != train.class_names:
        raise ValueError(f"test_split is {data.test_split!r}: its classes are not those of {data.train_split!r}")


def options_of_run(model: str) -> dict[str, Any]:
    """The data options that a model was trained with, from the config.yaml of the run that it lies in.

    Args:
        model: folder of a pipeline, `pipeline/` of a run or one of its checkpoints; what is no folder lies in no run.

    Raises:
        ValueError: the model lies in no run, or the file is damaged.
    """
    run = RunFolder.of(model)
    if run is None:
        raise ValueError("source is None: the model belongs to no run that says what it was trained on, give it")
    try:
        return dict(run.read_options()["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.config} is damaged, name the data with `source`") from error


def column_options(data: DataConfig) -> dict[str, Any]:
    """The options that say which column and which classes are read, as keyword arguments."""
    return {name: getattr(data, name) for name in ("image_column", "label_column", "labels", "class_conditional")}


def bad_image_options(data: DataConfig) -> dict[str, Any]:
    """The options about images that cannot be decoded, as keyword arguments."""
    return {"on_bad_image": data.on_bad_image, "max_bad_images": data.max_bad_images}
