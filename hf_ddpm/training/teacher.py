"""The teacher of a distillation, loaded and checked, and a student like it: `build_student(load_teacher(config))`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, cast

import safetensors.torch
from diffusers import ModelMixin
from torch import Tensor

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.data.table import ImageTable
from hf_ddpm.diffusion.distillation import halved_steps
from hf_ddpm.pipeline import CFGDDPMPipeline, require
from hf_ddpm.sampling import can_be_guided, default_guidance_scale, load_pipeline
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.init_from import CLASS_ROWS


def load_teacher(config: DistillConfig) -> CFGDDPMPipeline:
    """Load the teacher on the CPU; a `ValueError` says why it cannot be distilled in this way."""
    try:
        teacher = load_pipeline(config.teacher, device="cpu")
    except ValueError as error:
        raise ValueError(str(error).replace("model is", "teacher is", 1)) from error
    name = config.teacher
    require(isinstance(teacher, CFGDDPMPipeline), "teacher", name, "it is a GAN, which takes one step already")
    teacher = cast(CFGDDPMPipeline, teacher)
    require(not teacher.is_distilled, "teacher", name, "it is distilled already, give the model that it was distilled from")
    remedy = f"it is conditioned on {teacher.condition}, and classes alone can be distilled"
    require(teacher.condition in (None, "class"), "teacher", name, remedy)
    signal = getattr(teacher.scheduler, "alphas_cumprod", None)
    remedy = f"its {type(teacher.scheduler).__name__} has no betas, give a DDPM"
    require(isinstance(signal, Tensor), "teacher", name, remedy)
    _check_prediction(teacher, name)
    most = len(teacher.scheduler.alphas_cumprod)
    first = 2 * halved_steps(config.num_inference_steps)[0] if config.method == "progressive" else config.num_inference_steps
    remedy = f"the teacher would take {first} steps, and has {most} timesteps, give fewer"
    require(first <= most, "num_inference_steps", config.num_inference_steps, remedy)
    scale, reason = config.guidance_scale, "has no null label" if teacher.is_conditional else "is unconditional"
    can_guide = scale in (None, 1) or can_be_guided(teacher)
    require(can_guide, "guidance_scale", scale, f"the teacher {reason} and cannot be guided, leave it out")
    learned = {"guidance": "cfg" if teacher.guide is None else "autoguidance"}
    saved = teacher.sampling_defaults
    own = [it for it in ("guidance", "guidance_interval") if it in saved and saved[it] != learned.get(it)]
    remedy = f"that of the teacher is for its own {' and '.join(own)}, which a student does not learn, give one"
    require(scale is not None or not own, "guidance_scale", scale, remedy)
    for network in networks_of(teacher):
        network.eval().requires_grad_(False)
    return teacher


def networks_of(teacher: CFGDDPMPipeline) -> list[ModelMixin]:
    """The network, and the guide if there is one."""
    return [network for network in (teacher.unet, teacher.guide) if network is not None]


def scale_of(config: DistillConfig, teacher: CFGDDPMPipeline) -> float:
    """s with which the student learns to sample; 1 = no guidance."""
    if config.guidance_scale is not None:
        return config.guidance_scale
    return default_guidance_scale(teacher) or 1.0


def digest_of(teacher: CFGDDPMPipeline) -> str:
    """sha256 (hex) of the weights: equal for equal ones, wherever they were loaded from."""
    digest = hashlib.sha256()
    for network in networks_of(teacher):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        digest.update(safetensors.torch.save(weights))
    return digest.hexdigest()


def build_student(teacher: CFGDDPMPipeline) -> ModelMixin:
    """A network like the teacher's, with its weights, but without the row of its null label, which is the last one."""
    source: Any = teacher.unet
    weights = source.state_dict()
    arguments = {}
    if teacher.null_label is not None:
        arguments["num_class_embeds"] = teacher.null_label
        weights[CLASS_ROWS] = weights[CLASS_ROWS][: teacher.null_label]
    student = type(source).from_config(source.config, **arguments)
    student.load_state_dict(weights)
    return student


def as_teacher_knows(images: ImageTable, teacher: CFGDDPMPipeline) -> ImageTable:
    """Images with the classes of the teacher, in its order, or without any; a `ValueError` if they are of another kind."""
    if not teacher.is_conditional:
        return replace(images, class_names=None, class_labels=None)
    names = [str(label) for label in range(teacher.num_classes or 0)]
    if teacher.id2label is not None:
        names = [teacher.id2label.get(label, name) for label, name in enumerate(names)]
    found = images.class_names
    if found is None:
        raise ValueError("--data has no labels: the teacher was trained with classes, give images with labels")
    unknown = [name for name in found if name not in names]
    if unknown:
        known = ", ".join(names)[:80]
        raise ValueError(f"--data has the class {unknown[0]!r}: the teacher knows {known}, choose with --data.labels")
    return images.in_class_order(names)


def _check_prediction(teacher: CFGDDPMPipeline, name: str) -> None:
    """Refuse a teacher whose prediction is not a consistency function: from v, x_0 is x_t where there is no noise."""
    if teacher.scheduler.config.prediction_type == "epsilon":
        signal = float(teacher.scheduler.alphas_cumprod[-1])
        factor = (1 - signal) ** 0.5 / max(signal, 1e-12) ** 0.5
        command = f"{as_typed('hf-ddpm train')} --model.init_from {name} --objective.prediction_type v_prediction"
        remedy = (
            f"it predicts epsilon, whose errors are {factor:,.0f} times as large in the image at the first step: train a "
            f"model of v from it, {command}, and distill that"
        )
        require(False, "teacher", name, remedy)
