"""Batches of a stream of images: `stream.reader(seed=0, batch_size=128).read(images_seen=0, micro_step=0)`."""

from __future__ import annotations

import collections
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_ddpm.data.loader import ImageBatch

if TYPE_CHECKING:
    from hf_ddpm.data.stream import ImageStream

Example = dict[str, Any]


class StreamReader:
    """Batches of a stream, epoch after epoch; what is read depends on the position alone, not on what was read before."""

    def __init__(
        self, stream: ImageStream, *, seed: int, batch_size: int, num_processes: int = 1, process_index: int = 0
    ) -> None:
        """
        Args:
            stream: the opened stream.
            seed: seed of the run, at least 0.
            batch_size: B, images a process and micro-step.
            num_processes, process_index: how many processes read together, and which of them this is.

        Raises:
            ValueError: there are fewer images than processes.
        """
        count = sum(1 for _ in itertools.islice(stream.examples, num_processes)) if num_processes > 1 else 1
        if count < num_processes:
            raise ValueError(
                f"split {stream.split!r} of --data.source {stream.name!r} has {count} images for {num_processes} processes: "
                "start fewer processes"
            )
        self.stream, self.seed, self.batch_size = stream, seed, batch_size
        self.num_processes, self.process_index = num_processes, process_index
        self._position: int | None = None  # in the endless sequence of this process; None = it has to be sought
        self._epoch_length: int | None = None
        self._ahead: collections.deque[Example] = collections.deque()  # read already, for their place is yet to come
        self._begin(0)

    def read(self, images_seen: int, micro_step: int) -> ImageBatch:
        """Read a batch: on from the last one if it follows it, else from the beginning of its epoch.

        Args:
            images_seen: images that all processes have trained on before this optimizer step.
            micro_step: micro-steps before this one in the same optimizer step.

        Returns:
            The images at images_seen / num_processes + micro_step * B onwards of what this process reads.

        Raises:
            ValueError: an image or a label is wrong, or this process has no image.
        """
        position = images_seen // self.num_processes + micro_step * self.batch_size
        if position != self._position:
            self._seek(position)
        self._position = None
        rows = self._decode([self._next() for _ in range(self.batch_size)])
        self._position = position + self.batch_size
        shape = (self.batch_size, self.stream.channels, self.stream.image_size, self.stream.image_size)
        pixels = np.frombuffer(bytearray().join(pixels for pixels, _ in rows), dtype=np.uint8).reshape(shape)
        has_labels = self.stream.class_names is not None
        return ImageBatch(
            images=torch.from_numpy(pixels),
            class_labels=torch.tensor([label for _, label in rows]) if has_labels else None,
            sample_ids=torch.arange(position, position + self.batch_size),
        )

    def _decode(self, examples: list[Example]) -> list[tuple[bytes, int | None]]:
        """Decode examples; the next one that can be decoded stands for one that cannot, and comes again in its own place.

        So an image is at the same position whether what comes before it has been decoded or skipped.
        """
        rows = [self.stream.decode(example) for example in examples]
        ahead = []
        while rows[-1] is None:
            ahead.append(self._next())
            rows[-1] = self.stream.decode(ahead[-1])
            if rows[-1] is None and len(ahead) > self.stream.bad_images.limit:  # an image comes the second time
                raise ValueError(self._no_image("that can be decoded "))
        self._ahead.extendleft(reversed(ahead))
        for index in reversed(range(len(rows))):
            rows[index] = rows[index] or rows[index + 1]
        return rows

    def _begin(self, epoch: int) -> None:
        self._epoch, self._read_of_epoch = epoch, 0
        self._examples = self.stream.epoch(self.seed, epoch, self.num_processes, self.process_index)

    def _seek(self, position: int) -> None:
        """Begin the epoch of a position and skip what comes before it, undecoded."""
        self._ahead.clear()
        if self._epoch_length is None:
            self._begin(0)
            if self._skip(position) == position:
                return
            self._end_epoch()
        epoch, offset = divmod(position, self._epoch_length)
        self._begin(epoch)
        self._skip(offset)

    def _skip(self, count: int) -> int:
        """Skip examples of this epoch and return how many there were."""
        self._read_of_epoch += sum(1 for _ in itertools.islice(self._examples, count))
        return self._read_of_epoch

    def _next(self) -> Example:
        """Return the next example, if need be from the next epoch."""
        if self._ahead:
            return self._ahead.popleft()
        example = next(self._examples, None)
        if example is None:
            self._end_epoch()
            self._begin(self._epoch + 1)
            example = next(self._examples)
        self._read_of_epoch += 1
        return example

    def _end_epoch(self) -> None:
        """Note the length of an epoch that was read to its end."""
        if self._read_of_epoch == 0:
            raise ValueError(self._no_image())
        self._epoch_length = self._read_of_epoch

    def _no_image(self, kind: str = "") -> str:
        return (
            f"process {self.process_index} of {self.num_processes} finds no image {kind}in its part of split "
            f"{self.stream.split!r} of --data.source {self.stream.name!r}: start fewer processes"
        )
