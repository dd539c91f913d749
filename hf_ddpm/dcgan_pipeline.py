"""DCGANPipeline: sample images from a DCGAN, of given classes if the model is class-conditional.

Needs torch and diffusers only. `save_pretrained` copies this file beside the index and beside the weights, so that
`DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)` needs no other package.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any
from unicodedata import normalize

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

SAVED_CLASS = ["pipeline", "DCGANPipeline"]
"""`_class_name` in model_index.json: diffusers takes the class from the file pipeline.py beside it. Older models have a
plain name."""
OUTPUT_TYPES = ("pil", "np", "pt")
Labels = str | int | Sequence[str | int] | Tensor
Folder = str | os.PathLike[str]
Generators = torch.Generator | list[torch.Generator]
STAGES = {8: 2, 16: 2, 28: 2, 32: 3, 64: 4}
"""By image size in pixels: how often the networks halve or double it between the image and their smallest map."""
LARGEST = {"latent_dim": 1024, "width": 512, "label_channels": 1024, "channels": 4, "num_classes": 100_000}
"""Limits of the config of a saved model."""


class DCGANGenerator(ModelMixin, ConfigMixin):
    """The generator of Radford et al. 2016 (https://arxiv.org/abs/1511.06434), for small images.

    Args:
        sample_size: height and width in pixels, one of `STAGES`.
        channels: C, 1 (gray) or 3 (RGB).
        latent_dim: size of the latent vector z.
        width: channels of the last hidden map; each map before it has twice as many.
        num_classes: K; None = unconditional.
        label_channels: size of the label embedding, which is concatenated with z.
        wide_early: double the channels of each hidden map after the first.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        channels: int = 3,
        latent_dim: int = 128,
        width: int = 64,
        num_classes: int | None = None,
        label_channels: int = 16,
        wide_early: bool = False,
    ):
        super().__init__()
        require(sample_size in STAGES, "sample_size", sample_size, f"give one of {', '.join(map(str, STAGES))} pixels")
        for name, most in LARGEST.items():
            value = self.config[name]
            ok = (name == "num_classes" and value is None) or (type(value) is int and 1 <= value <= most)
            require(ok, name, value, f"give 1 to {most}")
        stages = STAGES[sample_size]
        widths = [width * 2**stage for stage in reversed(range(stages))]
        if wide_early:
            widths = [widths[0], *(2 * hidden for hidden in widths[1:])]
        self.label_embedding = None if num_classes is None else nn.Embedding(num_classes, label_channels)
        inputs = latent_dim + (0 if num_classes is None else label_channels)
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], sample_size >> stages, bias=False)]
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Generate images, (B, C, H, W) float in [-1, 1].

        Args:
            latents: (B, latent_dim) float, standard normal.
            class_labels: (B,) int64 in [0, num_classes); None if the network is unconditional.
        """
        if self.label_embedding is not None:
            latents = torch.cat([latents, self.label_embedding(class_labels)], dim=1)
        return self.layers(latents[:, :, None, None])


class DCGANPipeline(DiffusionPipeline):
    """Unconditional and class-conditional generation of small images by a single call of a network.

    The network is called like `DCGANGenerator`; `id2label` maps class ids to class names, None = no names.
    """

    generator: ModelMixin
    model_cpu_offload_seq = "generator"
    null_label = None
    """A GAN has no label for "no class"."""
    pixel_type, value_range = "uint8", (0, 255)
    """A GAN generates images of 8 bits."""

    def __init__(self, generator: ModelMixin, id2label: dict[int, str] | dict[str, str] | None = None):
        super().__init__()
        generator.eval()  # otherwise batch norm makes an image depend on its batch
        self.register_modules(generator=generator)
        self.register_to_config(generator=("dcgan", type(generator).__name__))  # of generator/dcgan.py, see save_pretrained
        if id2label is not None:
            self.register_to_config(id2label=id2label)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        outside = set(self.id2label or ()) - set(range(self.num_classes or 0))
        require(not outside, "id2label", id2label, f"must name ids below {self.num_classes or 0}, the number of classes")

    @property
    def is_conditional(self) -> bool:
        """Whether the network takes class labels."""
        return self.num_classes is not None

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None = unconditional."""
        return self.generator.config.num_classes

    @property
    def id2label(self) -> dict[int, str] | None:
        """Class id to class name in the order of the ids; None = no names."""
        names = self.config.get("id2label")
        # JSON turns the ids into strings and sorts them as such ("10" before "2").
        return names and dict(sorted((int(label), str(name)) for label, name in names.items()))

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        batch_size: int | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images: an `ImagePipelineOutput` with the field `images`. A `ValueError` names a value that cannot work.

        Args:
            class_labels: labels, one or several: class names (str) or ids in [0, num_classes); None = unconditional.
            num_images_per_prompt: images of each label, side by side.
            generator: one for the whole batch, or a list of one per image, which makes an image independent of the others
                in its batch; None = torch's global generator.
            output_type: "pil" (list of `PIL.Image`), or float32 in [0, 1]: "np" (B, H, W, C) or "pt" (B, C, H, W).
            return_dict: False = return the tuple `(images,)`.
            batch_size: without labels, the number of images, times `num_images_per_prompt`; None = 1. With labels it is
                their number, and may be left out.
        """
        self.check_inputs(class_labels, num_images_per_prompt, generator, output_type, batch_size)
        device = self._execution_device
        labels, count = None, num_images_per_prompt * (batch_size or 1)
        if class_labels is not None:
            ids = torch.tensor(self.get_label_ids(class_labels), device=device)
            labels = ids.repeat_interleave(num_images_per_prompt)
            count = len(labels)
        # In float32 for every dtype of the network: a seed means the same latent vector in every precision.
        shape = (count, self.generator.config.latent_dim)
        latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        images = self.generator(latents.to(self.generator.dtype), labels).float()
        images = self.image_processor.postprocess(images, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def check_inputs(
        self,
        class_labels: Labels | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        output_type: str = "pil",
        batch_size: int | None = None,
    ) -> None:
        """Check the arguments of `__call__`; a `ValueError` names the one that cannot work, its value and the remedy."""
        counts = {"num_images_per_prompt": num_images_per_prompt, "batch_size": 1 if batch_size is None else batch_size}
        for name, count in counts.items():
            require(type(count) is int and count >= 1, name, count, "give an integer of at least 1")
        require(output_type in OUTPUT_TYPES, "output_type", output_type, f"give one of {OUTPUT_TYPES}")
        give = f"the model has no null label, give {self._valid_ids}"
        remedy = give if self.is_conditional else "the model is unconditional, leave it out"
        require((class_labels is not None) == self.is_conditional, "class_labels", class_labels, remedy)
        num_labels = batch_size or 1
        if class_labels is not None:
            num_labels = len(self.get_label_ids(class_labels))
            remedy = f"give {num_labels}, the number of labels, or leave it out; num_images_per_prompt is for each label"
            require(batch_size in (None, num_labels), "batch_size", batch_size, remedy)
        _check_generator(generator, num_labels * num_images_per_prompt)

    def get_label_ids(self, class_labels: Labels) -> list[int]:
        """One class id for each label: a str is the name of exactly one class, an int an id; else a `ValueError`."""
        labels = _plain(class_labels)
        labels = [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
        require(len(labels) > 0, "class_labels", labels, "give one label or more")
        return [self._get_label_id(_plain(label)) for label in labels]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Folder, **kwargs: Any) -> DCGANPipeline:
        """Load a pipeline from a folder or the Hub: its weights from safetensors (pickled ones can run code), and no code.

        Further arguments are those of `ModelMixin.from_pretrained`: `dtype`, `revision`, `token`, `cache_dir` and the like.
        Missing weights are a `ValueError`.
        """
        safe = kwargs.pop("use_safetensors", True)
        require(safe is True, "use_safetensors", safe, "weights are loaded from safetensors only")
        hub = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
        index = cls.load_config(pretrained_model_name_or_path, **{name: kwargs[name] for name in hub if name in kwargs})
        generator, loading = DCGANGenerator.from_pretrained(
            pretrained_model_name_or_path, subfolder="generator", use_safetensors=True, output_loading_info=True, **kwargs
        )
        require(not loading["missing_keys"], "generator", loading["missing_keys"], "the weight file lacks these")
        require(not loading["unexpected_keys"], "generator", loading["unexpected_keys"], "it has no such tensors")
        return cls(generator, index.get("id2label"))

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> DCGANPipeline:
        """Make a pipeline from the parts of another one, with its labels; see `DiffusionPipeline.from_pipe`."""
        # The superclass leaves out a network unless its class is exactly the one that `__init__` names, and would convert
        # the shared one to float32.
        dtype = {} if "torch_dtype" in kwargs else {"dtype": pipeline.dtype}
        return super().from_pipe(pipeline, **{"generator": pipeline.generator, **dtype, **kwargs})

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: Folder, **kwargs: Any) -> Any:
        """Load model_index.json; in the installed package, a folder whose files cannot work is refused."""
        config = super().load_config(pretrained_model_name_or_path, **kwargs)
        # A copy of this file that came with a model runs on trust, so that checks would protect nobody.
        if __name__ == "hf_ddpm.dcgan_pipeline" and os.path.isdir(pretrained_model_name_or_path):
            checks = importlib.import_module("hf_ddpm.saved_model")
            index = {**config, "generator": (__name__, DCGANGenerator.__name__)}
            checks.check_saved_pipeline(pretrained_model_name_or_path, index, "generator")
        return config

    def save_pretrained(self, save_directory: Folder, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save a pipeline like its superclass, with this file as `pipeline.py` and `generator/dcgan.py`.

        Weights are saved as safetensors only: pickled ones can run code when they are loaded.
        """
        require(safe_serialization, "safe_serialization", False, "weights are saved as safetensors only")
        # The code comes first, because the superclass ends with an upload (push_to_hub). It is copied twice, because
        # diffusers looks for the class of a component only in the folder of that component.
        for target in ("pipeline.py", os.path.join("generator", "dcgan.py")):
            target = os.path.join(save_directory, target)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(__file__, target + ".tmp")
            os.replace(target + ".tmp", target)
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)

    def to_json_string(self) -> str:
        """The content of model_index.json, with the class that is saved beside it."""
        index = json.loads(super().to_json_string())
        return json.dumps({**index, "_class_name": SAVED_CLASS}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def _dict_from_json_file(cls, json_file: Folder) -> dict[str, Any]:
        """Read a JSON file; with the plain name of this class, as diffusers would take the one beside the file instead."""
        config = super()._dict_from_json_file(json_file)
        return config | {"_class_name": SAVED_CLASS[1]} if config.get("_class_name") == SAVED_CLASS else config

    @property
    def _valid_ids(self) -> str:
        return f"ids from 0 to {(self.num_classes or 0) - 1}"

    def _get_label_id(self, label: str | int) -> int:
        require(self.is_conditional, "class_labels", label, "the model is unconditional, leave it out")
        if not isinstance(label, str):
            in_range = type(label) is int and label in range(self.num_classes or 0)
            require(in_range, "class_labels", label, f"give names (str) or {self._valid_ids} (int)")
            return label
        names = self.id2label or {}
        ids = [class_id for class_id, name in names.items() if name == label]
        if not ids:  # an accent may be encoded in two ways
            ids = [class_id for class_id, name in names.items() if normalize("NFC", name) == normalize("NFC", label)]
        near = ", ".join(difflib.get_close_matches(label, names.values(), cutoff=0))
        near = "".join(character if character.isprintable() else repr(character)[1:-1] for character in near)
        nearest = near or f"none has one, {self._valid_ids}"
        require(len(ids) > 0, "class_labels", label, f"no such name, nearest: {nearest}")
        require(len(ids) == 1, "class_labels", label, f"the classes {ids} share this name, give an id")
        return ids[0]


def require(ok: bool, name: str, value: Any, remedy: str) -> None:
    """Raise a `ValueError` "name is value: remedy" unless `ok`."""
    if not ok:
        raise ValueError(f"{name} is {value!r}: {remedy}")


def _check_generator(generator: Any, count: int) -> None:
    """Raise a `ValueError` unless `generator` is a `torch.Generator`, a list of `count`, or None."""
    several = generator if isinstance(generator, list) else [] if generator is None else [generator]
    for index, one in enumerate(several):
        name, seed = f"generator[{index}]" if several is generator else "generator", one if type(one) is int else 0
        require(isinstance(one, torch.Generator), name, one, f"give torch.Generator().manual_seed({seed})")
    if several is generator:
        require(len(several) == count, "len(generator)", len(several), f"give {count}, one per image")


def _plain(value: Any) -> Any:
    """Convert tensors, arrays and their scalars to Python lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value
