"""Read images during training: nothing is decoded before it is needed, and only a shuffle buffer is kept."""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch

from hf_ddpm.data.bad_images import BadImages
from hf_ddpm.data.batches import ImageBatch, epoch_seed
from hf_ddpm.data.columns import type_name
from hf_ddpm.data.conditions import BadCondition, ConditionReader
from hf_ddpm.data.decode import ImageFacts, Kind, UndecodableImage, decode_image, inspect_image
from hf_ddpm.data.decoded import DecodedImages
from hf_ddpm.data.description import LeftOut, Originals
from hf_ddpm.data.in_order import InOrder
from hf_ddpm.data.labels import class_names_of, describe_label, label_problem, plain_label
from hf_ddpm.data.resize import Resize
from hf_ddpm.data.settle import Pixels
from hf_ddpm.data.sources import in_short
from hf_ddpm.data.table import ImageTable
from hf_ddpm.data.undecoded import Undecoded, path_of
from hf_ddpm.image_shape import ValueRange

Example = dict[str, Any]
Label = int | list[Any]
"""A class label, or the vector of another condition."""
READING_BATCH = 256  # undecoded images


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was concluded from the first images of a stream and must hold for all."""

    gray: bool
    """That no image has colour."""
    kinds: tuple[Kind, ...] | None
    """The kinds of images that are not plain 8 bits; None = options say all of them, so that any kind may follow."""
    pixels: Pixels
    """What all images are decoded to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStream(DecodedImages):
    """Images that can be read from the beginning any number of times."""

    examples: datasets.IterableDataset
    """The requested images, undecoded, with their labels as in the data."""
    whole_split: datasets.IterableDataset
    """The split that they are chosen from."""
    first: Example
    """The first of the examples."""
    name: str
    """The source as the user gave it."""
    split: str
    """Name of the split."""
    image_column: str
    """Name of the image column."""
    label_column: str | None
    """Name of the label column; None = labels are not read."""
    class_ids: dict[int, int] | None
    """Label in the data -> class label; None = labels are not read."""
    condition_reader: ConditionReader | None
    """Reads what the images are conditioned on; None = a class, or nothing."""
    class_names: list[str] | None
    """Name of each class or label in their order, or that of the number; None = the images have no labels."""
    declared_range: ValueRange | None
    """As the argument `value_range` of `decode_image`."""
    resize: Resize
    """The option, see `decode_image`."""
    roots: tuple[str, ...]
    """Folders in which images may lie that are kept as paths, see `image_roots`."""
    settled: Settled
    """What every image is compared with before it is decoded."""
    max_images: int | None
    """The option; None = all."""
    num_images: int | None
    """Images in an epoch of all processes; None = not known before they have been read."""
    shuffle_buffer: int
    """Images within which the order is shuffled."""
    bad_images: BadImages
    """What is done about images that cannot be decoded."""
    originals: Originals | None
    """The first images as they were before they were decoded; None = unknown."""
    mean_pixels: float
    """Width times height of the first images, on average."""
    left_out: tuple[LeftOut, ...]
    """What was found beside the images and is not used."""
    unused_label_columns: tuple[str, ...]
    """Columns that look like labels and are not used."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of what is known without reading everything: types of the columns, options that choose or change
        images, class names, pixels and label of the first image. Data that differ later may have the same fingerprint."""
        known: dict[str, Any] = {
            "columns": {name: type_name(self.whole_split.features, name) for name in self.whole_split.features},
            "shape": list(self.image_shape),
            "class_ids": None if self.class_ids is None else list(self.class_ids.items()),
            "class_names": self.class_names,
            "max_images": self.max_images,
            **self.type_facts,
        }
        if self.resize != "crop":
            known["resize"] = self.resize
        if self.declared_range is not None:
            known["value_range"] = list(self.declared_range)
        if self.condition_reader is not None:
            known["condition"] = [self.condition, *self.condition_reader.columns]
        [first] = self.decode([self.first], InOrder())
        assert first is not None, "open_stream has decoded it before"
        return hashlib.sha256(json.dumps(known).encode() + first[0] + str(first[1]).encode()).hexdigest()

    def reader(self, *, seed: int, batch_size: int, num_processes: int = 1, process_index: int = 0) -> StreamReader:
        """A `StreamReader`, which reads batches of this stream for training."""
        return StreamReader(self, seed=seed, batch_size=batch_size, num_processes=num_processes, process_index=process_index)

    def head(self, count: int) -> ImageTable:
        """Decode the first `count` images (or all), in the order of the data, into memory."""
        examples, in_order, rows = self._iterate(self.examples), InOrder(), list[tuple[bytes, Label | None]]()
        while block := list(itertools.islice(examples, min(READING_BATCH, count - len(rows)))):
            rows += [row for row in self.decode(block, in_order) if row is not None]
        features = datasets.Features({"pixels": datasets.Value("binary")})
        return ImageTable(
            pixels=datasets.Dataset.from_dict({"pixels": [pixels for pixels, _ in rows]}, features=features),
            channels=self.channels,
            image_size=self.image_size,
            pixel_type=self.pixel_type,
            value_range=self.value_range,
            class_names=self.class_names,
            class_labels=None if self.class_names is None else torch.tensor([label for _, label in rows]),
            condition=self.condition,
            condition_range=self.condition_range,
        )

    def epoch(self, seed: int, epoch: int, num_processes: int, process_index: int) -> Iterator[Example]:
        """Iterate over the examples of one process in one epoch.

        The processes share the files of the data if these divide evenly, else each reads every num_processes-th example.
        A process reads the same files in every epoch, in a new random order, so all its epochs have the same length. (The
        shuffle of datasets reads ahead in threads that outlive it, and `split_dataset_by_node` redistributes the files in
        each epoch, so the lengths of epochs differ if those of files do.)
        """
        seed = epoch_seed(seed, epoch)
        # take() would take a share of the first images from each file.
        num_files = self.examples.num_shards if self.max_images is None else 1
        files, first, step = np.random.default_rng(seed).permutation(num_files), process_index, num_processes
        if self.examples is self.whole_split and num_files % num_processes == 0:
            files, first, step = files[files % num_processes == process_index], 0, 1
        parts = (self.examples.shard(num_files, int(file)) if num_files > 1 else self.examples for file in files)
        examples = itertools.chain.from_iterable(map(self._iterate, parts))
        # Each process has its own order, or neighbours in the data would always be in the same batch.
        rng = np.random.default_rng([seed, process_index])
        return _shuffle(itertools.islice(examples, first, None, step), self.shuffle_buffer, rng)

    def decode(self, examples: list[Example], in_order: InOrder) -> Iterator[tuple[bytes, Label | None] | None]:
        """The bytes of the pixels in CHW order, and the class label (None = no labels), of each example.

        None instead of both = the image cannot be decoded and is left out. A wrong image or label is a `ValueError`.
        """
        images = [example[self.image_column] for example in examples]
        decoded = in_order(self._decode_image, images, self.mean_pixels)
        for example, image in zip(examples, images, strict=True):
            label = self._label(example)
            pixels = next(decoded)
            if isinstance(pixels, bytes):
                yield pixels, label
                continue
            row = None if self.bad_images.are_left_out else self._row(example)  # which reads the data again
            self.bad_images.leave_out(image, pixels, row)
            yield None

    def _label(self, example: Example) -> Label | None:
        """The class label of an example; None = no labels."""
        if self.condition_reader is not None:
            try:
                return self.condition_reader.vector(example)
            except BadCondition as error:
                place = self._place(self._row(example))
                raise ValueError(error.describe(place, path_of(example[self.image_column]))) from None
        if self.label_column is None or self.class_ids is None:
            return None
        value = plain_label(example[self.label_column])
        if isinstance(value, list) or value not in self.class_ids:
            raise ValueError(self._describe_label(example, self.label_column))
        return None if self.class_names is None else self.class_ids[value]

    def _decode_image(self, image: Undecoded) -> bytes | UndecodableImage:
        """Decode one image, in any thread; an image of another kind than the first ones is a `ValueError`."""
        try:
            self._check_settled(inspect_image(image, self.roots, self.channels))
            return decode_image(
                image,
                image_size=self.image_size,
                channels=self.channels,
                value_range=self.declared_range,
                pixel_type=self.pixel_type,
                resize=self.resize,
                roots=self.roots,
            )
        except UndecodableImage as error:
            return error

    def _check_settled(self, facts: ImageFacts) -> None:
        """Raise a `ValueError` if an image is of another kind than the first ones."""
        which = f"split {self.split!r} of `source` {self.name!r} has no"
        if self.settled.gray and not facts.is_gray:
            raise ValueError(f"channels is None, and the beginning of {which} colour, but a later image has: give 3, or 1")
        if facts.kind is not None and self.settled.kinds is not None and facts.kind not in self.settled.kinds:
            missing, remedy = "value_range", "the range from black to white of all images"
            if self.declared_range is not None:
                missing, remedy = "pixel_type", "uint8, uint16 or float32"
            raise ValueError(
                f"{missing} is None, and the beginning of {which} image of more than 8 bits, but a later one has values "
                f"from {facts.low:g} to {facts.high:g}: give {remedy}"
            )

    def _iterate(self, examples: datasets.IterableDataset) -> Iterator[Example]:
        """Iterate over examples in blocks, which is several times faster than one by one."""
        try:
            for block in examples.iter(batch_size=READING_BATCH):
                for values in zip(*block.values(), strict=True):
                    yield dict(zip(block, values, strict=True))
        except Exception as error:
            raise ValueError(f"source is {self.name!r}, which could not be read: {in_short(error)}") from error

    def _describe_label(self, example: Example, column: str) -> str:
        value, row = plain_label(example[column]), self._row(example)
        problem = label_problem(value, len(class_names_of(self.whole_split.features[column]) or ()))
        return describe_label(value, column, self._place(row), path_of(example[self.image_column]), problem)

    def _place(self, row: int | None) -> str:
        return f"split {self.split!r}" if row is None else f"row {row} of split {self.split!r}"

    def _row(self, example: Example) -> int | None:
        """The row of an example in the split; None = it is not found a second time."""
        return next((row for row, other in enumerate(self._iterate(self.whole_split)) if other == example), None)


class StreamReader:
    """Batches of a stream, epoch after epoch; what is read depends on the position alone, not on earlier reads."""

    def __init__(self, stream: ImageStream, *, seed: int, batch_size: int, num_processes: int, process_index: int) -> None:
        """See `TableReader`; raises a `ValueError` if there are fewer images than processes."""
        count = sum(1 for _ in itertools.islice(stream.examples, num_processes)) if num_processes > 1 else 1
        if count < num_processes:
            raise ValueError(
                f"split {stream.split!r} of `source` {stream.name!r} has {count} images for {num_processes} processes: "
                "start fewer processes"
            )
        self.stream, self.seed, self.batch_size = stream, seed, batch_size
        self.num_processes, self.process_index = num_processes, process_index
        self._in_order = InOrder()
        self._position: int | None = None  # in the endless sequence of this process; None = unknown, seek first
        self._epoch_length: int | None = None
        self._ahead: collections.deque[Example] = collections.deque()  # already read, but due later
        self._begin(0)

    def read(self, images_seen: int, micro_step: int) -> ImageBatch:
        """Read the images from position images_seen / num_processes + micro_step * B on in the sequence of this process.

        They are read directly if they follow the last batch, else from the beginning of their epoch. For the arguments see
        `TableReader.read`; a wrong image or label, or a process without images, is a `ValueError`.
        """
        position = images_seen // self.num_processes + micro_step * self.batch_size
        if position != self._position:
            self._seek(position)
        self._position = None
        rows = self._decode([self._next() for _ in range(self.batch_size)])
        self._position = position + self.batch_size
        pixels = np.frombuffer(bytearray().join(pixels for pixels, _ in rows), dtype=self.stream.pixel_type)
        has_labels = self.stream.class_names is not None
        return ImageBatch(
            images=torch.from_numpy(pixels.reshape(self.batch_size, *self.stream.image_shape)),
            class_labels=torch.tensor([label for _, label in rows]) if has_labels else None,
            sample_ids=torch.arange(position, position + self.batch_size),
        )

    def _decode(self, examples: list[Example]) -> list[tuple[bytes, Label | None]]:
        """Decode examples; one that cannot be decoded is replaced by the next one that can, which also keeps its own place.

        So the position of an image does not depend on whether those before it were decoded or skipped.
        """
        rows = list(self.stream.decode(examples, self._in_order))
        following, ahead = rows[-1], []
        while following is None:
            ahead.append(self._next())
            [following] = self.stream.decode(ahead[-1:], self._in_order)
            if following is None and len(ahead) > (self.stream.bad_images.limit or 0):  # an image has come a second time
                raise ValueError(self._no_image("that can be decoded "))
        self._ahead.extendleft(reversed(ahead))
        filled = []
        for row in reversed(rows):
            following = row or following
            filled.append(following)
        return filled[::-1]

    def _begin(self, epoch: int) -> None:
        self._epoch, self._read_of_epoch = epoch, 0
        self._examples = self.stream.epoch(self.seed, epoch, self.num_processes, self.process_index)

    def _seek(self, position: int) -> None:
        """Begin the epoch of a position and skip the examples before it, undecoded."""
        self._ahead.clear()
        length = self._epoch_length
        if length is None:
            self._begin(0)
            if self._skip(position) == position:
                return
            length = self._end_epoch()
        epoch, offset = divmod(position, length)
        self._begin(epoch)
        self._skip(offset)

    def _skip(self, count: int) -> int:
        """Skip examples of this epoch; the number of examples read from it so far."""
        self._read_of_epoch += sum(1 for _ in itertools.islice(self._examples, count))
        return self._read_of_epoch

    def _next(self) -> Example:
        """The next example, if necessary of the next epoch."""
        if self._ahead:
            return self._ahead.popleft()
        example = next(self._examples, None)
        if example is None:
            self._end_epoch()
            self._begin(self._epoch + 1)
            example = next(self._examples)
        self._read_of_epoch += 1
        return example

    def _end_epoch(self) -> int:
        """Record the length of an epoch that was read to its end, and return it."""
        if self._read_of_epoch == 0:
            raise ValueError(self._no_image())
        self._epoch_length = self._read_of_epoch
        return self._epoch_length

    def _no_image(self, kind: str = "") -> str:
        return (
            f"process {self.process_index} of {self.num_processes} finds no image {kind}in its share of split "
            f"{self.stream.split!r} of `source` {self.stream.name!r}: start fewer processes"
        )


def _shuffle(examples: Iterator[Example], buffer_size: int, rng: np.random.Generator) -> Iterator[Example]:
    """Keep a full buffer and yield a random one of its examples for each that enters."""
    buffer = list(itertools.islice(examples, buffer_size))
    for example in examples:
        place = int(rng.integers(len(buffer)))
        yield buffer[place]
        buffer[place] = example
    rng.shuffle(buffer)
    yield from buffer
