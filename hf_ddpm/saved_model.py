"""Check the files of a saved pipeline before anything is built from them: `check_saved_pipeline(folder, index)`.

The files may be anyone's. Every fault is a `ValueError` of one line that begins with the name of the file. Networks are
built and called on torch's meta device, without memory or arithmetic, and of the weights only the headers are read.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from safetensors import safe_open
from torch import Tensor

from hf_ddpm.dcgan_pipeline import SAVED_CLASS as SAVED_GAN
from hf_ddpm.pipeline import SAVED_CLASS, checked_range, require
from hf_ddpm.runtime.reading import read_json

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
# Limits of the configs of a saved model: the largest number and the longest list by name, and for all other names.
LARGEST = {
    "sample_size": 1024, "in_channels": 64, "out_channels": 64, "layers_per_block": 32, "condition_range": 1e30,
}  # fmt: skip
LARGEST_NUMBER = 100_000
LONGEST = {"trained_betas": 100_000}
LONGEST_LIST = 32
MAX_PARAMETERS = 2_000_000_000
"""More than any network for images of at most 256 pixels has; a mistyped width is refused before it takes memory."""
FLOATS = ("F64", "F32", "F16", "BF16")


def read_index(folder: str | Path) -> dict[str, Any]:
    """The content of model_index.json, which names a pipeline."""
    with blaming(INDEX):
        index = read_json(Path(folder) / INDEX)
        require(isinstance(index, dict), "the content", type(index).__name__, "give a mapping")
        class_name_of(index)
        return index


def class_name_of(index: Mapping[str, Any]) -> str:
    """The class that a model_index.json names, alone or, for a class of this package, with the file of its code."""
    named = index.get("_class_name")
    if named in (SAVED_CLASS, SAVED_GAN):
        named = named[1]
    require(isinstance(named, str), "_class_name", named, f"give the name of a class, or {json.dumps(SAVED_CLASS)}")
    return str(named)


def check_saved_pipeline(folder: str | Path, index: Mapping[str, Any], component: str) -> None:
    """Check the folder of a DCGANPipeline, a CFGDDPMPipeline or another pipeline with a `unet` and a `scheduler`.

    Args:
        folder: the saved pipeline. Weights that are missing are left to the library.
        index: the content of its model_index.json; the network is the class that it names.
        component: name of the network, unet or generator.
    """
    folder = Path(folder)
    with blaming(INDEX):
        network_class = _component_class(index, component, ModelMixin)
        scheduler_class = None if component == "generator" else _component_class(index, "scheduler", SchedulerMixin)
        checked_range(index.get("pixel_type", "uint8"), index.get("value_range"))
    if scheduler_class is not None and (folder / SCHEDULER).is_file():
        _check_scheduler(_read_config(folder, SCHEDULER), scheduler_class)
    if network_class is None or not (folder / component / "config.json").is_file():
        return
    network: Any = check_saved_network(folder, component, network_class)
    embeddings = getattr(network.config, "num_classes" if component == "generator" else "num_class_embeds", None)
    check_labels(index.get("id2label"), index.get("null_label"), embeddings)


def check_saved_network(folder: Path, component: str, network_class: type[ModelMixin]) -> ModelMixin:
    """Check the config of a saved network and the headers of its weights; return it without memory, on the meta device.

    Args:
        folder: of a pipeline, with the network in its folder `component`; "" = the network is in `folder` itself.
        component: see there.
        network_class: class of the network.
    """
    config_name = (PurePosixPath(component) / "config.json").as_posix()
    config = _read_config(folder, config_name)
    with blaming(config_name), torch.device("meta"):
        for name, value in config.items():
            is_number = isinstance(value, (int, float))
            require(not is_number or value >= 0, name, value, "must not be below 0")
        _check_switches(config, network_class)
        network: ModelMixin = network_class.from_config(config)
        check_size(network)
        _try_network(network)
    _check_weights(folder, component, network)
    return network


def check_labels(id2label: Any, null_label: Any, embeddings: int | None) -> None:
    """Refuse names and a null label that do not belong to this number of embeddings; None = no classes."""
    with blaming(INDEX):
        _check_labels(id2label, null_label, embeddings)


def check_saved_numbers(config: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a config with a number, or a length of a list, beyond that of any model of small images."""
    for key, value in config.items():
        if key.startswith("_"):  # metadata of the library
            continue
        values, longest = value if isinstance(value, (list, tuple)) else [value], LONGEST.get(key, LONGEST_LIST)
        require(len(values) <= longest, key, f"a list of {len(values)}", f"at most {longest} are allowed")
        limit = LARGEST.get(key, LARGEST_NUMBER)
        for number in values:
            is_number = isinstance(number, (int, float))
            require(not is_number or number == number, key, number, "give a number")
            is_finite = is_number and not (isinstance(number, float) and math.isinf(number))
            require(not is_finite or abs(number) <= limit, key, number, f"at most {limit} is allowed")


def check_size(network: torch.nn.Module) -> None:
    """Raise a `ValueError` for a network with more than `MAX_PARAMETERS` parameters."""
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MAX_PARAMETERS:
        remedy = f"at most {MAX_PARAMETERS:,} are allowed: give fewer channels, layers or levels"
        raise ValueError(f"the network would have {count:,} parameters, {remedy}")


def check_tensors(found: Mapping[str, tuple[str, tuple[int, ...]]], network: torch.nn.Module) -> None:
    """Raise a `ValueError` unless a file's tensors, `(dtype, shape)` by name, are exactly those of the network."""
    wanted = network.state_dict()
    for words, names in (("lacks", wanted.keys() - found.keys()), ("has the unknown", found.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise ValueError(f"it {words} tensor {min(names)!r}{more}, it does not fit its config.json")
    for name, tensor in wanted.items():
        dtype, shape = found[name]
        remedy = f"its config.json asks for {tuple(tensor.shape)}"
        require(shape == tuple(tensor.shape), f"the shape of {name}", shape, remedy)
        require((dtype in FLOATS) == tensor.is_floating_point(), f"the dtype of {name}", dtype, f"give {tensor.dtype}")


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """`(dtype, shape)` of each tensor of a safetensors file, by name; the numbers themselves are not read."""
    with safe_open(file, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def check_finite(network: torch.nn.Module, name: str) -> None:
    """Raise a `ValueError` for weights that are not finite: their images would be black, or noise."""
    for parameter, tensor in network.named_parameters():
        require(bool(torch.isfinite(tensor).all()), f"{name}: {parameter}", "NaN or infinite", "the weights are damaged")


@contextlib.contextmanager
def blaming(file: str) -> Iterator[None]:
    """Turn every error into a `ValueError` that begins with the file: a foreign one makes the libraries raise anything."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{file}: {kind}{' '.join(str(error).split())[:400]}") from error


def _component_class(index: Mapping[str, Any], component: str, base: type) -> Any:
    """The class of a component; None = neither of diffusers nor of this package, which the pipeline itself will refuse."""
    named: Any = index.get(component)
    is_pair = isinstance(named, (list, tuple)) and len(named) == 2 and all(isinstance(word, str) for word in named)
    require(is_pair, component, named, "give [library, class]")
    library, class_name = named
    is_own = library.partition(".")[0] == __name__.partition(".")[0]
    module = diffusers if library == "diffusers" else sys.modules.get(library) if is_own else None
    if module is None:
        return None
    found = getattr(module, class_name, None)
    is_class = inspect.isclass(found) and issubclass(found, base)
    require(is_class, component, list(named), f"{library} has no such {base.__name__.removesuffix('Mixin').lower()}")
    return found


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    with blaming(name):
        config = read_json(folder / name)
        require(isinstance(config, dict), "the content", type(config).__name__, "not a config")
        check_saved_numbers(config)
        return config


def _check_switches(config: Mapping[str, Any], built: type) -> None:
    """Refuse a value that is neither true nor false where the class takes nothing else: "no" would switch on."""
    for name, parameter in inspect.signature(built).parameters.items():
        is_switch = isinstance(parameter.default, bool)
        require(not is_switch or config.get(name) in (True, False, None), name, config.get(name), "give true or false")


def _check_labels(id2label: Any, null_label: Any, embeddings: int | None) -> None:
    if null_label is not None:
        last = None if embeddings is None else embeddings - 1
        fits = type(null_label) is int and null_label == last
        require(fits, "null_label", null_label, f"the network has {embeddings} embeddings, the last is for no class")
        embeddings = null_label
    if id2label is None:
        return
    is_mapping = isinstance(id2label, Mapping) and all(isinstance(name, str) for name in id2label.values())
    require(is_mapping, "id2label", id2label, "give the name of each class id")
    ids = {str(number) for number in range(embeddings or 0)}
    remedy = f"name ids below {embeddings}, the number of classes" if ids else "the network has no classes"
    require(ids.issuperset(map(str, id2label)), "id2label", id2label, remedy)


def _check_scheduler(config: dict[str, Any], scheduler_class: type[SchedulerMixin]) -> None:
    with blaming(SCHEDULER):
        _check_switches(config, scheduler_class)
        scheduler: Any = scheduler_class.from_config(config)
        steps, betas = scheduler.config.num_train_timesteps, getattr(scheduler, "betas", None)
        require(type(steps) is int and steps >= 1, "num_train_timesteps", steps, "give a number of at least 1")
        if isinstance(betas, Tensor):
            require(betas.shape == (steps,), "the number of betas", tuple(betas.shape), f"give {steps}, one a timestep")
            are_variances = bool(((betas >= 0) & (betas <= 1)).all())
            require(are_variances, "betas", "beyond 0 to 1", "give a schedule of variances")


def _try_network(network: Any) -> None:
    """Call a network on the meta device: for one image, of the first class if there are classes."""
    size, label = network.config.sample_size, torch.zeros(1, dtype=torch.int64)
    height, width = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    require(
        all(type(side) is int and side >= 1 for side in (height, width)), "sample_size", size, "give the pixels of a side"
    )
    if hasattr(network.config, "latent_dim"):  # the generator of a GAN
        network.eval()(torch.zeros(1, network.config.latent_dim), None if network.config.num_classes is None else label)
        return
    channels, embeddings = network.config.in_channels, getattr(network.config, "num_class_embeds", None)
    require(type(channels) is int and channels >= 1, "in_channels", channels, "give a number of at least 1")
    is_count = embeddings is None or (type(embeddings) is int and embeddings >= 1)
    require(is_count, "num_class_embeds", embeddings, "give a number of at least 1, or null")
    images = torch.zeros(1, channels, height, width)
    output = network(images, label, class_labels=None if embeddings is None else label, return_dict=False)[0]
    fitting = [(1, count, height, width) for count in (channels, 2 * channels)]  # twice as many with a learned variance
    require(tuple(output.shape) in fitting, "the shape of the output", tuple(output.shape), f"must be {fitting[0]}")


def _check_weights(folder: Path, component: str, network: Any) -> None:
    """Check the headers of each set of weights that the library may choose: whole files, and shards with their index."""
    place, name_of = folder / component, lambda file: (PurePosixPath(component) / file).as_posix()
    shards: set[str] = set()
    for index in sorted(place.glob(f"{WEIGHTS}.safetensors.index*.json")):
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        with blaming(name_of(index.name)):
            weight_map = read_json(index)["weight_map"]
            names = set(weight_map.values())
            for name in names:
                require(Path(name).name == name, "weight_map", name, "give the name of a file in the same folder")
        for name in sorted(names):
            with blaming(name_of(name)):
                found |= read_header(place / name)
        with blaming(name_of(index.name)):
            require(
                set(found) == set(weight_map), "weight_map", f"{len(weight_map)} tensors", f"its files have {len(found)}"
            )
            check_tensors(found, network)
        shards |= names
    for file in sorted({*place.glob(f"{WEIGHTS}.safetensors"), *place.glob(f"{WEIGHTS}.*.safetensors")}):
        if file.name not in shards:
            with blaming(name_of(file.name)):
                found = read_header(file)
                network._fix_state_dict_keys_on_load(found)  # names of attention layers in old models
                check_tensors(found, network)
