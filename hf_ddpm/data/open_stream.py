"""Open one split of a dataset as a stream of undecoded images: `open_stream("mnist", "train", image_size=28)`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Literal

import datasets

from hf_ddpm.data.bad_images import BadImages
from hf_ddpm.data.columns import choose_columns, type_name, with_undecoded_images
from hf_ddpm.data.conditions import condition_reader
from hf_ddpm.data.decode import UndecodableImage, check_pixel_options, decode_image
from hf_ddpm.data.description import LeftOut
from hf_ddpm.data.labels import class_ids_of, class_names_of, plain_label, words_left_out
from hf_ddpm.data.options import Condition
from hf_ddpm.data.resize import Resize
from hf_ddpm.data.scan import scan_values
from hf_ddpm.data.settle import settle_pixels
from hf_ddpm.data.sources import check_max_images, in_short, no_rows, open_splits, require_split
from hf_ddpm.data.stream import Example, ImageStream, Settled
from hf_ddpm.data.undecoded import image_roots, path_of
from hf_ddpm.image_shape import ImageSize, PixelType, ValueRange, size_pair

FIRST_IMAGES = 100  # that stand for all of a stream; each may be a request to the Hub


def open_stream(
    source: str,
    split: str,
    *,
    image_size: ImageSize,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    pixel_type: PixelType | None = None,
    resize: Resize = "crop",
    image_column: str | None = None,
    label_column: str | None = None,
    labels: list[str | int] | None = None,
    class_conditional: bool | None = None,
    max_images: int | None = None,
    shuffle_buffer: int = 10_000,
    on_bad_image: Literal["error", "skip"] = "error",
    max_bad_images: int | None = None,
    settled: Settled | None = None,
    condition: Condition = "class",
    attribute_columns: list[str] | None = None,
    condition_range: tuple[float, float] | None = None,
) -> ImageStream:
    """Open one split of a dataset without decoding it, and look at its first images; a `ValueError` says what is wrong.

    An empty class goes unnoticed unless all classes in `labels` are empty. For the other options see `open_source` and
    `decode_images`. The first 100 images stand for all of them: a later one that has colour where these have none, or more
    than 8 bits where these have not, is an error that names the option which would have settled it.

    Args:
        label_column: column of the labels, a ClassLabel or lists of it, as other classes are known at the end only; None =
            the only one.
        max_images: the first N images after the choice of classes; None = all.
        shuffle_buffer: images within which the order is shuffled; they are kept undecoded.
        on_bad_image: `skip` replaces an image that cannot be decoded by the next one.
        max_bad_images: images that `skip` may leave out in each process; None = 100.
        settled: what another split has settled for this one; None = nothing.
        condition_range: required for numbers, which are not read before the training.
    """
    check_pixel_options(image_size, channels, value_range)
    check_max_images(max_images)
    bad_images = BadImages(source, split, on_bad_image, max_bad_images)
    if shuffle_buffer < 1:
        raise ValueError(f"shuffle_buffer is {shuffle_buffer}: give at least 1 image")
    whole_split, num_images, left_out = _open_split(source, split)
    roots = image_roots(source, whole_split)
    reader = None
    if condition == "class":
        columns = choose_columns(whole_split, image_column, label_column, labels, class_conditional, roots)
    else:
        columns = choose_columns(whole_split, image_column, None, None, False, roots)
        options: dict[str, Any] = {"label_column": label_column, "labels": labels, "attribute_columns": attribute_columns}
        reader = condition_reader(whole_split, condition, condition_range=condition_range, **options)
    image_column, label_column = columns.image, columns.label
    used = [image_column] + ([] if label_column is None else [label_column]) + list(reader.columns if reader else ())
    whole_split = with_undecoded_images(whole_split.select_columns(used), image_column)
    examples, class_ids, class_names = whole_split, None, None if reader is None else reader.names
    if label_column is not None:
        names = class_names_of(whole_split.features[label_column])
        if names is None:
            raise ValueError(
                f"the column {label_column!r} is of type {type_name(whole_split.features, label_column)}, and its classes "
                "are known at the end of the stream only: leave out `streaming`, cast it to ClassLabel, or set "
                "`class_conditional` to false"
            )
        wanted = list(range(len(names))) if labels is None else class_ids_of(labels, names)
        class_ids, class_names = {old: new for new, old in enumerate(wanted)}, [names[old] for old in wanted]
        if labels is not None:
            # Labels that are missing or out of range pass the filter and are refused where they are read.
            unwanted = [old for old in range(len(names)) if old not in class_ids]
            examples = examples.filter(lambda label: plain_label(label) not in unwanted, input_columns=[label_column])
            num_images = None
    if max_images is not None:
        examples, num_images = examples.take(max_images), None if num_images is None else min(num_images, max_images)
    rows = _read(examples, source)
    head = list(itertools.islice(rows, FIRST_IMAGES))
    if not head and labels is not None:
        raise ValueError(f"labels is {labels!r}, classes that have no image in split {split!r}: name others")
    if not head:
        raise ValueError(no_rows(source, split))
    values = [example[image_column] for example in head]
    looked = scan_values(values, roots, channels)
    if label_column is None and reader is None and class_conditional is None and not columns.unused_labels:
        left_out += words_left_out(map(path_of, values))
    if settled is None:
        asked: dict[str, Any] = {"channels": channels, "pixel_type": pixel_type, "value_range": value_range}
        pixels = settle_pixels([looked], source, split, **asked, are_all=False)
        are_known = pixel_type is not None and (value_range is not None or pixel_type != "uint8")
        settled = Settled(
            gray=channels is None and pixels.channels == 1, kinds=None if are_known else tuple(looked.ranges), pixels=pixels
        )
    pixels = settled.pixels
    decode_options: dict[str, Any] = {**asdict(pixels), "roots": roots}
    return ImageStream(
        examples=examples,
        whole_split=whole_split,
        first=_first_example(itertools.chain(head, rows), image_column, bad_images, **decode_options),
        name=source,
        split=split,
        image_column=image_column,
        label_column=label_column,
        class_ids=class_ids,
        condition_reader=reader,
        condition=condition,
        condition_range=condition_range,
        class_names=None if class_conditional is False else class_names,
        channels=pixels.channels,
        image_size=size_pair(image_size),
        pixel_type=pixels.pixel_type,
        value_range=pixels.model_range,
        declared_range=pixels.value_range,
        resize=resize,
        roots=roots,
        settled=settled,
        originals=looked.originals,
        mean_pixels=looked.mean_pixels,
        left_out=left_out + looked.left_out(split, pixels.channels),
        unused_label_columns=columns.unused_labels,
        max_images=max_images,
        num_images=num_images,
        shuffle_buffer=shuffle_buffer,
        bad_images=bad_images,
    )


def _open_split(source: str, split: str) -> tuple[datasets.IterableDataset, int | None, tuple[LeftOut, ...]]:
    """One split, its number of images (None = unknown), and what of the source is not used."""
    splits, left_out = open_splits(source, streaming=True)
    require_split(splits, source, split)
    dataset = splits[split].with_format(None)
    if isinstance(dataset, datasets.Dataset):
        return dataset.to_iterable_dataset(), len(dataset), left_out
    if dataset.features is None:
        raise ValueError(f"source is {source!r}, which does not say the types of its columns: leave out `streaming`")
    info = (dataset.info.splits or {}).get(split)
    return dataset, info.num_examples or None if info else None, left_out


def _read(examples: Iterable[Example], source: str) -> Iterator[Example]:
    try:
        yield from examples
    except Exception as error:
        raise ValueError(f"source is {source!r}, which could not be read: {in_short(error)}") from error


def _first_example(examples: Iterator[Example], image_column: str, bad_images: BadImages, **options: Any) -> Example:
    """The first example whose image can be decoded, with these options of `decode_image`."""
    for example in examples:
        try:
            decode_image(example[image_column], image_size=1, **options)
            return example
        except UndecodableImage as error:
            bad_images.leave_out(example[image_column], error)
    raise ValueError(no_rows(bad_images.source, bad_images.split))
