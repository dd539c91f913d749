"""The judge: a small image classifier whose features and predictions are used to evaluate samples.

A saved judge is a folder of three files: `config.json` and `model.safetensors`, as transformers writes a
ResNetForImageClassification, and the record `judge.json`. Nothing else is read, and no file can run code.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.image_shape import MAX_CHANNELS, ImageSize, PixelType, ValueRange, plain_size, size_pair
from hf_ddpm.pipeline import checked_range
from hf_ddpm.runtime.files import sha256_of, write_whole
from hf_ddpm.runtime.folders import put_back
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.saved_model import blaming, check_finite, check_tensors, read_header

MIN_INPUT_SIZE = 32
"""Pixels: smaller images are enlarged to this, because a ResNet halves its input twice before the first stage."""

RECORD, CONFIG, WEIGHTS = "judge.json", "config.json", "model.safetensors"
# Limits of a small classifier, checked before memory is allocated for the network of a file.
MAX_STAGES, MAX_DEPTH, MAX_WIDTH, MAX_CLASSES, MAX_IMAGE_SIZE, MAX_PARAMETERS = 5, 16, 4096, 100_000, 1024, 200_000_000
# Arguments of ResNetConfig that are the same in every judge.
_FIXED: dict[str, Any] = {
    "layer_type": "basic", "hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JudgeRecord:
    """Training data and accuracy of a judge."""

    accuracy: float
    """Fraction of the test images that are classified correctly, in [0, 1]."""
    num_test_images: int
    seed: int
    """Of the training run."""
    sha256: str
    """Hex digest of model.safetensors; "" until it is saved."""
    image_size: ImageSize
    """Height and width of the images, pixels."""
    channels: int
    """Of the images."""
    class_names: list[str]
    """In the order of the logits."""
    source: str
    """The data, as given by the user."""
    data_fingerprint: str
    """sha256 of the training images and labels."""
    pixel_type: PixelType = "uint8"
    """Type of the values of the images."""
    value_range: ValueRange | None = None
    """The values that become -1 and 1; None = 0 and 255, of uint8."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, *size_pair(self.image_size)

    @property
    def images(self) -> str:
        """What the judge takes, in words."""
        values = "" if self.value_range is None else " from {:g} to {:g}".format(*self.value_range)
        return f"({', '.join(map(str, ('B', *self.image_shape)))}) {self.pixel_type}{values}"

    def to_json(self) -> str:
        """The content of judge.json, without the type and the range of plain 8-bit images."""
        values = asdict(self)
        if self.pixel_type == "uint8":
            del values["pixel_type"], values["value_range"]
        return json.dumps(values, indent=1) + "\n"


@dataclass(frozen=True)
class JudgeOutput:
    """Output of a judge for B images."""

    features: Tensor
    """(B, D) float32, the last stage averaged over its pixels."""
    logits: Tensor
    """(B, K) float32, in the order of the record's class names."""


class Judge(torch.nn.Module):
    """A trained classifier and its record."""

    def __init__(self, network: ResNetForImageClassification, record: JudgeRecord):
        super().__init__()
        self.network, self.record = network.eval(), record

    @property
    def dim(self) -> int:
        return self.network.config.hidden_sizes[-1]

    @torch.no_grad()
    def forward(self, images: Tensor, value_range: ValueRange | None = None) -> JudgeOutput:
        """Compute features and logits of (B, C, H, W) images of the record's type, size and range on the judge's device.

        Those of an image do not depend on the rest of the batch; a `ValueError` for others. `value_range`: None = 0 to 255,
        of uint8.
        """
        record, kind = self.record, str(images.dtype).removeprefix("torch.")
        expected = (record.pixel_type, record.image_shape, record.value_range)
        if images.ndim != 4 or (kind, tuple(images.shape[1:]), value_range) != expected:
            values = "" if value_range is None else " from {:g} to {:g}".format(*value_range)
            raise ValueError(
                f"the judge of {record.source!r} takes {record.images} images and got {tuple(images.shape)} {kind}{values}: "
                "use the judge of these images' data"
            )
        pixels = prepare_pixels(images.to(self.network.device), value_range)
        features = self.network.resnet(pixels).pooler_output.flatten(1)
        return JudgeOutput(features, self.network.classifier(features))


def prepare_pixels(images: Tensor, value_range: ValueRange | None = None) -> Tensor:
    """Map (B, C, H, W) images of any type to float32 in [-1, 1], enlarged bilinearly to at least 32 pixels a side.

    `value_range` are the values that become -1 and 1; None = 0 and 255.
    """
    low, high = value_range or (0, 255)
    pixels = (images.to(torch.float32) - low) / ((high - low) / 2) - 1
    shorter = min(images.shape[-2:])
    if shorter < MIN_INPUT_SIZE:
        size = [round(side * MIN_INPUT_SIZE / shorter) for side in images.shape[-2:]]
        pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    return pixels


def build_network(
    *, widths: list[int], depths: list[int], channels: int, class_names: list[str]
) -> ResNetForImageClassification:
    """Build the classifier with weights initialized from torch's global generator.

    A `ValueError` if it is not a small classifier; nothing is allocated then.

    Args:
        widths: channels per stage; each stage but the first halves the image, and the last width is D.
        depths: blocks of two convolutions per stage.
        channels: of the images.
        class_names: K names, in the order of the logits.
    """
    config = _network_config(widths, depths, channels, class_names)
    _size_network(config)
    return _in_channels_last(ResNetForImageClassification(config))


def save_judge(judge: Judge, folder: str | Path) -> None:
    """Write a judge into a folder, created if needed; `judge.record` gets the sha256 of the weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Like `save_pretrained`, without its progress bar.
    judge.network.config.save_pretrained(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in judge.network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    judge.record = replace(judge.record, sha256=sha256_of(folder / WEIGHTS))
    record = folder / RECORD
    write_whole(record, judge.record.to_json())
    # As the umask allows: safetensors creates files for the owner alone.
    (folder / WEIGHTS).chmod(record.stat().st_mode & 0o777)


def load_judge(folder: str | Path, device: str | torch.device = "cpu") -> Judge:
    """Read a judge, from its folder or that of its run, from JSON and safetensors only.

    A `ValueError` if files are missing, damaged or not those of the record, or (before allocation) the network is not small.
    """
    root = Path(folder)
    for place in (root, root / "judge"):
        put_back(place)
    if not root.is_dir():
        raise ValueError(f"judge {str(folder)!r}: no such folder, give one written by {as_typed('hf-ddpm judge')}")
    folder = root if (root / RECORD).is_file() else root / "judge"
    if not (folder / RECORD).is_file():
        raise ValueError(f"judge {str(root)!r}: not a judge, neither it nor its folder judge contains {RECORD}")
    with blaming(f"judge {str(folder)!r}"):
        record = _read_record(_read_json(folder / RECORD))
        network = _load_network(folder, record)
    return Judge(network, record).to(device)


def _load_network(folder: Path, record: JudgeRecord) -> ResNetForImageClassification:
    given = _read_json(folder / CONFIG)
    with blaming(f"{CONFIG} with {RECORD}"):
        config = _network_config(given.get("hidden_sizes"), given.get("depths"), record.channels, record.class_names)
    for name in ("model_type", "num_channels", "embedding_size", *_FIXED):
        if given.get(name) != getattr(config, name):
            raise ValueError(f"{CONFIG}: {name} is {str(given.get(name))[:80]!r}, not that of the judge in {RECORD}")
    network = _size_network(config)
    if sha256_of(folder / WEIGHTS) != record.sha256:
        raise ValueError(f"{WEIGHTS} is not the file that {RECORD} describes: its sha256 differs, train the judge again")
    with blaming(WEIGHTS):
        check_tensors(read_header(folder / WEIGHTS), network)
    network.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    check_finite(network, WEIGHTS)
    return _in_channels_last(network)


def _network_config(widths: Any, depths: Any, channels: int, class_names: list[str]) -> ResNetConfig:
    """The configuration for transformers, refused unless it is a small classifier."""

    def counts(values: Any, most: int) -> bool:
        return isinstance(values, list) and all(_is_int(value, 1, most) for value in values)

    fits = counts(widths, MAX_WIDTH) and counts(depths, MAX_DEPTH)
    if not fits or len(widths) != len(depths) or not 1 <= len(widths) <= MAX_STAGES:
        raise ValueError(
            f"widths {str(widths)[:80]} and depths {str(depths)[:80]}: give 1 to {MAX_STAGES} of each, equally many, "
            f"widths from 1 to {MAX_WIDTH} and depths from 1 to {MAX_DEPTH}"
        )
    if not 2 <= len(class_names) <= MAX_CLASSES:
        raise ValueError(f"the number of classes is {len(class_names)}: a judge has 2 to {MAX_CLASSES}")
    config = ResNetConfig(
        num_channels=channels,
        embedding_size=widths[0],
        hidden_sizes=widths,
        depths=depths,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        **_FIXED,
    )
    config.architectures = ["ResNetForImageClassification"]
    return config


def _size_network(config: ResNetConfig) -> ResNetForImageClassification:
    """Build a network on the meta device, without memory for its weights, and refuse one that is too large."""
    with torch.device("meta"):
        network = ResNetForImageClassification(config)
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"the network would have {count:,} parameters, a judge has at most {MAX_PARAMETERS:,}")
    return network


def _in_channels_last(network: ResNetForImageClassification) -> ResNetForImageClassification:
    """The network in float32, in the memory format in which convolutions are fastest."""
    network = torch.nn.Module.to(network, torch.float32)
    return torch.nn.Module.to(network, memory_format=torch.channels_last)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is missing or not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _read_record(values: dict[str, Any]) -> JudgeRecord:
    """Check every field, because others print and compare them."""
    names = [field.name for field in fields(JudgeRecord) if field.default is MISSING]
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{RECORD} has no {', '.join(missing)}")
    accuracy, class_names = values["accuracy"], values["class_names"]
    good = {
        "accuracy": type(accuracy) in (int, float) and math.isfinite(accuracy) and 0 <= accuracy <= 1,
        "num_test_images": _is_int(values["num_test_images"], 1, 2**53),
        "seed": _is_int(values["seed"], 0, 2**32 - 1),
        "image_size": _is_size(values["image_size"]),
        "channels": _is_int(values["channels"], 1, MAX_CHANNELS),
        "class_names": isinstance(class_names, list) and all(isinstance(name, str) for name in class_names),
        **{name: isinstance(values[name], str) for name in ("sha256", "source", "data_fingerprint")},
    }
    for name, ok in good.items():
        if not ok:
            raise ValueError(f"{RECORD}: {name} is {str(values[name])[:80]!r}, which is not valid")
    pixel_type = values.get("pixel_type", "uint8")
    with blaming(RECORD):
        value_range = checked_range(pixel_type, values.get("value_range"))
    known = {name: values[name] for name in names} | {"image_size": plain_size(values["image_size"])}
    return JudgeRecord(**known, pixel_type=pixel_type, value_range=value_range)


def _is_size(value: Any) -> bool:
    """Whether a value is the height and width of images, in one number or two."""
    sides = value if isinstance(value, list) else [value] * 2
    return len(sides) == 2 and all(_is_int(side, 1, MAX_IMAGE_SIZE) for side in sides)


def _is_int(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
