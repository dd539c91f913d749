"""The denoising networks by the names of `config.Architecture`, and `condition_unet`, the unet for other conditions."""

from __future__ import annotations

from diffusers import UNet2DModel

from hf_ddpm.models.class_map_unet import ClassMapUNet
from hf_ddpm.models.condition_unet import ConditionUNet
from hf_ddpm.models.conv_denoiser import ConvDenoiser
from hf_ddpm.models.tiny_unet import TinyUNet

NETWORKS = {
    "unet": UNet2DModel, "class_map_unet": ClassMapUNet, "condition_unet": ConditionUNet, "conv_denoiser": ConvDenoiser,
    "tiny_unet": TinyUNet,
}  # fmt: skip
