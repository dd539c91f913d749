"""Models and checkpoints of strangers: nothing that is read can run code.

The canary is an object that makes a file when it is unpickled; it is put under every name that a loader may look for.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ddpm.cli import parse_config
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.training.checkpoints import MANIFEST, REQUIRED, choose_checkpoint, write_manifest
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

BESIDE_A_PIPELINE = (
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "model.ckpt",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.pt",
    "unet/pytorch_model.bin",
    "scheduler/scheduler.pkl",
    "scheduler/diffusion_pytorch_model.bin",
)
BESIDE_A_CHECKPOINT = (
    "optimizer.bin",
    "optimizer.pt",
    "pytorch_model.bin",
    "random_states_0.pkl",
    "custom_checkpoint_0.pkl",
    "scheduler.bin",
    "scaler.pt",
    "sampler.bin",
    "training/optimizer.bin",
    "training/optimizer.pt",
    "training/model.bin",
    "training/state.pkl",
    "training/random_states_0.pkl",
    "training/custom_checkpoint_0.pkl",
)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


class Cage:
    """Plants canaries in a folder, and knows whether one has sung."""

    def __init__(self, folder: Path):
        self.song = folder / "song"

    def plant(self, file: Path, *, archive: bool = False) -> None:
        """Write a pickle, or with `archive` what `torch.save` makes of it."""
        file.parent.mkdir(exist_ok=True)
        if archive:
            torch.save(Canary(self.song), file)
        else:
            file.write_bytes(pickle.dumps(Canary(self.song)))

    @property
    def silent(self) -> bool:
        return not self.song.exists()


@pytest.fixture
def cage(tmp_path, monkeypatch) -> Cage:
    # Silence must not be owed to what `torch.load` refuses by default.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    return Cage(tmp_path)


@pytest.fixture(scope="module")
def trained(new_run, tiny_options) -> Path:
    """A run folder with a checkpoint of two steps."""
    return new_run(*tiny_options, "--max_train_steps=2")


@pytest.fixture
def model(trained, tmp_path) -> Path:
    """A copy of the saved pipeline."""
    return shutil.copytree(trained / "pipeline", tmp_path / "model")


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    """A copy of the checkpoint."""
    return shutil.copytree(RunFolder(trained).last_checkpoint(), tmp_path / "checkpoint")


def refusal(load) -> str:
    with pytest.raises(ValueError) as refused:
        load()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("archive", [False, True])
def test_the_canary_sings_when_it_is_unpickled(cage, tmp_path, archive):
    cage.plant(tmp_path / "file", archive=archive)
    assert cage.silent
    if archive:
        torch.load(tmp_path / "file", weights_only=False)
    else:
        pickle.loads((tmp_path / "file").read_bytes())
    assert not cage.silent


# Pipelines


def test_pickles_beside_the_weights_are_not_looked_at(model, cage):
    for index, name in enumerate(BESIDE_A_PIPELINE):
        cage.plant(model / name, archive=index % 2 == 0)
    loaded = load_pipeline(str(model), device="cpu")
    again = CFGDDPMPipeline.from_pretrained(model, use_safetensors=True)
    assert torch.equal(loaded.unet.conv_in.weight, again.unet.conv_in.weight)
    assert cage.silent


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("name", [*BESIDE_A_PIPELINE, WEIGHTS])
def test_a_pickle_in_place_of_the_weights_is_refused(model, cage, name, archive):
    (model / WEIGHTS).unlink()
    cage.plant(model / name, archive=archive)
    assert str(model) in refusal(lambda: load_pipeline(str(model), device="cpu"))
    with pytest.raises((OSError, ValueError)):
        CFGDDPMPipeline.from_pretrained(model, use_safetensors=True)
    assert cage.silent


def test_even_a_pickle_of_honest_weights_is_refused(model):
    """It is not looked at, rather than unpickled with care."""
    torch.save(load_file(model / WEIGHTS), model / "unet" / "diffusion_pytorch_model.bin")
    (model / WEIGHTS).unlink()
    assert "safetensors" in refusal(lambda: load_pipeline(str(model), device="cpu"))


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_pickle_called_json_is_refused(model, cage, name):
    cage.plant(model / name)
    assert str(model) in refusal(lambda: load_pipeline(str(model), device="cpu"))
    assert cage.silent


def test_code_in_the_folder_is_not_run(model, cage):
    """Neither the file that a pipeline brings along, nor a module that the index names."""
    code = f"from pathlib import Path\nPath({str(cage.song)!r}).touch()\n"
    for name in ("pipeline.py", "unet/unet.py", "unet/evil.py", "evil.py", "__init__.py"):
        (model / name).write_text(code)
    load_pipeline(str(model), device="cpu")
    index = json.loads((model / "model_index.json").read_text())
    for component in (["evil", "Evil"], ["pipeline", "CFGDDPMPipeline"]):
        (model / "model_index.json").write_text(json.dumps(index | {"unet": component}))
        assert str(model) in refusal(lambda: load_pipeline(str(model), device="cpu"))
    assert cage.silent


# Checkpoints


def test_pickles_beside_a_checkpoint_are_not_looked_at(checkpoint, cage, tiny_options, tmp_path):
    for index, name in enumerate((*BESIDE_A_CHECKPOINT, *BESIDE_A_PIPELINE)):
        cage.plant(checkpoint / name, archive=index % 2 == 0)
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint)  # it may even list them
    options = [*tiny_options, "--max_train_steps=3", f"--output_dir={tmp_path / 'run'}", f"--resume={checkpoint}"]
    train(parse_config(TrainConfig, options))
    assert RunFolder(tmp_path / "run").last_checkpoint().name == "step-00000003"
    assert cage.silent


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", BESIDE_A_CHECKPOINT)
def test_a_checkpoint_of_pickles_is_refused(cage, tmp_path, name, listed):
    """What `Accelerator.save_state` writes, with or without a manifest."""
    (tmp_path / "pickles").mkdir()
    cage.plant(tmp_path / "pickles" / name)
    if listed:
        write_manifest(tmp_path / "pickles")
    message = refusal(lambda: choose_checkpoint(RunFolder(tmp_path / "run"), str(tmp_path / "pickles")))
    assert "--resume is " in message and (REQUIRED[0] if listed else MANIFEST) in message
    assert cage.silent


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("name", [name for name in REQUIRED if name.endswith(".safetensors")])
def test_a_pickle_called_safetensors_is_refused(checkpoint, cage, tiny_options, tmp_path, name, archive):
    cage.plant(checkpoint / name, archive=archive)
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint)
    options = [*tiny_options, "--max_train_steps=3", f"--output_dir={tmp_path / 'run'}", f"--resume={checkpoint}"]
    message = refusal(lambda: train(parse_config(TrainConfig, options)))
    assert name in message and "safetensors" in message and not (tmp_path / "run").exists()
    assert cage.silent


# Configs that ask for more than there is

HOSTILE = {
    "a billion classes": ("unet", {"num_class_embeds": 10**9}),
    "classes that fit the limit and not the weights": ("unet", {"num_class_embeds": 90_000}),
    "a billion classes without weights": ("unet", {"num_class_embeds": 10**9, "class_embed_type": "identity"}),
    "a billion channels": ("unet", {"block_out_channels": [8, 10**9]}),
    "channels that fit the limit and not the weights": ("unet", {"block_out_channels": [8, 65_536]}),
    "channels of images": ("unet", {"in_channels": 10**9}),
    "pixels": ("unet", {"sample_size": 10**6}),
    "pixels in a list": ("unet", {"sample_size": [8, 10**6]}),
    "layers": ("unet", {"layers_per_block": 10**7}),
    "levels": ("unet", {"block_out_channels": [8] * 1000, "down_block_types": ["DownBlock2D"] * 1000}),
    "timesteps": ("scheduler", {"num_train_timesteps": 10**10}),
    "a float of timesteps": ("scheduler", {"num_train_timesteps": 1e300}),
    "a config that is a list": ("scheduler", [1, 2]),
    "no channels": ("unet", {"block_out_channels": []}),
    "groups": ("unet", {"norm_num_groups": 0}),
    "nothing": ("unet", None),
}
REFUSE_WITHIN_LIMITS = """
import json, resource, sys
from hf_ddpm.models.unet import check_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import load_pipeline

honest, *hostile = sys.argv[1:]
load_pipeline(honest, device="cpu")
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
limit = used + 256 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    bytearray(512 * 2**20)
except MemoryError:
    print("limited")
for folder in hostile:
    for load in (lambda: load_pipeline(folder, device="cpu"), lambda: check_unet(unet_arguments(folder + "/unet"))):
        try:
            load()
        except ValueError as error:
            assert "memory" not in str(error) and "\\n" not in str(error), error
            print("refused", error)
        else:
            print("taken", folder)
try:
    CFGDDPMPipeline.from_pretrained(hostile[0])
except ValueError as error:
    print("refused", error)
load_pipeline(honest, device="cpu")
"""


def test_hostile_configs_allocate_nothing(trained, tmp_path):
    """Under a limit of the address space that 256 MiB would break; the honest model still loads after them."""
    for name, (component, values) in HOSTILE.items():
        folder = shutil.copytree(trained / "pipeline", tmp_path / name)
        path = next((folder / component).glob("*config.json"))
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | values if isinstance(values, dict) else values))
    folders = [str(tmp_path / name) for name in HOSTILE]
    run = subprocess.run(
        [sys.executable, "-c", REFUSE_WITHIN_LIMITS, str(trained / "pipeline"), *folders],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    limited, *lines = run.stdout.splitlines()
    assert limited == "limited" and len(lines) == 2 * len(HOSTILE) + 1
    for number, (name, (component, _)) in enumerate(HOSTILE.items()):
        pipeline_line, network_line = lines[2 * number : 2 * number + 2]
        assert pipeline_line.startswith("refused"), name
        # A network of 90,000 classes or channels may be trained, if it is meant.
        own_wish = component == "scheduler" or "not the weights" in name or "classes" in name
        assert own_wish or network_line.startswith("refused"), name
    assert "num_class_embeds" in lines[0] and "num_class_embeds" in lines[-1]
    assert "class_embedding.weight" in lines[2] and "shape" in lines[2]
