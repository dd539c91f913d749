"""The Inception network of 2015-12-05, whose pool3 features give the Frechet distance called FID.

Only the published weights are named `inception`. No code from a file is run: pickles are read with weights_only=True.
"""

from __future__ import annotations

import hashlib
import io
import logging
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from huggingface_hub import constants
from safetensors import SafetensorError

from hf_ddpm.pipeline import require
from hf_ddpm.runtime.files import write_whole

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Hex digest of the file at `URL`, which pytorch-fid publishes too."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inception:
    """The network of torch-fidelity, which resizes to 299 pixels as TensorFlow 1 did, and the origin of its weights."""

    network: torch.nn.Module
    """(B, 3, H, W) uint8 -> features and logits."""
    name: str
    """`inception` for the published weights; otherwise with 8 digits of `digest`."""
    digest: str
    """sha256 (hex) of the given or published file."""

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn (B, 1 or 3, H, W) uint8 images in [0, 255] into (B, 2048) float32 features, and (B, 1008) float32 logits
        without bias, for the inception score; gray is repeated."""
        features, logits = self.network(images.expand(-1, 3, -1, -1).contiguous())
        return features, logits


def load_inception(weights: str | Path | None = None) -> Inception:
    """Build the network with the published weights or those of a file.

    A `ValueError` if the file is missing or does not fit, the download fails, or torch-fidelity is not installed.

    Args:
        weights: a .safetensors with the names of torch-fidelity's network, or a .pth; None = the published file, downloaded
            on first use and cached. The published file is also cached if given.
    """
    state, digest = _published_weights() if weights is None else _read_weights(Path(weights))
    network = _build_network(state, ["2048", "logits_unbiased"], weights)
    # The published weights in another file may have been changed, so they are named after that file.
    return Inception(network=network, name="inception" if digest == SHA256 else f"inception_{digest[:8]}", digest=digest)


def _build_network(state: dict[str, torch.Tensor], layers: list[str], weights: str | Path | None) -> torch.nn.Module:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError("features is 'inception': it needs torch-fidelity: pip install 'hf_ddpm[fid]'") from error

    class Network(FeatureExtractorInceptionV3):
        """Built without weights from an empty file, because its class reads files with an unrestricted torch.load."""

        def __init__(self):
            empty = io.BytesIO()
            torch.save({}, empty)
            empty.seek(0)
            with torch.device("meta"):
                super().__init__("inception", layers, feature_extractor_weights_path=empty)

        def load_state_dict(self, state_dict, **kwargs):
            return super().load_state_dict(state_dict, **kwargs) if state_dict else None

    network = Network()
    try:
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
        return network.requires_grad_(False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"inception_weights is {str(weights)!r}: these are not the weights of the network of 2015-12-05: {reason}"
        ) from error


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a given file, and the sha256 of the file."""
    require(path.is_file(), "inception_weights", str(path), "no such file: give a .safetensors or the published .pth")
    require(path.suffix in (".safetensors", ".pth"), "inception_weights", str(path), "give a .safetensors or a .pth")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if path.suffix == ".pth":
        state = _read_pth(content, str(path))
        if digest == SHA256 and not _kept_file().exists():
            _keep(content)
        return state, digest
    try:
        return safetensors.torch.load(content), digest
    except SafetensorError as error:
        raise ValueError(f"inception_weights is {str(path)!r}: this is not a safetensors file: {error}") from error


def _read_pth(content: bytes, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a pickled state dict; anything else is refused, and no code is run."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises all kinds of errors
        remedy = "this is not a file of plain weights, and code is not run: give a .safetensors or the published .pth"
        raise ValueError(f"inception_weights is {name!r}: {remedy}") from error
    is_state = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    require(is_state, "inception_weights", name, "this is not a state dict: give a .safetensors or the published .pth")
    return state


def _published_weights() -> tuple[dict[str, torch.Tensor], str]:
    """The published tensors from the cache or the internet, and the sha256 of their file."""
    kept = _kept_file()
    if kept.exists():
        content = kept.read_bytes()
        if hashlib.sha256(content).hexdigest() == SHA256:
            return _read_pth(content, str(kept)), SHA256
        logger.warning("%s is damaged: the published weights are downloaded again", kept)
    content = _fetch()
    _keep(content)
    return _read_pth(content, URL), SHA256


def _fetch() -> bytes:
    """Download the published file and check its sha256."""
    remedy = "download it elsewhere and give --inception_weights FILE"
    try:
        with urllib.request.urlopen(URL, timeout=60.0) as response:  # seconds to connect, and to send more data
            content = response.read()
    except OSError as error:  # as the errors of urllib are
        raise ValueError(f"inception_weights is None: {URL} cannot be downloaded ({error}): {remedy}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise ValueError(f"inception_weights is None: {URL} has the sha256 {digest}, not {SHA256}: {remedy}")
    return content


def _kept_file() -> Path:
    """The cached file of the published weights, beside the Hub's files in HF_HOME."""
    return Path(constants.HF_HOME) / "hf_ddpm" / "inception" / URL.rsplit("/", 1)[-1]


def _keep(content: bytes) -> None:
    """Cache the published file, whose sha256 was just checked."""
    try:
        write_whole(_kept_file(), content)
    except OSError as error:
        logger.warning("the Inception weights cannot be cached in %s: %s", _kept_file().parent, error)
