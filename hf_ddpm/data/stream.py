"""Read images while training: nothing is decoded before it is needed, and nothing but a shuffle buffer is kept.

stream = open_stream("uoft-cs/cifar100", "train", image_size=32, label_column="fine_label")
batch = stream.reader(seed=0, batch_size=128).read(images_seen=0, micro_step=0)
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import torch

from hf_ddpm.data.bad_images import BadImages, settle_bad_images
from hf_ddpm.data.cache import ImageTable
from hf_ddpm.data.columns import choose_columns, type_name
from hf_ddpm.data.decode import UndecodableImage, check_pixel_options, count_channels, decode_image
from hf_ddpm.data.labels import describe_label, match_classes
from hf_ddpm.data.loader import epoch_seed
from hf_ddpm.data.sources import check_max_images, in_short, no_rows, open_splits, require_split
from hf_ddpm.data.stream_reader import StreamReader

Example = dict[str, Any]
READING_BATCH = 256  # undecoded images


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStream:
    """Images that are read from their beginning, any number of times.

    Attributes:
        examples: the images that are wanted, undecoded, with their labels as the data have them.
        whole_split: the split that they are chosen from.
        first: the first of the examples.
        name, split: source and split as the user gave them.
        image_column: name of the image column.
        label_column: name of the label column, None = labels are not read.
        class_ids: label in the data -> class label, None = labels are not read.
        class_names: name of each class in the order of the class labels, None = the images have no labels.
        channels: 1 (gray) or 3 (RGB).
        image_size: height and width, in pixels.
        max_images: the option, None = all.
        num_images: images in an epoch of all processes, None = not known before they have been read.
        shuffle_buffer: images that the order is shuffled within.
        bad_images: what is done about those that cannot be decoded.
    """

    examples: datasets.IterableDataset
    whole_split: datasets.IterableDataset
    first: Example
    name: str
    split: str
    image_column: str
    label_column: str | None
    class_ids: dict[int, int] | None
    class_names: list[str] | None
    channels: int
    image_size: int
    max_images: int | None
    num_images: int | None
    shuffle_buffer: int
    bad_images: BadImages

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of what is known without reading all: types of the columns, the options that choose or change
        images, the class names, and pixels and label of the first image. Data that differ further on may be equal in it."""
        known = {
            "columns": {name: type_name(self.whole_split.features, name) for name in self.whole_split.features},
            "shape": [self.channels, self.image_size, self.image_size],
            "class_ids": None if self.class_ids is None else list(self.class_ids.items()),
            "class_names": self.class_names,
            "max_images": self.max_images,
        }
        pixels, label = self.decode(self.first)  # `open_stream` has seen that it can be decoded
        digest = hashlib.sha256(json.dumps(known).encode())
        digest.update(pixels)
        digest.update(str(label).encode())
        return digest.hexdigest()

    def reader(self, *, seed: int, batch_size: int, num_processes: int = 1, process_index: int = 0) -> StreamReader:
        """Return what reads batches of this stream for training: see `StreamReader`."""
        return StreamReader(self, seed=seed, batch_size=batch_size, num_processes=num_processes, process_index=process_index)

    def head(self, count: int) -> ImageTable:
        """Decode the first images, in the order of the data, into memory.

        Args:
            count: images, at least 1; more than there are = all.
        """
        decoded = (self.decode(example) for example in self._iterate(self.examples))
        rows = list(itertools.islice((row for row in decoded if row is not None), count))
        features = datasets.Features({"pixels": datasets.Value("binary")})
        return ImageTable(
            pixels=datasets.Dataset.from_dict({"pixels": [pixels for pixels, _ in rows]}, features=features),
            channels=self.channels,
            image_size=self.image_size,
            class_names=self.class_names,
            class_labels=None if self.class_names is None else torch.tensor([label for _, label in rows]),
        )

    def epoch(self, seed: int, epoch: int, num_processes: int, process_index: int) -> Iterator[Example]:
        """Iterate over the examples of one process in one epoch.

        The processes share the files of the data if these divide evenly, else each takes every num_processes-th example.
        The files of a process are the same in every epoch, read in an order drawn anew, so that all its epochs have the
        same length. (The shuffle of datasets reads ahead in threads that outlive it, and `split_dataset_by_node` deals out
        the files anew in each epoch, so that epochs differ in length where files do.)
        """
        seed = epoch_seed(seed, epoch)
        # take() would give each file its share of the first images.
        num_files = self.examples.num_shards if self.max_images is None else 1
        files, first, step = np.random.default_rng(seed).permutation(num_files), process_index, num_processes
        if self.examples is self.whole_split and num_files % num_processes == 0:
            files, first, step = files[files % num_processes == process_index], 0, 1
        parts = (self.examples.shard(num_files, int(file)) if num_files > 1 else self.examples for file in files)
        examples = itertools.chain.from_iterable(map(self._iterate, parts))
        # Each process draws for itself, or neighbours in the data would always meet in one batch.
        rng = np.random.default_rng([seed, process_index])
        return _shuffle(itertools.islice(examples, first, None, step), self.shuffle_buffer, rng)

    def decode(self, example: Example) -> tuple[bytes, int | None] | None:
        """Decode the image of an example and check its label.

        Returns:
            channels * image_size**2 bytes in CHW order, and the class label; None = no labels. None = the image cannot be
            decoded, and such images are left out.

        Raises:
            ValueError: the image cannot be decoded, or the label is missing or out of range.
        """
        label = None
        if self.class_ids is not None:
            value = example[self.label_column]
            if value not in self.class_ids:
                raise ValueError(self._describe_label(example))
            label = None if self.class_names is None else self.class_ids[value]
        try:
            return decode_image(example[self.image_column], image_size=self.image_size, channels=self.channels), label
        except UndecodableImage as error:
            row = None if self.bad_images.are_left_out else self._row(example)  # which reads the data once more
            self.bad_images.leave_out(example[self.image_column], error, row)
            return None

    def _iterate(self, examples: datasets.IterableDataset) -> Iterator[Example]:
        """Iterate over examples in blocks, which is several times as fast as one by one."""
        try:
            for block in examples.iter(batch_size=READING_BATCH):
                for values in zip(*block.values(), strict=True):
                    yield dict(zip(block, values, strict=True))
        except Exception as error:
            raise ValueError(f"--data.source {self.name!r} could not be read: {in_short(error)}") from error

    def _describe_label(self, example: Example) -> str:
        value, row = example[self.label_column], self._row(example)
        limit = self.whole_split.features[self.label_column].num_classes - 1
        problem = "is missing" if value is None else f"is outside 0..{limit}"
        place = f"split {self.split!r}" if row is None else f"row {row} of split {self.split!r}"
        return describe_label(value, self.label_column, place, (example[self.image_column] or {}).get("path"), problem)

    def _row(self, example: Example) -> int | None:
        """Find the row of an example in the split, None = it is not found a second time."""
        return next((row for row, other in enumerate(self._iterate(self.whole_split)) if other == example), None)


def _shuffle(examples: Iterator[Example], buffer_size: int, rng: np.random.Generator) -> Iterator[Example]:
    """Keep a full buffer, and hand out one of its examples, drawn at random, for each that comes in."""
    buffer = list(itertools.islice(examples, buffer_size))
    for example in examples:
        place = int(rng.integers(len(buffer)))
        yield buffer[place]
        buffer[place] = example
    rng.shuffle(buffer)
    yield from buffer


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
    """Open one split of a dataset without decoding it, and read its first image.

    Args:
        source, split, image_column, labels, class_conditional: see `hf_ddpm.data.sources.open_source`.
        image_size, channels: see `hf_ddpm.data.cache.decode_images`.
        label_column: column of the labels, of type ClassLabel: the classes of others are known at the end only. None = the
            only column of this type.
        max_images: the first N images after the choice of classes, None = all.
        shuffle_buffer: images that the order is shuffled within; they are kept undecoded.
        on_bad_image: with `skip`, the next image takes the place of one that cannot be decoded.
        max_bad_images: images that `skip` may leave out in each process; None = 100.

    Returns:
        The opened stream. A class of `labels` that has no image is found by nobody, unless none of them has.

    Raises:
        ValueError: an option is wrong, or the data cannot be read or has no image.
    """
    check_pixel_options(image_size, channels)
    check_max_images(max_images)
    bad_images = BadImages(source, split, settle_bad_images(on_bad_image, max_bad_images))
    if shuffle_buffer < 1:
        raise ValueError(f"--data.shuffle_buffer {shuffle_buffer} is impossible: give at least 1 image")
    whole_split, num_images = _open_split(source, split)
    image_column, label_column = choose_columns(
        whole_split.features,
        image_column=image_column,
        label_column=label_column,
        labels=labels,
        class_conditional=class_conditional,
    )
    columns = [image_column] if label_column is None else [image_column, label_column]
    whole_split = whole_split.select_columns(columns).cast_column(image_column, datasets.Image(decode=False))
    examples, class_ids, class_names = whole_split, None, None
    if label_column is not None:
        names = _read_class_names(whole_split.features, label_column)
        wanted = list(range(len(names))) if labels is None else match_classes(labels, names)
        class_ids, class_names = {old: new for new, old in enumerate(wanted)}, [names[old] for old in wanted]
        if labels is not None:
            # A label that is missing or out of range is let through, to be refused where it is read.
            unwanted = set(range(len(names))) - set(wanted)
            examples = examples.filter(lambda label: label not in unwanted, input_columns=[label_column])
            num_images = None
    if max_images is not None:
        examples, num_images = examples.take(max_images), None if num_images is None else min(num_images, max_images)
    first = _first_example(examples, source, split, labels, image_column, bad_images)
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
    """Return one split and its number of images, None = not known."""
    splits = open_splits(source, streaming=True)
    require_split(splits, source, split)
    dataset = splits[split].with_format(None)
    if isinstance(dataset, datasets.Dataset):
        return dataset.to_iterable_dataset(), len(dataset)
    if dataset.features is None:
        raise ValueError(f"--data.source {source!r} does not say the types of its columns: leave out --data.streaming")
    info = (dataset.info.splits or {}).get(split)
    return dataset, info.num_examples or None if info else None


def _read_class_names(features: datasets.Features, label_column: str) -> list[str]:
    """Return the names of the classes of a column of type ClassLabel."""
    feature = features[label_column]
    if not isinstance(feature, datasets.ClassLabel):
        raise ValueError(
            f"the column {label_column!r} is of type {type_name(features, label_column)}, and its classes are known at the "
            "end of the stream only: leave out --data.streaming, cast it to ClassLabel, or give "
            "--data.class_conditional false"
        )
    return list(feature.names)


def _first_example(
    examples: datasets.IterableDataset,
    source: str,
    split: str,
    labels: list[str | int] | None,
    image_column: str,
    bad_images: BadImages,
) -> Example:
    """Return the first example whose image can be decoded."""
    rows = iter(examples)
    while True:
        try:
            first = next(rows, None)
        except Exception as error:
            raise ValueError(f"--data.source {source!r} could not be read: {in_short(error)}") from error
        if first is None and labels is not None:
            raise ValueError(f"--data.labels {labels!r} have no image in split {split!r}: name other classes")
        if first is None:
            raise ValueError(no_rows(source, split))
        try:
            decode_image(first[image_column], image_size=1, channels=1)
            return first
        except UndecodableImage as error:
            bad_images.leave_out(first[image_column], error)
