"""A trained model whose weights another training starts from, as its JSON files describe it: `read_base_model(name)`.

It is read without torch. What the files say may be wrong: `hf_ddpm.saved_model` checks them before a network is built.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ddpm.first_checks import check_model
from hf_ddpm.image_shape import MAX_CHANNELS, ImageSize, plain_size
from hf_ddpm.models.unet import fit_to_images, is_channel_count, read_architecture
from hf_ddpm.runtime.hub_requests import bounded_requests
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.text import one_line

INDEX = "model_index.json"
ARCHITECTURES = {
    "UNet2DModel": "unet", "ClassMapUNet": "class_map_unet", "ConvDenoiser": "conv_denoiser", "TinyUNet": "tiny_unet",
}  # fmt: skip
"""Name of a class in `hf_ddpm.models.networks.NETWORKS`, and its name there."""
CONFIGS = (INDEX, "config.json", "unet/config.json", "scheduler_config.json", "scheduler/scheduler_config.json")
WEIGHTS = ("diffusion_pytorch_model*.safetensors*", "unet/diffusion_pytorch_model*.safetensors*")
FROM_IMAGES = ("sample_size", "in_channels", "out_channels", "num_class_embeds", "class_embed_type")
"""Arguments of a network that follow the images."""
MAX_REASON = 300
"""Characters of the message of a library that are shown."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A pipeline of a U-Net and a scheduler, or a network alone."""

    name: str
    """Its folder, or its id on the Hub."""
    is_checkpoint: bool
    """Whether it is a checkpoint of the very run, whose weights are read when the run is resumed."""
    class_name: str
    """Class of the network."""
    arguments: Mapping[str, Any]
    """Arguments of the network."""
    scheduler: Mapping[str, Any]
    """Config of the scheduler; empty = the network was saved alone."""
    id2label: Mapping[int, str]
    """Class id to class name; a class without a name has its number."""
    null_label: int | None
    """Label that means no class; None = it has none."""

    @property
    def learns_variance(self) -> bool:
        """Whether the network has twice as many output as input channels, the second half for the variance."""
        return bool(self.arguments.get("out_channels") == 2 * self.arguments["in_channels"])

    def folder(self, *, with_weights: bool) -> Path:
        """The folder on this machine; that of a model of the Hub is downloaded, with the config files or its weights too."""
        if Path(self.name).is_dir():
            return Path(self.name)
        return download(self.name, CONFIGS + WEIGHTS if with_weights else CONFIGS)

    def network_arguments(
        self,
        *,
        architecture: str,
        preset: str | None,
        overrides: Mapping[str, Any] | None,
        image_size: ImageSize | None,
        channels: int | None,
        num_class_embeds: int | None,
        learned_variance: bool,
    ) -> dict[str, Any]:
        """Arguments of the same network for one run; for the arguments see `hf_ddpm.models.unet.unet_arguments`.

        Raises:
            ValueError: an option contradicts the network.
        """
        own = ARCHITECTURES[self.class_name]
        if architecture != own:
            raise ValueError(
                f"architecture is {architecture!r}: the model of `init_from` is a {self.class_name}, give {own}"
            )
        arguments, free = dict(self.arguments), dict(overrides or {})
        if "dropout" in arguments and "dropout" in free:  # which has no weights
            arguments["dropout"] = free.pop("dropout")
        described = {} if preset is None else read_architecture(preset)
        for name, value in described.items():
            if name in arguments and name not in FROM_IMAGES and not _same(value, self.arguments[name]):
                has = f"the model of `init_from` has {name} {self.arguments[name]!r} instead of {value!r}"
                raise ValueError(f"preset is {preset!r}: {has}, set it to null to take the network of that model")
        for name, value in free.items():
            if name in FROM_IMAGES or name not in arguments or not _same(value, arguments[name]):
                has = f"the model of `init_from` has {arguments.get(name)!r}, and its weights fit no other network"
                raise ValueError(f"`overrides.{name}` is {value!r}: {has}, leave it out")
        if channels not in (None, arguments["in_channels"]):
            raise ValueError(f"channels is {channels}: the model of `init_from` takes {arguments['in_channels']} channels")
        own_size = arguments["sample_size"]
        if own == "class_map_unet" and image_size is not None and plain_size(image_size) != plain_size(own_size):
            raise ValueError(f"image_size is {image_size}: the maps of `init_from` have {own_size} pixels")
        return fit_to_images(
            arguments,
            "the model of `init_from`",
            image_size=image_size,
            channels=channels,
            num_class_embeds=num_class_embeds,
            learned_variance=learned_variance,
        )


def read_base_model(name: str, *, is_checkpoint: bool = False) -> BaseModel:
    """Read the JSON files of a folder or of a model on the Hub: a pipeline of a U-Net and a scheduler, or a network alone.

    Both layouts of a pipeline are read: folders of its parts, and their files side by side.

    Raises:
        ValueError: there is no such model, or it is of another kind; the message begins "init_from is".
    """
    try:
        return _read(name, find_folder(name), is_checkpoint)
    except (ValueError, OSError) as error:
        raise ValueError(f"init_from is {name!r}: {one_line(error, MAX_REASON)}") from None
    except (TypeError, AttributeError, LookupError):  # a value of a kind that it never has
        raise ValueError(f"init_from is {name!r}: its JSON files are not those of a saved model") from None


def find_folder(name: str) -> Path:
    """The folder with the config files of a model; a `ValueError` without the name says why there is none."""
    folder = Path(name)
    if folder.is_dir() and (folder / "config.json").is_file():
        return folder
    try:
        check_model(name)
    except ValueError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return folder if folder.is_dir() else download(name, CONFIGS)


@functools.cache
def download(name: str, patterns: Sequence[str]) -> Path:
    """Fetch files of a model of the Hub into the cache of huggingface_hub, as far as they are not there; a `ValueError` if
    the Hub does not give them."""
    from huggingface_hub import snapshot_download

    try:
        with bounded_requests():
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # of the connection, of the Hub, or of the cache
        reason = one_line(error, MAX_REASON)
        raise ValueError(f"no such folder exists, and as a model of the Hub it cannot be loaded: {reason}") from None


def network_place(folder: Path) -> str:
    """Where in the folder of a model its network is: `unet`, or "" = in the folder itself."""
    return "unet" if (folder / "unet").is_dir() else ""


def _read(name: str, folder: Path, is_checkpoint: bool) -> BaseModel:
    index: dict[str, Any] = {}
    scheduler: dict[str, Any] = {}
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        parts = {part for part, value in index.items() if isinstance(value, list) and part[0] != "_"}
        if parts - {"guide"} != {"unet", "scheduler"}:
            found = ", ".join(sorted(parts)) or "none"
            raise ValueError(f"give a pipeline of a unet and a scheduler, the parts of this one are: {found}")
        place = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
        scheduler = read_json(place / "scheduler_config.json")
        if not isinstance(scheduler.get("beta_schedule"), str):
            raise ValueError(f"its {scheduler.get('_class_name')} has no schedule of betas, give a model trained as a DDPM")
    network = read_json(folder / network_place(folder) / "config.json")
    class_name = network.get("_class_name")
    if class_name not in ARCHITECTURES:
        raise ValueError(f"its network is a {class_name}, give one of {', '.join(ARCHITECTURES)}")
    arguments = {key: value for key, value in network.items() if not key.startswith("_")}
    if class_name == "UNet2DModel":
        arguments.setdefault("dropout", 0.0)  # models of early versions do not name it
    if arguments.get("class_embed_type") is not None:
        raise ValueError(f"its classes have the embedding {arguments['class_embed_type']!r}, and not a row for each class")
    if not is_channel_count(arguments["in_channels"]):
        raise ValueError(f"it takes {arguments['in_channels']!r} channels, give a model with 1 to {MAX_CHANNELS}")
    null_label, rows = index.get("null_label"), arguments.get("num_class_embeds")
    named = {int(label): str(text) for label, text in (index.get("id2label") or {}).items()}
    ids = [label for label in range(0 if rows is None else min(rows, 100_000)) if label != null_label]
    return BaseModel(
        name=name,
        is_checkpoint=is_checkpoint,
        class_name=class_name,
        arguments=arguments,
        scheduler=scheduler,
        id2label={label: named.get(label, str(label)) for label in ids},
        null_label=null_label,
    )


def _same(value: Any, other: Any) -> bool:
    """Whether two arguments of a network are equal; a tuple equals a list."""
    return bool((list(value) if isinstance(value, tuple) else value) == (list(other) if isinstance(other, tuple) else other))
