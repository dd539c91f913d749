"""Train, sample, measure and publish small-image DDPMs with classifier-free guidance, on Hugging Face diffusers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "CFGDDPMPipeline": "hf_ddpm.pipeline",
    "DCGANPipeline": "hf_ddpm.dcgan_pipeline",
    "SampleBatch": "hf_ddpm.sampling",
    "generate": "hf_ddpm.sampling",
    "load_pipeline": "hf_ddpm.sampling",
    "UNET_PRESETS": "hf_ddpm.models.unet",
    "build_unet": "hf_ddpm.models.unet",
    "load_images": "hf_ddpm.data.table",
    "TrainConfig": "hf_ddpm.training.options",
    "train": "hf_ddpm.training.loop",
}

__all__ = [
    "UNET_PRESETS",
    "CFGDDPMPipeline",
    "DCGANPipeline",
    "SampleBatch",
    "TrainConfig",
    "__version__",
    "build_unet",
    "generate",
    "load_images",
    "load_pipeline",
    "train",
]

if TYPE_CHECKING:
    from hf_ddpm.data.table import load_images
    from hf_ddpm.dcgan_pipeline import DCGANPipeline
    from hf_ddpm.models.unet import UNET_PRESETS, build_unet
    from hf_ddpm.pipeline import CFGDDPMPipeline
    from hf_ddpm.sampling import SampleBatch, generate, load_pipeline
    from hf_ddpm.training.loop import train
    from hf_ddpm.training.options import TrainConfig


def __getattr__(name: str):
    """Import a public name when it is first used, so that `import hf_ddpm` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_ddpm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
