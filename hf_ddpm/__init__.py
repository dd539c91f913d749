"""Train, sample, measure and publish small-image DDPMs with classifier-free guidance, on Hugging Face diffusers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_NAMES_OF = {
    "hf_ddpm.config": (
        "GIVEN_IN_PYTHON", "BaseEMAConfig", "BaseMonitorConfig", "CheckpointConfig", "EMAConfig", "HubConfig",
        "LoggingConfig", "ModelConfig",
        "MonitorConfig", "ObjectiveConfig", "OptimConfig", "ScheduleConfig",
    ),
    "hf_ddpm.data.batches": ("to_model_range",),
    "hf_ddpm.data.options": ("DataConfig",),
    "hf_ddpm.data.table": ("load_images",),
    "hf_ddpm.dcgan_pipeline": ("DCGANPipeline",),
    "hf_ddpm.editing_pipeline": ("CFGDDPMEditingPipeline",),
    "hf_ddpm.diffusion.objective": ("diffusion_loss", "drop_labels"),
    "hf_ddpm.diffusion.schedules": ("build_noise_scheduler",),
    "hf_ddpm.evaluation.monitor": ("Monitor",),
    "hf_ddpm.evaluation.classifier": ("classify",),
    "hf_ddpm.evaluation.classifier_options": ("ClassifierConfig",),
    "hf_ddpm.evaluation.options": ("EvaluationConfig", "ReferenceDataConfig", "SamplingConfig"),
    "hf_ddpm.evaluation.protocol": ("evaluate",),
    "hf_ddpm.models.unet": ("UNET_PRESETS", "build_unet", "unet_arguments"),
    "hf_ddpm.pipeline": ("CFGDDPMPipeline",),
    "hf_ddpm.sampling": ("SampleBatch", "generate", "load_pipeline"),
    "hf_ddpm.schedulers": ("SCHEDULERS", "build_scheduler"),
    "hf_ddpm.training.callbacks": ("Callback", "TrainingEvent"),
    "hf_ddpm.training.distill_options": ("DistillConfig", "DistillDataConfig", "DistillOptimConfig"),
    "hf_ddpm.training.distillation": ("distill",),
    "hf_ddpm.training.gan": ("train_gan",),
    "hf_ddpm.training.judge": ("train_judge",),
    "hf_ddpm.training.loop": ("train",),
    "hf_ddpm.training.options": (
        "GANConfig", "GANDataConfig", "GANEMAConfig", "GANModelConfig", "GANObjectiveConfig", "GANOptimConfig",
        "JudgeConfig", "JudgeDataConfig", "JudgeLoggingConfig", "JudgeModelConfig", "TrainConfig",
    ),
    "hf_ddpm.training.own_loss": ("LossInputs",),
}  # fmt: skip
"""Public names by module; the imports below repeat them for type checkers."""

_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from hf_ddpm.config import GIVEN_IN_PYTHON as GIVEN_IN_PYTHON
    from hf_ddpm.config import BaseEMAConfig as BaseEMAConfig
    from hf_ddpm.config import BaseMonitorConfig as BaseMonitorConfig
    from hf_ddpm.config import CheckpointConfig as CheckpointConfig
    from hf_ddpm.config import EMAConfig as EMAConfig
    from hf_ddpm.config import HubConfig as HubConfig
    from hf_ddpm.config import LoggingConfig as LoggingConfig
    from hf_ddpm.config import ModelConfig as ModelConfig
    from hf_ddpm.config import MonitorConfig as MonitorConfig
    from hf_ddpm.config import ObjectiveConfig as ObjectiveConfig
    from hf_ddpm.config import OptimConfig as OptimConfig
    from hf_ddpm.config import ScheduleConfig as ScheduleConfig
    from hf_ddpm.data.batches import to_model_range as to_model_range
    from hf_ddpm.data.options import DataConfig as DataConfig
    from hf_ddpm.data.table import load_images as load_images
    from hf_ddpm.dcgan_pipeline import DCGANPipeline as DCGANPipeline
    from hf_ddpm.diffusion.objective import diffusion_loss as diffusion_loss
    from hf_ddpm.diffusion.objective import drop_labels as drop_labels
    from hf_ddpm.diffusion.schedules import build_noise_scheduler as build_noise_scheduler
    from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline as CFGDDPMEditingPipeline
    from hf_ddpm.evaluation.classifier import classify as classify
    from hf_ddpm.evaluation.classifier_options import ClassifierConfig as ClassifierConfig
    from hf_ddpm.evaluation.monitor import Monitor as Monitor
    from hf_ddpm.evaluation.options import EvaluationConfig as EvaluationConfig
    from hf_ddpm.evaluation.options import ReferenceDataConfig as ReferenceDataConfig
    from hf_ddpm.evaluation.options import SamplingConfig as SamplingConfig
    from hf_ddpm.evaluation.protocol import evaluate as evaluate
    from hf_ddpm.models.unet import UNET_PRESETS as UNET_PRESETS
    from hf_ddpm.models.unet import build_unet as build_unet
    from hf_ddpm.models.unet import unet_arguments as unet_arguments
    from hf_ddpm.pipeline import CFGDDPMPipeline as CFGDDPMPipeline
    from hf_ddpm.sampling import SampleBatch as SampleBatch
    from hf_ddpm.sampling import generate as generate
    from hf_ddpm.sampling import load_pipeline as load_pipeline
    from hf_ddpm.schedulers import SCHEDULERS as SCHEDULERS
    from hf_ddpm.schedulers import build_scheduler as build_scheduler
    from hf_ddpm.training.callbacks import Callback as Callback
    from hf_ddpm.training.callbacks import TrainingEvent as TrainingEvent
    from hf_ddpm.training.distill_options import DistillConfig as DistillConfig
    from hf_ddpm.training.distill_options import DistillDataConfig as DistillDataConfig
    from hf_ddpm.training.distill_options import DistillOptimConfig as DistillOptimConfig
    from hf_ddpm.training.distillation import distill as distill
    from hf_ddpm.training.gan import train_gan as train_gan
    from hf_ddpm.training.judge import train_judge as train_judge
    from hf_ddpm.training.loop import train as train
    from hf_ddpm.training.options import GANConfig as GANConfig
    from hf_ddpm.training.options import GANDataConfig as GANDataConfig
    from hf_ddpm.training.options import GANEMAConfig as GANEMAConfig
    from hf_ddpm.training.options import GANModelConfig as GANModelConfig
    from hf_ddpm.training.options import GANObjectiveConfig as GANObjectiveConfig
    from hf_ddpm.training.options import GANOptimConfig as GANOptimConfig
    from hf_ddpm.training.options import JudgeConfig as JudgeConfig
    from hf_ddpm.training.options import JudgeDataConfig as JudgeDataConfig
    from hf_ddpm.training.options import JudgeLoggingConfig as JudgeLoggingConfig
    from hf_ddpm.training.options import JudgeModelConfig as JudgeModelConfig
    from hf_ddpm.training.options import TrainConfig as TrainConfig
    from hf_ddpm.training.own_loss import LossInputs as LossInputs
else:

    def __getattr__(name: str):
        """Import a public name on first use, so that `import hf_ddpm` is fast."""
        if name not in _HOMES:
            raise AttributeError(f"module 'hf_ddpm' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
