"""Open one split of a dataset as a stream of undecoded images: `open_stream("mnist", "train", image_size=28)`."""

from __future__ import annotations

from typing import Literal

import datasets

from hf_ddpm.data.bad_images import BadImages
from hf_ddpm.data.columns import choose_columns, type_name
from hf_ddpm.data.decode import UndecodableImage, check_pixel_options, count_channels, decode_image
from hf_ddpm.data.labels import class_ids_of
from hf_ddpm.data.sources import check_max_images, in_short, no_rows, open_splits, require_split
from hf_ddpm.data.stream import Example, ImageStream


def open_stream(
    source: str,
    split: str,
    *,
    image_size: int,
    channels: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str | int] | None = None,
    class_conditional: bool | None = None,
    max_images: int | None = None,
    shuffle_buffer: int = 10_000,
    on_bad_image: Literal["error", "skip"] = "error",
    max_bad_images: int | None = None,
) -> ImageStream:
    """Open one split of a dataset without decoding it, and read its first image; a `ValueError` says what is wrong.

    An empty class goes unnoticed unless all classes in `labels` are empty. For the other options see `open_source`
    and `decode_images`.

    Args:
        label_column: column of the labels, a ClassLabel, as other classes are known at the end only; None = the only one.
        max_images: the first N images after the choice of classes; None = all.
        shuffle_buffer: images within which the order is shuffled; they are kept undecoded.
        on_bad_image: `skip` replaces an image that cannot be decoded by the next one.
        max_bad_images: images that `skip` may leave out in each process; None = 100.
    """
    check_pixel_options(image_size, channels)
    check_max_images(max_images)
    bad_images = BadImages(source, split, on_bad_image, max_bad_images)
    if shuffle_buffer < 1:
        raise ValueError(f"shuffle_buffer is {shuffle_buffer}: give at least 1 image")
    whole_split, num_images = _open_split(source, split)
    image_column, label_column = choose_columns(whole_split.features, image_column, label_column, labels, class_conditional)
    columns = [image_column] if label_column is None else [image_column, label_column]
    whole_split = whole_split.select_columns(columns).cast_column(image_column, datasets.Image(decode=False))
    examples, class_ids, class_names = whole_split, None, None
    if label_column is not None:
        feature = whole_split.features[label_column]
        if not isinstance(feature, datasets.ClassLabel):
            raise ValueError(
                f"the column {label_column!r} is of type {type_name(whole_split.features, label_column)}, and its classes "
                "are known at the end of the stream only: leave out `streaming`, cast it to ClassLabel, or set "
                "`class_conditional` to false"
            )
        names = feature.names
        wanted = list(range(len(names))) if labels is None else class_ids_of(labels, names)
        class_ids, class_names = {old: new for new, old in enumerate(wanted)}, [names[old] for old in wanted]
        if labels is not None:
            # Labels that are missing or out of range pass the filter and are refused where they are read.
            unwanted = set(range(len(names))) - set(wanted)
            examples = examples.filter(lambda label: label not in unwanted, input_columns=[label_column])
            num_images = None
    if max_images is not None:
        examples, num_images = examples.take(max_images), None if num_images is None else min(num_images, max_images)
    first = _first_example(examples, labels, image_column, bad_images)
    return ImageStream(
        examples=examples,
        whole_split=whole_split,
        first=first,
        name=source,
        split=split,
        image_column=image_column,
        label_column=label_column,
        class_ids=class_ids,
        class_names=None if class_conditional is False else class_names,
        channels=channels or count_channels(first[image_column]),
        image_size=image_size,
        max_images=max_images,
        num_images=num_images,
        shuffle_buffer=shuffle_buffer,
        bad_images=bad_images,
    )


def _open_split(source: str, split: str) -> tuple[datasets.IterableDataset, int | None]:
    """One split and its number of images; None = unknown."""
    splits, _ = open_splits(source, streaming=True)
    require_split(splits, source, split)
    dataset = splits[split].with_format(None)
    if isinstance(dataset, datasets.Dataset):
        return dataset.to_iterable_dataset(), len(dataset)
    if dataset.features is None:
        raise ValueError(f"source is {source!r}, which does not say the types of its columns: leave out `streaming`")
    info = (dataset.info.splits or {}).get(split)
    return dataset, info.num_examples or None if info else None


def _first_example(
    examples: datasets.IterableDataset, labels: list[str | int] | None, image_column: str, bad_images: BadImages
) -> Example:
    """The first example whose image can be decoded."""
    source, split, rows = bad_images.source, bad_images.split, iter(examples)
    while True:
        try:
            first = next(rows, None)
        except Exception as error:
            raise ValueError(f"source is {source!r}, which could not be read: {in_short(error)}") from error
        if first is None and labels is not None:
            raise ValueError(f"labels is {labels!r}, classes that have no image in split {split!r}: name others")
        if first is None:
            raise ValueError(no_rows(source, split))
        try:
            decode_image(first[image_column], image_size=1, channels=1)
            return first
        except UndecodableImage as error:
            bad_images.leave_out(first[image_column], error)
