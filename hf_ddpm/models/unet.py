"""U-Nets: presets for diffusers' UNet2DModel and `build_unet`, which adds class embeddings with a null label.

The other networks of `hf_ddpm.models.networks` take their size, widths and layers from the same presets.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_ddpm.commandline.names import nearest
from hf_ddpm.image_shape import MAX_CHANNELS, ImageSize, plain_size, size_pair
from hf_ddpm.runtime.reading import read_json

if TYPE_CHECKING:
    from diffusers import ModelMixin


def _levels(letters: str) -> dict[str, tuple[str, ...]]:
    """Block types, one level per letter, highest resolution first: "-" plain, "A" with self-attention."""
    down, up = {"-": "DownBlock2D", "A": "AttnDownBlock2D"}, {"-": "UpBlock2D", "A": "AttnUpBlock2D"}
    return {
        "down_block_types": tuple(down[letter] for letter in letters),
        "up_block_types": tuple(up[letter] for letter in reversed(letters)),
    }


# The U-Net of Ho et al. 2020 for CIFAR-10, as google/ddpm-cifar10-32 describes it to diffusers.
_HO2020 = {
    "attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "downsample_padding": 0,
    "dropout": 0.1,
}  # fmt: skip

# name: arguments of UNet2DModel, then the parameters of the unconditional model at the preset's size and channels.
# fmt: off
# ruff: noqa: E501
UNET_PRESETS: dict[str, dict[str, Any]] = {
    "digits8":         dict(sample_size=8,   in_channels=1, block_out_channels=(32, 64),               layers_per_block=1, norm_num_groups=8,  **_levels("-A")),               # 0.70 M
    "mnist28":         dict(sample_size=28,  in_channels=1, block_out_channels=(32, 64, 128),          layers_per_block=1, norm_num_groups=32, **_levels("--A")),              # 2.73 M
    "mnist32":         dict(sample_size=32,  in_channels=1, block_out_channels=(32, 64, 128),          layers_per_block=1, norm_num_groups=32, **_levels("--A")),              # 2.73 M
    "unet-2xud-half":  dict(sample_size=32,  in_channels=3, block_out_channels=(32, 64, 128),          layers_per_block=1, norm_num_groups=32, **_levels("AAA")),              # 2.80 M
    "unet-2xud":       dict(sample_size=32,  in_channels=3, block_out_channels=(64, 128, 256),         layers_per_block=1, norm_num_groups=32, **_levels("AAA")),              # 11.17 M
    "unet-3xblocks":   dict(sample_size=32,  in_channels=3, block_out_channels=(64, 128, 256, 320),    layers_per_block=1, norm_num_groups=32, **_levels("AAAA")),             # 23.32 M
    "cifar32-small":   dict(sample_size=32,  in_channels=3, block_out_channels=(64, 128, 128),         layers_per_block=2, norm_num_groups=32, **_levels("--A")),              # 6.47 M
    "cifar32":         dict(sample_size=32,  in_channels=3, block_out_channels=(128, 256, 256, 256),   layers_per_block=2, norm_num_groups=32, **_levels("-A--"), **_HO2020),  # 35.75 M
    "tiny-imagenet64": dict(sample_size=64,  in_channels=3, block_out_channels=(64, 128, 256, 256),    layers_per_block=2, norm_num_groups=32, **_levels("--AA")),             # 26.62 M
    "cars128":         dict(sample_size=128, in_channels=3, block_out_channels=(32, 64, 64, 128, 128), layers_per_block=1, norm_num_groups=32, **_levels("----A")),            # 4.74 M
}
# fmt: on

_FROM_DATA = {
    "sample_size": "image_size", "in_channels": "channels", "out_channels": "channels",
    "num_class_embeds": "class_conditional", "class_embed_type": "class_conditional",
    "condition_range": "condition_range",
}  # fmt: skip


def read_architecture(preset: str) -> dict[str, Any]:
    """Arguments of UNet2DModel for a preset's name, a folder with a config.json, or a Hub id; else a `ValueError`."""
    if preset in UNET_PRESETS:
        return dict(UNET_PRESETS[preset])
    path = Path(preset) / "config.json"
    if preset and path.parent.is_dir():
        try:
            config = read_json(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"preset is {preset!r}, but {path} is not readable JSON ({error})") from None
    elif "/" in preset and preset.count("/") == 1 and not preset.startswith((".", "/", "~")):
        from diffusers import UNet2DModel

        try:
            config = UNet2DModel.load_config(preset)
        except OSError as error:
            cause = str(error).strip().split("\n")[0]
            raise ValueError(f"preset is {preset!r}, but its config.json cannot be read from the Hub ({cause})") from None
    else:
        near = " or ".join(nearest(preset, UNET_PRESETS))
        names, hint = ", ".join(UNET_PRESETS), f": did you mean {near}?" if near else ""
        reason = f"neither one of {names} nor a folder with the config.json of a UNet2DModel"
        raise ValueError(f"preset is {preset!r}, {reason}{hint}")
    if not isinstance(config, dict) or config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"preset is {preset!r}, whose config.json is not that of a UNet2DModel")
    return {name: value for name, value in config.items() if name in _argument_names()}


def unet_arguments(
    preset: str,
    overrides: dict[str, Any] | None = None,
    *,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    num_class_embeds: int | None = None,
    learned_variance: bool = False,
    architecture: str = "unet",
) -> dict[str, Any]:
    """Arguments of UNet2DModel, or of another network, for one run; a `ValueError` names an argument that does not fit.

    Args:
        preset: see `read_architecture`.
        overrides: arguments of the network that replace those of the preset; None = none.
        image_size: height and width in pixels, one number = both; None = the preset's.
        channels: 1 to 16; None = the preset's. A model given by its config.json fixes it.
        num_class_embeds: rows of the class embedding, including the null label; None = unconditional.
        learned_variance: whether the network has twice as many output as input channels, the second half for the variance;
            the number in a config.json is ignored.
        architecture: name in `hf_ddpm.models.networks.NETWORKS`; it takes those arguments of a preset that it knows.
    """
    arguments = read_architecture(preset)
    own_channels = arguments.get("in_channels", 3)
    if not is_channel_count(own_channels):
        limits = f"1 to {MAX_CHANNELS}"
        raise ValueError(f"preset is {preset!r}, which takes {own_channels!r} channels: give a model with {limits}")
    if preset not in UNET_PRESETS and channels not in (None, own_channels):
        raise ValueError(f"channels is {channels}: `preset` {preset} takes {own_channels} channels")
    # Only diffusers, which takes seconds to import, knows the others.
    plain = preset in UNET_PRESETS and architecture == "unet" and not overrides
    known = set(arguments) if plain else _argument_names(architecture)
    for name in overrides or {}:
        if name in _FROM_DATA:
            raise ValueError(f"`overrides.{name}` follows the data: set `{_FROM_DATA[name]}`")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)
            network = _network(architecture).__name__
            raise ValueError(f"`overrides.{name}`: {network} has no such argument, near ones: {', '.join(near)}")
    arguments = {name: value for name, value in arguments.items() if name in known} | (overrides or {})
    return fit_to_images(
        arguments | {"in_channels": own_channels},
        f"`preset` {preset}",
        image_size=image_size,
        channels=channels,
        num_class_embeds=num_class_embeds,
        learned_variance=learned_variance,
    )


def fit_to_images(
    arguments: dict[str, Any],
    network: str,
    *,
    image_size: ImageSize | None,
    channels: int | None,
    num_class_embeds: int | None,
    learned_variance: bool,
) -> dict[str, Any]:
    """Replace the arguments of a network that follow the images; `network` names it in a `ValueError`. See `unet_arguments`."""
    arguments = dict(arguments)
    size: Any = image_size or arguments.get("sample_size")
    if not _is_size(size):
        raise ValueError(f"image_size is {size!r}: {network} does not fix one, give it in pixels")
    arguments["sample_size"] = plain_size(size)
    arguments["in_channels"] = channels or arguments["in_channels"]
    arguments["out_channels"] = arguments["in_channels"] * (2 if learned_variance else 1)
    arguments["num_class_embeds"] = num_class_embeds
    widths = arguments.get("block_out_channels", (0,) * 4)
    down = len(widths) - 1 if isinstance(widths, (list, tuple)) else 0  # UNet2DModel refuses what is not a list
    if any(side % 2**down for side in size_pair(size)):
        near = [max(1, round(side / 2**down)) * 2**down for side in size_pair(size)]
        given, fitting = (plain_size(it) if len(set(size_pair(size))) == 1 else [*size_pair(it)] for it in (size, near))
        remedy = f"give a multiple of {2**down}, such as {fitting}"
        raise ValueError(f"image_size is {given}: {network} halves images {down} times, {remedy}")
    return arguments


def _is_size(size: Any) -> bool:
    sides = size if isinstance(size, (list, tuple)) else [size] * 2
    return len(sides) == 2 and all(type(side) is int and side >= 1 for side in sides)


def is_channel_count(value: Any) -> bool:
    """Whether a value is a number of channels that images may have."""
    return type(value) is int and 1 <= value <= MAX_CHANNELS


def build_unet(
    arguments: dict[str, Any],
    *,
    null_label: int | None = None,
    null_embedding: Literal["learned", "zero"] = "learned",
    architecture: str = "unet",
) -> ModelMixin:
    """Build a UNet2DModel, or another network (see `unet_arguments`), with fresh weights.

    Args:
        null_label: row of the class embedding that means "no class"; None = there is none.
        null_embedding: `zero` makes this row zero, and it stays zero: it gets no gradient (`padding_idx`), and neither
            weight decay nor a moving average changes a zero.
    """
    import torch

    unet = _network(architecture)(**arguments)
    if null_label is not None and null_embedding == "zero":
        rows, width = unet.class_embedding.weight.shape
        padded = torch.nn.Embedding(rows, width, padding_idx=null_label)
        with torch.no_grad():
            padded.weight.copy_(unet.class_embedding.weight)
            padded.weight[null_label] = 0
        unet.class_embedding = padded
    return unet


def check_unet(arguments: dict[str, Any], architecture: str = "unet") -> None:
    """Build the network and run it on one image on the meta device: no memory, no arithmetic, but all the errors.

    Every error is a `ValueError`. The number of classes may still be unknown: networks that need it are tried with two.
    """
    import torch

    from hf_ddpm.saved_model import blaming, check_saved_numbers, check_size

    with blaming("`overrides`"):
        check_saved_numbers(arguments)
    network, size = _network(architecture), arguments["sample_size"]
    if architecture in ("class_map_unet", "condition_unet"):
        arguments = {**arguments, "num_class_embeds": arguments["num_class_embeds"] or 2}
    with blaming(f"`overrides`: {network.__name__} cannot work with them"), torch.device("meta"):
        unet = network(**arguments)
        labels = None if arguments["num_class_embeds"] is None else torch.zeros(1, dtype=torch.int64)
        images = torch.empty(1, arguments["in_channels"], *size_pair(size))
        unet(images, torch.zeros(1), class_labels=labels, return_dict=False)
    with blaming("`overrides`"):
        check_size(unet)


def _network(architecture: str) -> type[ModelMixin]:
    from hf_ddpm.models.networks import NETWORKS

    return NETWORKS[architecture]


def _argument_names(architecture: str = "unet") -> set[str]:
    network = _network(architecture)
    return network._get_init_keys(network) - {"self"}
