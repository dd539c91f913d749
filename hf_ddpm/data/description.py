"""What a run learns from, and what of its data it does not use: `print(DataDescription.read(RunFolder(path).data))`."""

from __future__ import annotations

import collections
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_ddpm.image_shape import ImageSize, PixelType, plain_size, size_text
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.text import composed, one_line

SHOWN_CLASSES = 10


@dataclass(frozen=True)
class LeftOut:
    """Something in the data that is not used."""

    what: str
    """Such as "files .HEIC"."""
    count: int
    """How many of them there are."""
    reason: str
    """Why, such as "format not read"."""

    def __str__(self) -> str:
        return f"{self.what}: {self.count:,}, {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Originals:
    """The images of a split as they were before they were decoded to one size and number of channels."""

    smallest: tuple[int, int]
    """Width and height of the image with the fewest pixels."""
    largest: tuple[int, int]
    """Width and height of the image with the most pixels."""
    num_gray: int
    """Number of images without colour."""
    num_colour: int
    """Number of the others."""


@dataclass(frozen=True)
class ClassCount:
    """The images of a class."""

    name: str
    num_train_images: int | None
    """None = unknown, as the images are read in training."""
    num_test_images: int | None
    """None = unknown, or no split is held out."""


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """What a run learns from; a run records it as JSON, and prints it before the first step."""

    source: str
    """As the user named it."""
    train_split: str
    num_train_images: int | None
    """None = unknown, as the images are read in training."""
    test_split: str | None
    """The held-out split; None = there is none."""
    num_test_images: int | None
    streaming: bool
    """Whether images are read in training."""
    originals: Originals | None
    """The images of the train split, or the first ones of a stream, before they are decoded; None = unknown."""
    image_size: ImageSize
    """Height and width in pixels that they are decoded to."""
    channels: int
    """1 (gray), 3 (RGB) or another number."""
    classes: list[ClassCount] | None
    """In the order of the labels; None = the model is unconditional."""
    no_classes_because: str | None
    """Why the model is unconditional; None = it is not."""
    unused_label_columns: list[str]
    """Columns that look like labels and are not used."""
    left_out: list[LeftOut]
    """What was found in the data and is not used."""
    pixel_type: PixelType = "uint8"
    """Type of the pixels that they are decoded to."""
    value_range: list[float] | None = None
    """The values that are -1 and 1 in the model; None = 0 and 255, those of uint8."""
    condition: str = "class"
    """What the classes are: `class`, `labels`, of which an image may have several, or `number`, the name of one."""
    condition_range: tuple[float, float] | None = None
    """The lowest and the highest number; None = they are no numbers."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> DataDescription:
        """Read the file of a run; `ValueError`: it is damaged, `OSError`: it cannot be read."""
        try:
            values = read_json(path)
            originals, classes = values["originals"], values["classes"]
            values["originals"] = None if originals is None else Originals(**originals)
            values["classes"] = None if classes is None else [ClassCount(**each) for each in classes]
            values["left_out"] = [LeftOut(**each) for each in values["left_out"]]
            description = cls(**values)
            str(description)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: it does not describe the data of a run") from error
        return description

    def __str__(self) -> str:
        """A block of lines to print."""
        lines = {"data": f"{self.source}, {self.splits}", **self.facts}
        return "\n".join(f"{name + ':':<9} {one_line(text)}" for name, text in lines.items())

    @property
    def facts(self) -> dict[str, str]:
        """Lines of text by what they are about, without the source."""
        columns = ", ".join(map(repr, self.unused_label_columns))
        alike = ", ".join(sorted(map(ascii, self._names_alike)))
        judged = ", judged by the first ones" if self.streaming else ""
        lines = {
            "images": f"{self.sizes}, {self.colours}{self.values}{judged}",
            {"labels": "labels", "number": "number"}.get(self.condition, "classes"): self.class_counts,
            "alike": alike and f"{alike} are different classes: write their names in one way if they are the same",
            "not used": columns and f"{columns}, which may be labels: name one with --data.label_column to use it",
            "left out": "; ".join(map(str, self.left_out)),
        }
        return {name: text for name, text in lines.items() if text}

    @property
    def sizes(self) -> str:
        """The original sizes and the one trained at."""
        trained = size_text(self.image_size)
        if self.originals is None:
            return f"trained at {trained} pixels"
        is_square, order = isinstance(plain_size(self.image_size), int), ""
        smallest, largest = (f"{width} x {height}" for width, height in (self.originals.smallest, self.originals.largest))
        if not is_square:  # as in the option
            smallest, largest = (size_text(size[::-1]) for size in (self.originals.smallest, self.originals.largest))
            order = " (height x width)"
        if smallest != largest:
            return f"from {smallest} to {largest} pixels, trained at {trained}{order}"
        return f"{trained} pixels{order}" if smallest == trained else f"{smallest} pixels, trained at {trained}{order}"

    @property
    def colours(self) -> str:
        """The channels, and what the images had if that is not the same."""
        name, found = {1: "grayscale", 3: "RGB"}.get(self.channels, f"{self.channels:d} channels"), self.originals
        if self.channels not in (1, 3) or found is None or {1: found.num_colour, 3: found.num_gray}[self.channels] == 0:
            return name
        return f"{name}: {found.num_colour:,} of {found.num_colour + found.num_gray:,} images have colour"

    @property
    def values(self) -> str:
        """The type of the pixels and their range, if it is not uint8."""
        if self.value_range is None:
            return ""
        return f", {self.pixel_type} from {self.value_range[0]:g} to {self.value_range[1]:g}"

    @property
    def splits(self) -> str:
        """The splits and their numbers of images."""
        train = f"split {self.train_split!r}, {_number_of_images(self.num_train_images)}"
        if self.test_split is None:
            return train
        same = ", which is also trained on" if self.test_split == self.train_split else ""
        return f"{train}; held out: split {self.test_split!r}, {_number_of_images(self.num_test_images)}{same}"

    @property
    def class_counts(self) -> str:
        """The first classes with their numbers of training images, or why there are none; or the number and its range."""
        if self.classes is None:
            return f"none, the model is unconditional: {self.no_classes_because}"
        if self.condition_range is not None:
            low, high = self.condition_range
            return f"{self._shown(self.classes[0].name)}, from {low:g} to {high:g}"
        counts = [each.num_train_images for each in self.classes]
        shown = [
            self._shown(each.name) + ("" if each.num_train_images is None else f" ({each.num_train_images:,})")
            for each in self.classes[:SHOWN_CLASSES]
        ]
        more = len(self.classes) - len(shown)
        text = f"{len(self.classes)}: {', '.join(shown)}" + (f" and {more:,} more" if more else "")
        without = counts[SHOWN_CLASSES:].count(0)
        return text + (f", {without:,} of them without an image" if without else "")

    @property
    def _names_alike(self) -> list[str]:
        """The names of classes that look like that of another: they differ in spaces or in how an accent is encoded."""
        names = [each.name for each in self.classes or ()]
        looks = collections.Counter(map(_look, names))
        return [name for name in names if looks[_look(name)] > 1]

    def _shown(self, name: str) -> str:
        """The name of a class, with quotes and escapes where it would mislead."""
        return name if name == one_line(name) and name not in self._names_alike else ascii(name)


def _look(name: str) -> str:
    return composed(one_line(name))


def _number_of_images(count: int | None) -> str:
    return "an unknown number of images" if count is None else f"{count:,} {'image' if count == 1 else 'images'}"
