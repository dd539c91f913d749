"""The files of a saved model, each changed in every way: it loads and samples, or one line names the file."""

import contextlib
import copy
import json
import os
import re
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import generate, load_pipeline

UNET, GENERATOR = (f"{folder}/diffusion_pytorch_model.safetensors" for folder in ("unet", "generator"))
DELETE = object()
VALUES = {
    "null": None,
    "list": [],
    "mapping": {},
    "text": "x",
    "minus": -1,
    "billion": 1e9,
    "nan": float("nan"),
    "deleted": DELETE,
}
FILES = {
    "ddpm": ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"),
    "gan": ("model_index.json", "generator/config.json"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_pipeline) -> dict[str, Path]:
    """A diffusion model and a GAN, both with classes."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_pipeline().save_pretrained(folder / "ddpm")
    torch.manual_seed(0)
    generator = DCGANGenerator(sample_size=8, channels=1, latent_dim=4, width=4, num_classes=3, label_channels=2)
    DCGANPipeline(generator, {0: "cat", 1: "dog", 2: "emu"}).save_pretrained(folder / "gan")
    return {name: folder / name for name in FILES}


@pytest.fixture
def model(saved, tmp_path) -> Path:
    return shutil.copytree(saved["ddpm"], tmp_path / "model")


@pytest.fixture
def gan(saved, tmp_path) -> Path:
    return shutil.copytree(saved["gan"], tmp_path / "gan")


def try_model(folder: Path) -> str | None:
    """Load a model and sample two images; None = it works, else its refusal, which is one short line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of diffusers, about values that it will refuse
            pipeline = load_pipeline(str(folder), device="cpu")
    except ValueError as refused:
        message = str(refused)
        assert message.startswith(f"model is {str(folder)!r}: ") and "\n" not in message and len(message) < 1200, message
        return message
    labels = [0, 1] if pipeline.is_conditional else [None, None]
    options = {} if isinstance(pipeline, DCGANPipeline) else {"num_inference_steps": 2}
    (batch,) = generate(pipeline, class_labels=labels, **options)
    assert batch.images.shape[0] == 2 and batch.images.dtype == "uint8"
    return None


def refusal(folder: Path, file: str) -> str:
    message = try_model(folder)
    assert message is not None and file in message, message
    return message


def edit(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def changed_files(folder: Path, files: tuple[str, ...]):
    """Every key of every file with every value, as (file, key, value, text of the file)."""
    for file in files:
        content = json.loads((folder / file).read_text())
        for key in content:
            for name, value in VALUES.items():
                changed = copy.copy(content)
                if value is DELETE:
                    del changed[key]
                else:
                    changed[key] = value
                yield file, key, name, json.dumps(changed)
        for name in ("null", "list", "text", "minus"):
            yield file, "the whole", name, json.dumps(VALUES[name])
        yield file, "the whole", "empty", ""
        yield file, "the whole", "deep", "[" * 100_000


def faults_of_changes(folder: Path, files: tuple[str, ...], every: int) -> tuple[list[str], int]:
    """What is wrong with the answers to changed files, of which each `every`th is tried, and how many were refused."""
    wrong, refused = [], 0
    for number, (file, key, name, text) in enumerate(changed_files(folder, files)):
        if number % every:
            continue
        before = (folder / file).read_text()
        (folder / file).write_text(text)
        try:
            message = try_model(folder)
            refused += message is not None
            if message is not None and not any(name in message for name in (*files, UNET, GENERATOR)):
                wrong.append(f"{file} {key} {name}: the file is not named: {message}")
        except Exception as error:
            wrong.append(f"{file} {key} {name}: {type(error).__name__}: {error}")
        (folder / file).write_text(before)
    return wrong, refused


@pytest.mark.parametrize("kind", FILES)
def test_some_changes_of_the_configs(saved, tmp_path, kind):
    wrong, refused = faults_of_changes(shutil.copytree(saved[kind], tmp_path / kind), FILES[kind], 11)
    assert not wrong, "\n".join(wrong)
    assert refused > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_all_changes_of_the_configs(saved, tmp_path, kind):
    wrong, refused = faults_of_changes(shutil.copytree(saved[kind], tmp_path / kind), FILES[kind], 1)
    assert not wrong, f"{len(wrong)} of them:\n" + "\n".join(wrong)
    assert refused > 50


# Weights


def rewrite(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def set_header(file: Path, length: int | None = None, **entries) -> None:
    """Write a header with other entries, or with another length than it has, before the same numbers."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size]) | entries
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content[8 + size :])


FIRST = "conv_in.weight"
WEIGHT_FAULTS = {
    "a tensor is missing": (lambda f: rewrite(f, lambda t: t.pop(FIRST)), f"lacks tensor '{FIRST}'"),
    "a tensor too many": (lambda f: rewrite(f, lambda t: t.update(more=torch.zeros(2))), "unknown tensor 'more'"),
    "another shape": (lambda f: rewrite(f, lambda t: t.update({FIRST: torch.zeros(8, 1, 5, 5)})), f"the shape of {FIRST}"),
    "integers": (lambda f: rewrite(f, lambda t: t.update({FIRST: t[FIRST].long()})), f"the dtype of {FIRST} is 'I64'"),
    "not a number": (lambda f: rewrite(f, lambda t: t[FIRST].fill_(float("nan"))), f"unet: {FIRST} is 'NaN or infinite'"),
    "no bytes": (lambda f: f.write_bytes(b""), "header too small"),
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "incomplete metadata"),
    "cut in the header": (lambda f: f.write_bytes(f.read_bytes()[:100]), "invalid header length"),
    "a header of an exbibyte": (lambda f: set_header(f, length=2**60), "header too large"),
    "a header longer than the file": (lambda f: set_header(f, length=2**26), "invalid header length"),
    "two tensors in one place": (
        lambda f: set_header(f, more={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), "offset",
    ),
    "a tensor beyond the end": (
        lambda f: set_header(f, more={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}), "offset|incomplete",
    ),
    "a tebibyte of nothing at the end": (lambda f: os.truncate(f, 2**40), "incomplete metadata"),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHT_FAULTS)
def test_weights_that_do_not_fit(model, name):
    change, words = WEIGHT_FAULTS[name]
    change(model / UNET)
    message = try_model(model)
    assert message is not None and ("unet/" in message or "unet:" in message), message
    assert re.search(words, message), message
    with pytest.raises(ValueError, match="unet") if "nan" not in words.lower() else contextlib.nullcontext():
        CFGDDPMPipeline.from_pretrained(model)


@pytest.mark.parametrize("kind", FILES)
def test_weights_of_the_other_model(saved, model, gan, kind):
    shutil.copy(model / UNET if kind == "gan" else gan / GENERATOR, gan / GENERATOR if kind == "gan" else model / UNET)
    assert "lacks tensor" in refusal(gan if kind == "gan" else model, GENERATOR if kind == "gan" else UNET)


def test_half_precision_links_and_old_names_are_fine(saved, model, tmp_path):
    """As on the Hub: weights of 16 bits, kept elsewhere and linked, with the names of attention layers of 2022."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict) -> None:
        for name in list(tensors):
            if ".attentions." in name:
                words = [old.get(word, word) for word in name.replace("to_out.0", "proj_attn").split(".")]
                tensors[".".join(words)] = tensors.pop(name)
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    rewrite(model / UNET, rename)
    (model / UNET).rename(tmp_path / "blob")
    (model / UNET).symlink_to(tmp_path / "blob")
    assert try_model(model) is None
    wanted = load_file(saved["ddpm"] / UNET)
    found = load_pipeline(str(model), device="cpu").unet.state_dict()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-3) for name in wanted)


def test_padding_beside_the_weights_lifts_no_limit(model, tmp_path):
    """The tensors in the headers are compared, not the bytes of files."""
    edit(model / "unet" / "config.json", num_class_embeds=90_000)
    edit(model / "model_index.json", null_label=89_999)
    for name in ("pad.safetensors", "diffusion_pytorch_model-00001-of-00002.safetensors"):
        with (model / "unet" / name).open("wb") as file:
            file.truncate(2**40)
    assert "the shape of class_embedding.weight is (4, 32)" in refusal(model, UNET)


def shard(model: Path) -> Path:
    """Split the weights into two files with an index."""
    tensors = load_file(model / UNET)
    (model / UNET).unlink()
    names = sorted(tensors)
    weight_map = {}
    for number in (1, 2):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        part = names[number - 1 :: 2]
        save_file({name: tensors[name] for name in part}, model / "unet" / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = model / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_shards(model, tmp_path):
    index = shard(model)
    assert try_model(model) is None
    content = json.loads(index.read_text())
    outside = tmp_path / "outside.safetensors"
    save_file({FIRST: torch.zeros(1)}, outside)
    for place in (str(outside), "../../outside.safetensors"):
        edit(index, weight_map=content["weight_map"] | {FIRST: place})
        assert "give the name of a file in the same folder" in refusal(model, index.name)
    edit(index, weight_map={name: file for name, file in content["weight_map"].items() if name != FIRST})
    refusal(model, index.name)
    for damaged in (None, [], {"weight_map": None}, {"weight_map": {FIRST: 3}}, {}):
        index.write_text(json.dumps(damaged))
        refusal(model, index.name)
    index.write_text(json.dumps(content))
    (model / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").write_bytes(b"")
    refusal(model, "diffusion_pytorch_model-00002-of-00002.safetensors")


# What no single key shows


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("unet/config.json", {"sample_size": "8"}, "sample_size is '8'"),
        ("unet/config.json", {"sample_size": [8, 8, 8]}, "sample_size is"),
        ("unet/config.json", {"sample_size": [8, 0]}, "sample_size is"),
        ("unet/config.json", {"sample_size": True}, "sample_size is"),
        ("unet/config.json", {"out_channels": 3}, "the shape of the output is"),
        ("unet/config.json", {"in_channels": 10**30}, "in_channels is"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "1000"}, "TypeError"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, float("nan")]}, "trained_betas is nan"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 0.2]}, r"the number of betas is \(2,\)"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 3.0], "num_train_timesteps": 2}, "betas"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sinus"}, "sinus"),
        ("scheduler/scheduler_config.json", {"prediction_type": "noise"}, "prediction_type"),
        ("scheduler/scheduler_config.json", {"clip_sample": "no"}, "clip_sample is 'no': give true or false"),
        ("model_index.json", {"scheduler": ["diffusers", "NoSuchScheduler"]}, "diffusers has no such scheduler"),
        ("model_index.json", {"unet": ["diffusers", "NoSuchModel"]}, "diffusers has no such model"),
        ("model_index.json", {"unet": ["diffusers", "DDPMScheduler"]}, "diffusers has no such model"),
        ("model_index.json", {"id2label": {"0": "cat", "7": "dog"}}, "id2label is .*: name ids below 3"),
        ("model_index.json", {"id2label": {"0": "cat", "00": "dog"}}, "id2label is .*: name ids below 3"),
        ("model_index.json", {"id2label": {"0": {"a": 1}}}, "id2label is .*: give the name"),
        ("model_index.json", {"null_label": True}, "null_label is True"),
        ("model_index.json", {"_class_name": ["pipeline", "Other"]}, "_class_name is .*: give the name of a class, or"),
        ("model_index.json", {"_class_name": ["other", "CFGDDPMPipeline"]}, "_class_name is"),
        ("model_index.json", {"_class_name": ["pipeline", "CFGDDPMPipeline", "x"]}, "_class_name is"),
    ],
)  # fmt: skip
def test_values_that_cannot_work(model, file, values, words):
    edit(model / file, **values)
    message = try_model(model)
    assert message is not None and re.search(words, message), message
    assert (UNET if "safetensors" in words else file) in message


def test_classes_without_a_name_and_with_the_same_name_are_sampled_by_id(model):
    edit(model / "model_index.json", id2label={"0": "cat", "2": "cat"})
    assert try_model(model) is None


def test_a_key_twice_is_refused(model):
    file = model / "unet" / "config.json"
    file.write_text(file.read_text().replace("{", '{"sample_size": 8, ', 1))
    assert "it gives 'sample_size' twice" in refusal(model, "unet/config.json")
