"""Turn images into features: `build_extractor("inception")(images).features`.

All extractors compute in float32 without TF32, so that the results agree on every device.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from hf_ddpm.evaluation.inception import load_inception
from hf_ddpm.figures.view import to_8_bits
from hf_ddpm.first_checks import check_features
from hf_ddpm.image_shape import ValueRange
from hf_ddpm.pipeline import require
from hf_ddpm.runtime.files import sha256_of
from hf_ddpm.runtime.hub_requests import bounded_requests
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.sampling import find_device

DINOV2 = "facebook/dinov2-small"


@dataclass(frozen=True, eq=False)
class Features:
    """Output of an extractor for B images."""

    features: torch.Tensor
    """(B, D) float32 on the CPU."""
    probabilities: torch.Tensor | None = None
    """(B, K) float64 on the CPU, over the K classes it predicts; None = it predicts no classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Extractor:
    """A frozen network with its preprocessing, and everything that identifies its features."""

    name: str
    """Name in the metrics: `inception` gives `fid`, any other `fd_<name>`."""
    digest: str
    """sha256 (hex) of the weights."""
    preprocessing: str
    """How pixels are prepared, and which features are used."""
    dim: int
    """D, features per image."""
    class_names: list[str] | None = None
    """Names of the predicted classes; None = they have no names, or there are none."""
    device: torch.device
    is_cacheable: bool = True
    """Whether digest and preprocessing identify the features; not so if the code is the user's."""
    is_rgb: bool = False
    """Whether the network takes gray and RGB images only."""
    is_judge: bool = False
    """Whether the network takes the values of its own data, with their range; to others, all images are given as uint8."""
    network: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
    """(B, C, H, W) uint8 -> features (B, D), and logits (B, K) or None; a judge: (images, value_range) -> the same."""

    def __call__(self, images: torch.Tensor, value_range: ValueRange | None = None) -> Features:
        """Compute the features of (B, C, H, W) images, on any device; a `ValueError` for those that the network cannot take.

        Up to rounding, those of an image do not depend on the rest of the batch. `value_range`: the values that are black
        and white; None = 0 and 255, of uint8, the only type without a range.
        """
        given = tuple(images.shape)
        is_batch = len(given) == 4 and given[0] > 0
        require(is_batch, "images.shape", given, "give (B, C, H, W) with at least 1 image")
        plain = (images.dtype == torch.uint8) == (value_range is None)
        require(plain, "images.dtype", images.dtype, "give uint8 in [0, 255], rounded, or the range of other values")
        self.check_channels(given[1])
        if not self.is_judge and value_range is not None:
            images = torch.from_numpy(to_8_bits(images.cpu().numpy(), value_range))
        with torch.no_grad(), _full_float32(self.device):
            features, logits = self.network(images.to(self.device), *((value_range,) if self.is_judge else ()))
        found, wanted = tuple(getattr(features, "shape", ())), (len(images), self.dim)
        require(found == wanted, "features", self.name, f"it returned the shape {found} and not {wanted}")
        # In float64, in which the smallest probabilities are not 0; on the CPU, since not every device has it.
        probabilities = None if logits is None else logits.cpu().double().softmax(dim=1)
        return Features(features.cpu().float(), probabilities)

    def check_channels(self, channels: int) -> None:
        """Refuse images with a number of channels that the network cannot take; a judge knows that of its data itself."""
        if self.is_rgb:
            check_channels(self.name.partition("_")[0], channels)


def check_channels(features: str, channels: int) -> None:
    """Refuse images with a number of channels that Inception or DINOv2 cannot take; for `features` see `build_extractor`."""
    if features.partition(":")[0] in ("inception", "dinov2") and channels not in (1, 3):
        has = f"which takes gray and RGB images, but these have {channels} channels"
        raise ValueError(f"features is {features!r}, {has}: give judge:FOLDER, a judge of the same data")


def build_extractor(
    features: str | torch.nn.Module,
    *,
    inception_weights: str | Path | None = None,
    device: str | torch.device | None = None,
    min_judge_accuracy: float | None = 0.98,
) -> Extractor:
    """Build an extractor; a `ValueError` for unknown features, weights that do not fit, or a judge that is too weak.

    Args:
        features: `inception`; `dinov2` (`DINOV2` on the Hub) or `dinov2:` with another id or a folder; `judge:` with the
            folder of a trained judge; or, as in torchmetrics, a module that takes (B, C, H, W) uint8 images and returns
            (B, D), with D in its attribute `num_features`. A copy of it is used in evaluation mode.
        inception_weights: see `load_inception`; only for `inception`.
        device: None = cuda if available, else the CPU.
        min_judge_accuracy: a judge with a lower accuracy on its test images is refused; None = accept any.
    """
    device = find_device(device)
    is_used = inception_weights is None or (isinstance(features, str) and features == "inception")
    require(is_used, "inception_weights", str(inception_weights), "only with features 'inception'")
    if isinstance(features, torch.nn.Module):
        return _module(features, device)
    kind, _, place = features.partition(":")
    with Progress(f"loading {features}"):
        if features == "inception":
            return _inception(inception_weights, device)
        if features == "dinov2" or (kind == "dinov2" and place):
            return _dinov2(place or DINOV2, device)
        check_features(features)
        return _judge(place, device, min_judge_accuracy)


def weights_digest(network: torch.nn.Module) -> str:
    """sha256 (hex) of names and values of the weights: equal for equal weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    tensors = ((name, value) for name, value in network.state_dict().items() if isinstance(value, torch.Tensor))
    for name, tensor in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _inception(weights: str | Path | None, device: torch.device) -> Extractor:
    inception = load_inception(weights)
    inception.network.to(device)
    return Extractor(
        name=inception.name,
        digest=inception.digest,
        preprocessing="uint8, gray repeated to RGB, resized to 299 x 299 as TensorFlow 1 did (bilinear), layer 2048",
        dim=2048,
        is_rgb=True,
        device=device,
        network=inception,
    )


def _dinov2(place: str, device: torch.device) -> Extractor:
    """The class token of a DINOv2 after its last norm, as in Stein et al. (2023, arXiv:2306.04675).

    As there and in EDM2, the processor's crop is left out: it would hide the border of every image.
    """
    from transformers import Dinov2Model

    option = "dinov2" if place == DINOV2 else f"dinov2:{place}"
    folder = _dinov2_folder(place, option)
    size, *moments = _dinov2_processor(folder / "preprocessor_config.json", option)
    digests = [sha256_of(path) for path in sorted(folder.glob("*.safetensors"))]
    require(bool(digests), "features", option, "it has no .safetensors file, and no other format is read")
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    try:
        with _quiet_transformers():
            options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
            loaded: Any = Dinov2Model.from_pretrained(folder, dtype=torch.float32, **options)
            model, report = loaded
    except Exception as error:  # transformers raises all kinds of errors for a damaged config or file
        raise ValueError(f"features is {option!r}: it cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    missing = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    require(not missing, "features", option, f"its weights are not a Dinov2Model's: {missing[:1]} is missing or differs")
    model.eval().requires_grad_(False).to(device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in moments)

    def network(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        pixels = images.expand(-1, 3, -1, -1).float()
        pixels = interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        return model(pixel_values=(pixels / 255 - mean) / std).last_hidden_state[:, 0], None

    return Extractor(
        name="dinov2" if place == DINOV2 else f"dinov2_{digest[:8]}",
        digest=digest,
        preprocessing=f"uint8, gray repeated to RGB, resized to {size} x {size} (bicubic, antialias), "
        f"mean {mean.flatten().tolist()}, std {std.flatten().tolist()}, class token",
        dim=model.config.hidden_size,
        is_rgb=True,
        device=device,
        network=network,
    )


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep progress bar and report off stderr, where an error is one line; the caller checks for missing weights."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _dinov2_folder(place: str, option: str) -> Path:
    """The given folder, or the cached files of the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if Path(place).is_dir():
        return Path(place)
    try:
        with bounded_requests():
            return Path(snapshot_download(place, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HFValidationError) as error:  # errors of the Hub and of the connection are OSErrors
        remedy = "it is not a folder, and cannot be downloaded from the Hub: give dinov2:FOLDER"
        raise ValueError(f"features is {option!r}: {remedy} ({' '.join(str(error).split())[:200]})") from error


def _dinov2_processor(path: Path, option: str) -> tuple[int, list[float], list[float]]:
    """Size, mean and standard deviation for the preprocessing, from the processor's file."""
    try:
        config = read_json(path)
        size = int(config["crop_size"]["height"])
        mean, std = ([float(value) for value in config[name]] for name in ("image_mean", "image_std"))
        if size < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("not the size, mean and standard deviation of RGB images")
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = f"{path.name} must contain crop_size, image_mean and image_std, as in {DINOV2}"
        raise ValueError(f"features is {option!r}: {remedy}") from error
    return size, mean, std


def _judge(folder: str, device: torch.device, min_accuracy: float | None) -> Extractor:
    from hf_ddpm.models.judge import MIN_INPUT_SIZE, load_judge

    judge = load_judge(folder, device=device)
    record = judge.record
    if min_accuracy is not None and not record.accuracy >= min_accuracy:
        raise ValueError(
            f"features is 'judge:{folder}': its accuracy is {record.accuracy:.4f} on {record.num_test_images} test images, "
            f"less than min_judge_accuracy {min_accuracy}: train it longer, or lower min_judge_accuracy (null = any)"
        )

    def network(images: torch.Tensor, value_range: ValueRange | None) -> tuple[torch.Tensor, torch.Tensor]:
        output = judge(images, value_range)
        return output.features, output.logits

    values = record.pixel_type if record.value_range is None else f"{record.pixel_type} in {list(record.value_range)}"
    return Extractor(
        name="judge",
        digest=record.sha256,
        preprocessing=f"{values}, {' x '.join(map(str, record.image_shape))}, to [-1, 1] and at least "
        f"{MIN_INPUT_SIZE} pixels (bilinear), penultimate features",
        dim=judge.dim,
        class_names=list(record.class_names),
        device=device,
        is_judge=True,
        network=network,
    )


def _module(module: torch.nn.Module, device: torch.device) -> Extractor:
    dim, name = getattr(module, "num_features", None), type(module).__qualname__
    if not isinstance(dim, int):
        raise ValueError(f"features is {name!r}: give the module an attribute num_features, the D of its output")
    # A copy, so that the owner does not see evaluation mode, and further training does not change the extractor.
    module = deepcopy(module).eval().requires_grad_(False).to(device)
    digest = hashlib.sha256(f"{module!r} {weights_digest(module)}".encode()).hexdigest()
    return Extractor(
        # With the digest, so that no module is taken for one of the networks above.
        name=f"module_{digest[:8]}",
        digest=digest,
        preprocessing=f"uint8, as {name} does it",
        dim=dim,
        device=device,
        is_cacheable=False,
        network=lambda images: (module(images), None),
    )


@contextlib.contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Switch off autocast and TF32, which would change features in the third digit."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    flags = cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), flags:
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
