"""Describe what a run is about to learn from: `print(describe_data(config.data, images, test_images))`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hf_ddpm.data.description import ClassCount, DataDescription
from hf_ddpm.data.options import TrainingDataConfig
from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import ImageTable
from hf_ddpm.image_shape import plain_size


def describe_data(
    data: TrainingDataConfig, images: ImageTable | ImageStream, test_images: ImageTable | None
) -> DataDescription:
    """Describe the train split and the held-out one (None = there is none) of these options."""
    train_counts, test_counts = _count_classes(images), _count_classes(test_images)
    names = images.class_names
    switched_off = getattr(data, "class_conditional", None) is False
    test_left_out = () if test_images is None else test_images.left_out
    return DataDescription(
        source=data.source,
        train_split=data.train_split,
        num_train_images=images.num_images,
        test_split=None if test_images is None else getattr(data, "test_split", None),
        num_test_images=None if test_images is None else test_images.num_images,
        streaming=getattr(data, "streaming", False),
        originals=images.originals,
        image_size=plain_size(images.image_size),
        channels=images.channels,
        pixel_type=images.pixel_type,
        value_range=None if images.value_range is None else list(images.value_range),
        classes=None
        if names is None
        else [ClassCount(*each) for each in zip(names, train_counts, test_counts, strict=False)],
        no_classes_because=None if names else "data.class_conditional is false" if switched_off else "no labels found",
        condition=images.condition,
        condition_range=images.condition_range,
        unused_label_columns=list(images.unused_label_columns),
        left_out=[*images.left_out, *(each for each in test_left_out if each not in images.left_out)],
    )


def _count_classes(images: ImageTable | ImageStream | None) -> Iterator[int | None]:
    """The number of images of each class, or with each label; without end None = unknown."""
    labels = getattr(images, "class_labels", None)
    if images is None or labels is None or images.condition == "number":
        return itertools.repeat(None)
    if labels.ndim > 1:
        return iter(labels.count_nonzero(dim=0).tolist())
    return iter(labels.bincount(minlength=len(images.class_names or ())).tolist())
