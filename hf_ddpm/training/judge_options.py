"""What the training of a judge can be told: the options of a run that a classifier can use, and its own few."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hf_ddpm.config import DataConfig, LoggingConfig, RunConfig, require

# An option of a base class that is a ClassVar here is none any more: neither the command line nor a recipe knows it.


@dataclass(kw_only=True)
class JudgeDataConfig(DataConfig):
    """Which images a judge learns, and how they are read."""

    test_split: str | None = None
    """Held-out split that the judge's accuracy is measured on, all of it; a judge needs one."""
    image_size: int | None = None
    """Height and width in pixels of the images that it will judge, by resizing and centre crop; a judge needs it."""
    max_shift: int = 1
    """Pixels that each training image is moved at most, up or down and left or right; what comes in at an edge repeats it.
    0 = none."""
    class_conditional: ClassVar[None] = None  # labels are what a judge learns
    streaming: ClassVar[bool] = False  # its record names the images by a fingerprint of all of them
    shuffle_buffer: ClassVar[None] = None

    def __post_init__(self):
        super().__post_init__()
        several = self.labels is None or len(self.labels) > 1
        require(several, "data.labels", self.labels, "name at least two classes, as a judge tells them apart")
        require(self.max_shift >= 0, "data.max_shift", self.max_shift, "give 0 or more pixels")


@dataclass(kw_only=True)
class JudgeModelConfig:
    """The classifier, a ResNet of two-convolution blocks."""

    widths: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of each stage; each stage but the first halves the image. The last is the number of features."""
    depths: list[int] = field(default_factory=lambda: [1, 1, 1])
    """Blocks of each stage."""


@dataclass(kw_only=True)
class JudgeLoggingConfig(LoggingConfig):
    """What is reported while a run goes on."""

    test_every_steps: int | None = None
    """Optimizer steps between accuracies on the held-out split; None = only at the end."""
    sample_every_steps: ClassVar[None] = None

    def __post_init__(self):
        super().__post_init__()
        steps = self.test_every_steps
        require(steps is None or steps > 0, "logging.test_every_steps", steps, "give a number of steps above 0")


@dataclass(kw_only=True)
class JudgeConfig(RunConfig):
    """Train a judge, the classifier whose features and predictions measure samples."""

    min_accuracy: float | None = None
    """Part of the held-out images, in [0, 1], that the judge should name rightly: one that does not is saved all the same,
    with its accuracy, and a warning is printed. None = no warning."""
    data: JudgeDataConfig = field(default_factory=JudgeDataConfig)
    model: JudgeModelConfig = field(default_factory=JudgeModelConfig)
    logging: JudgeLoggingConfig = field(default_factory=JudgeLoggingConfig)
    compile: ClassVar[bool] = False  # longer than the training of a judge
    ema: ClassVar[None] = None  # it would average the weights and not the statistics of the batch norm
    hub: ClassVar[None] = None

    def __post_init__(self):
        super().__post_init__()
        data, remedy = self.data, "a judge is measured on images that it has not learnt, name a split of them"
        require(data.test_split not in (None, data.train_split), "data.test_split", data.test_split, remedy)
        require(data.image_size is not None, "data.image_size", None, "give the size of the images to judge, in pixels")
        require(data.batch_size > 1, "data.batch_size", data.batch_size, "the batch norm compares images, give 2 or more")
        fits = data.max_shift < data.image_size
        require(fits, "data.max_shift", data.max_shift, f"give fewer pixels than the {data.image_size} of an image")
        ok = self.min_accuracy is None or 0 <= self.min_accuracy <= 1
        require(ok, "min_accuracy", self.min_accuracy, "give a part between 0 and 1, such as 0.98")
