"""Start a training from the weights of another model: `start_from(network, base, ...)`.

The averaged weights, which are those that are published, become the trained weights and the average alike. Rows of classes
are carried over by name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from unicodedata import normalize

import torch
from diffusers import ModelMixin
from torch import Tensor

from hf_ddpm.config import require
from hf_ddpm.models.base_model import ARCHITECTURES, BaseModel, network_place
from hf_ddpm.models.networks import NETWORKS
from hf_ddpm.saved_model import WEIGHTS, check_finite, check_labels, check_saved_network
from hf_ddpm.text import one_line

CLASS_ROWS = "class_embedding.weight"
MAX_REASON = 500
"""Characters of the reason why a model cannot be loaded."""


def check_base_model(base: BaseModel) -> None:
    """Download a model of the Hub, and check all files of the model but the numbers of its weights; else a `ValueError`."""
    try:
        folder, network_class = base.folder(with_weights=True), _class_of(base)
        place = network_place(folder)
        unknown = sorted(base.arguments.keys() - network_class._get_init_keys(network_class))
        if unknown:
            raise ValueError(f"{base.class_name} has no argument {unknown[0]!r}, which its config.json names")
        if not any((folder / place).glob(f"{WEIGHTS}.safetensors*")):
            remedy = "save it again with save_pretrained of diffusers"
            raise ValueError(f"it has no weights in the safetensors format, and pickled ones can run code: {remedy}")
        check_saved_network(folder, place, network_class)
        check_labels(dict(base.id2label), base.null_label, base.arguments.get("num_class_embeds"))
    except Exception as error:  # files of strangers make the libraries raise anything
        raise ValueError(f"init_from is {base.name!r}: {one_line(error, MAX_REASON)}") from error


def start_from(
    network: ModelMixin, base: BaseModel, class_names: list[str] | None, null_label: int | None, null_embedding: str
) -> str:
    """Give a network, which is like that of `base` but for its classes, the weights of `base`; return what became of them.

    A class that both have, by its name, keeps its row, and so does the null label. A row that `base` does not have is the
    mean of the rows of its classes; 0 if it has no classes, so that every class begins as the model did without them.
    Without classes here, the null row (or that mean) becomes part of the embedding of the timestep.

    Raises:
        ValueError: the weights cannot be loaded, or are not finite, or the null row is to be 0 and is not.
    """
    try:
        folder = base.folder(with_weights=True)
        source: Any = _class_of(base).from_pretrained(folder / network_place(folder), use_safetensors=True)
        check_finite(source, "its network")
    except Exception as error:
        raise ValueError(f"init_from is {base.name!r}: {one_line(error, MAX_REASON)}") from error
    weights: dict[str, Tensor] = {name: tensor.float() for name, tensor in source.state_dict().items()}
    rows = weights.pop(CLASS_ROWS, None)
    if class_names is None:
        text = "no classes"
        if rows is not None:
            kept = _mean_of(base, rows) if base.null_label is None else rows[base.null_label]
            weights["time_embedding.linear_2.bias"] += kept
            text = "its classes are left out, as the images have none"
    else:
        shape: Any = network.get_parameter(CLASS_ROWS).shape
        weights[CLASS_ROWS], text = _rows_for(base, rows, class_names, null_label, null_embedding, torch.zeros(shape))
    network.load_state_dict(weights)
    return text


def _rows_for(
    base: BaseModel,
    rows: Tensor | None,
    class_names: list[str],
    null_label: int | None,
    null_embedding: str,
    target: Tensor,
) -> tuple[Tensor, str]:
    """Fill `target`, which is 0, with the rows of the classes and of the null label; say in words where they come from."""
    if rows is None:
        null = "" if null_label is None else " and the null label"
        return target, f"{len(class_names)} classes{null} are new: each begins as the model without classes"
    target[:] = _mean_of(base, rows)
    ids = _ids_by_name(base)
    carried = [name for name in class_names if normalize("NFC", name) in ids]
    for label, name in enumerate(class_names):
        if normalize("NFC", name) in ids:
            target[label] = rows[ids[normalize("NFC", name)]]
    text = f"{len(carried)} of {len(class_names)} classes by name"
    if len(carried) < len(class_names):
        text += f", {len(class_names) - len(carried)} new, which begin at the mean"
    if null_label is None:
        return target, text + ("" if base.null_label is None else "; without its null row, as no class is dropped")
    if base.null_label is None:
        target[null_label] *= null_embedding != "zero"
        return target, f"{text}; a new null row, which {'is 0' if null_embedding == 'zero' else 'begins at the mean'}"
    target[null_label] = rows[base.null_label]
    fits = null_embedding != "zero" or not bool(target[null_label].any())
    remedy = "the model of --model.init_from has learned a null embedding, give learned"
    require(fits, "model.null_embedding", null_embedding, remedy)
    return target, f"{text}; the null row"


def _ids_by_name(base: BaseModel) -> dict[str, int]:
    """Class ids of the model by name; a name that two classes share names none of them."""
    names = {label: normalize("NFC", name) for label, name in base.id2label.items()}
    count = Counter(names.values())
    return {name: label for label, name in names.items() if count[name] == 1}


def _mean_of(base: BaseModel, rows: Tensor) -> Tensor:
    """The mean of the rows of all classes; of a model that has a null label alone, its row."""
    return rows[list(base.id2label) or slice(None)].mean(dim=0)


def _class_of(base: BaseModel) -> Any:
    return NETWORKS[ARCHITECTURES[base.class_name]]
