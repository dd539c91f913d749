"""Models of the Hub that a training starts from: what is downloaded, and what is said if it cannot be."""

import os
import subprocess
import sys

import pytest

from hf_ddpm.hub.card import card_files

READ = """
import sys
from hf_ddpm.models.base_model import read_base_model

try:
    base = read_base_model(sys.argv[1])
except ValueError as error:
    sys.exit(str(error))
print(base.class_name, base.scheduler["beta_schedule"], dict(base.id2label), "torch" in sys.modules)
for with_weights in (False, True):
    folder = base.folder(with_weights=with_weights)
    print(*sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
"""


@pytest.fixture
def read(hub, tmp_path):
    """Read a model of the local Hub in a process of its own."""

    def run(name: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        return subprocess.run([sys.executable, "-c", READ, name], env=environment, capture_output=True, text=True)

    return run


def test_config_files_are_read_first_and_weights_only_as_safetensors(hub, hub_server_module, read, pipeline_dir):
    names = [path for path in pipeline_dir.rglob("*") if path.is_file()]
    files = {path.relative_to(pipeline_dir).as_posix(): path.read_bytes() for path in names}
    files["unet/diffusion_pytorch_model.bin"] = b"pickle"
    hub.repositories["ada/pets"] = hub_server_module.Repository(files=files)
    done = read("ada/pets")
    assert done.returncode == 0, done.stderr
    configs = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    weights = [*configs, "unet/diffusion_pytorch_model.safetensors"]
    assert done.stdout.splitlines() == [
        "UNet2DModel squaredcos_cap_v2 {0: 'cat', 1: 'dog'} False", " ".join(configs), " ".join(weights),
    ]  # fmt: skip


def test_a_model_that_the_hub_does_not_have_is_one_line(read):
    done = read("ada/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "init_from is 'ada/nothing': no such folder exists, and as a model of the Hub it cannot be"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("started_from", "is_on_hub"), [("ada/pets", True), ("/home/ada/runs/pets", False)])
def test_the_card_names_the_model(pipeline_dir, started_from, is_on_hub):
    config = pipeline_dir.parent / "config.yaml"
    config.write_text(f"{config.read_text()}model:\n  init_from: {started_from}\n")
    card = card_files(pipeline_dir, pipeline_dir.parent)["README.md"].decode()
    assert ("\nbase_model: ada/pets\n" in card) is is_on_hub
    said = "`ada/pets` from the Hub" if is_on_hub else "a model that is not published with this one, `pets`"
    assert f"| Start | the weights of {said} | `config.yaml`, `model` |" in card
    assert "/home/ada" not in card
