"""A support vector machine that reads 8 x 8 digits, the judge of samples: `reader = train_reader()`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hf_ddpm.data.table import ImageTable, load_images


def flat_images(table: ImageTable) -> np.ndarray:
    """(N, 64) float in [0, 1]."""
    return table.images(torch.arange(len(table))).flatten(1).numpy() / 255


def train_reader() -> Any:
    """Train it on real digits; it is right on more than 97 % of the test images."""
    from sklearn.svm import SVC

    train, test = (load_images("digits", split, image_size=8) for split in ("train", "test"))
    reader = SVC(gamma="scale").fit(flat_images(train), train.class_labels.numpy())
    accuracy = reader.score(flat_images(test), test.class_labels.numpy())
    print(f"the classifier is right on {accuracy:.1%} of the test images")
    assert accuracy > 0.97
    return reader
