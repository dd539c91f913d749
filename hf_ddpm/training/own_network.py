"""The network of a user: `train(config, network=MyNet(...))`, checked before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin

from hf_ddpm.config import GIVEN_IN_PYTHON, ModelConfig
from hf_ddpm.image_shape import plain_size, size_pair
from hf_ddpm.own_code import reason_to_stay, saved_name
from hf_ddpm.saved_model import check_size
from hf_ddpm.text import one_line
from hf_ddpm.training.options import TrainConfig

NEEDED = ("sample_size", "in_channels", "out_channels")
"""What the config of a network names; `num_class_embeds` too, if it takes classes."""
MAX_REASON = 400
"""Characters of the error of a network that are shown."""


def check_network(network: Any, config: TrainConfig) -> None:
    """Raise `ValueError` for a network that cannot be trained, saved and loaded again as the U-Net of a pipeline.

    It is called once, like a UNet2DModel, for one image of zeros, and built once more from its config.

    Args:
        network: a ModelMixin that is called as `network(images, timesteps, class_labels=None, return_dict=True)`.
        config: options of the run, which must not describe another network.
    """
    if not isinstance(network, ModelMixin) or not isinstance(network, ConfigMixin):
        name = network.__name__ if isinstance(network, type) else type(network).__name__
        remedy = "give an object of it" if isinstance(network, type) else "make it a ModelMixin and ConfigMixin of diffusers"
        raise ValueError(f"network is a {name}: {remedy}")
    model, defaults, name = config.model, ModelConfig(), type(network).__name__
    for option in ("preset", "init_from", "overrides", "architecture", "null_embedding"):
        given = model.is_given(option) and getattr(model, option) not in (getattr(defaults, option), GIVEN_IN_PYTHON)
        model.require(not given, option, f"leave it out, as train() has got a network, {name}")
    for option in NEEDED:
        if getattr(network.config, option, None) is None:
            remedy = "take it as an argument of __init__, which is decorated with register_to_config"
            raise ValueError(f"network: the config of {name} has no {option}: {remedy}")
    for option, wanted in (("image_size", plain_size(network.config.sample_size)), ("channels", network.config.in_channels)):
        value = getattr(config.data, option)
        config.data.require(value in (None, wanted), option, f"{name} takes {wanted!r}, leave it out")
    classes = config.data.condition == "class"
    config.data.require(classes, "condition", f"leave it out, as train() has got a network, {name}, which takes classes")
    config.data.check_crop(network.config.sample_size)
    outputs = network.config.in_channels * (2 if config.schedule.variance_type == "learned_range" else 1)
    if network.config.out_channels != outputs:
        raise ValueError(
            f"network: {name} has out_channels {network.config.out_channels}, and in_channels {network.config.in_channels} "
            f"with variance_type {config.schedule.variance_type!r} needs {outputs}"
        )
    if any(weight.is_floating_point() and weight.dtype != torch.float32 for weight in network.parameters()):
        raise ValueError(f"network: {name} has weights that are not float32: call float(), and give `mixed_precision`")
    _check_tied(network)
    check_size(network)
    _try(network, outputs)
    _build_again(network)


def check_embeddings(network: ModelMixin, num_classes: int | None, null_label: int | None) -> None:
    """Raise `ValueError` if a network has another number of class embeddings than images and options ask for.

    `num_classes`: None = the images have no classes, or are not to be used by class.
    """
    found, name = getattr(network.config, "num_class_embeds", None), type(network).__name__
    wanted = None if num_classes is None else num_classes + (null_label is not None)
    if found == wanted:
        return
    if wanted is None:
        raise ValueError(f"network: {name} has num_class_embeds {found}, but the images have no classes: build it with None")
    why = f"{num_classes} classes" + (" and the null label" if null_label is not None else "")
    remedy = f"build it with num_class_embeds={wanted}"
    if found is None:
        remedy += ", or give `class_conditional` False"
    raise ValueError(f"network: {name} has num_class_embeds {found}, but the images have {why}: {remedy}")


def notice_of_code(network: ModelMixin) -> str | None:
    """Say that the class of a network is not saved with the model, and why; None = it is, or needs not be."""
    module = type(network).__module__
    reason = None if _is_known(module) else reason_to_stay(module)
    if reason is None:
        return None
    return f"the code of the network, {type(network).__name__}, is not saved with the model: {reason}"


def loading_call(network: ModelMixin, folder: Path) -> str:
    """A line of Python that loads the pipeline in a folder, whose network is of this class."""
    module, name, call = type(network).__module__, type(network).__name__, f'CFGDDPMPipeline.from_pretrained("{folder}"'
    if _is_known(module):
        return f"{call})   # from hf_ddpm import CFGDDPMPipeline"
    if notice_of_code(network) is None:
        return f"{call}, trust_remote_code=True)   # or, without that, after: import {saved_name(module)}"
    if module != "__main__":
        return f"{call})   # after: import {module}"
    return f'{call}, unet={name}.from_pretrained("{folder}", subfolder="unet"))'


def _is_known(module: str) -> bool:
    """Whether every pipeline finds a network of this module: one of diffusers or of this package."""
    return module.partition(".")[0] in ("diffusers", "hf_ddpm")


def config_of(network: ModelMixin) -> dict[str, Any]:
    """The arguments that a network was built with, by name."""
    config: Mapping[str, Any] = network.config
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _check_tied(network: ModelMixin) -> None:
    """Refuse weights that two names share: a file of safetensors has each of them once."""
    seen: dict[int, str] = {}
    for name, tensor in network.state_dict().items():
        other = seen.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if other != name:
            raise ValueError(
                f"network: {type(network).__name__} has one tensor under two names, {other!r} and {name!r}: "
                "weights are saved once, keep one of them"
            )


def _try(network: ModelMixin, outputs: int) -> None:
    """Call the network for one image, with and without `return_dict`, as the training and the pipeline do."""
    size, embeddings = network.config.sample_size, getattr(network.config, "num_class_embeds", None)
    height, width = size_pair(size)
    weight = next(network.parameters())
    images = weight.new_zeros(1, network.config.in_channels, height, width)
    zeros = torch.zeros(1, dtype=torch.int64, device=weight.device)
    labels = None if embeddings is None else zeros
    was_training = network.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()
            found = network(images, zeros, class_labels=labels).sample
            again = network(images, zeros, class_labels=labels, return_dict=False)[0]
    except Exception as error:  # code of a user raises anything
        raise ValueError(_refusal(network, "cannot be called like a UNet2DModel", error)) from error
    finally:
        network.train(was_training)
    wanted = (1, outputs, height, width)
    for output in (found, again):
        if not isinstance(output, torch.Tensor) or output.shape != wanted:
            got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(f"network: {type(network).__name__} returns {got} for one image, it must be {wanted}")


def _build_again(network: ModelMixin) -> None:
    """Build a network of the same config, as loading does; it must have the same weights."""
    kind: Any = type(network)
    try:
        with torch.random.fork_rng(devices=[]):
            weights = kind.from_config(network.config).state_dict()
    except Exception as error:  # code of a user raises anything
        raise ValueError(_refusal(network, "cannot be built again from its config, as loading does", error)) from error
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    again = {name: tensor.shape for name, tensor in weights.items()}
    different = sorted(name for name in own.keys() | again.keys() if own.get(name) != again.get(name))
    if different:
        raise ValueError(
            f"network: {kind.__name__} built again from its config has another {different[0]!r}, so it could not be loaded: "
            "take everything that it is built from as arguments of __init__, which is decorated with register_to_config"
        )


def _refusal(network: ModelMixin, what: str, error: Exception) -> str:
    return f"network: {type(network).__name__} {what} ({one_line(f'{type(error).__name__}: {error}', MAX_REASON)})"
