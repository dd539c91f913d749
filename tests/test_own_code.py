"""Networks of a user: when the file of a class travels with a model, and how the model is loaded again."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.utils import dynamic_modules_utils
from small_net import SmallNet

from hf_ddpm.own_code import TRUST, reason_to_stay
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import load_pipeline

CLASS = "from diffusers import ConfigMixin, ModelMixin\n\n\nclass Net(ModelMixin, ConfigMixin):\n    pass\n"


@pytest.fixture
def reason(tmp_path, monkeypatch):
    """Why the file `name` of this text cannot travel; None = it can."""

    def find(text: str, name: str = "net_of_mine") -> str | None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.import_module(name)
        found = reason_to_stay(name)
        del sys.modules[name]
        return found

    return find


@pytest.fixture(autouse=True)
def no_trust(monkeypatch, tmp_path):
    monkeypatch.delenv(TRUST, raising=False)
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def saved(tmp_path) -> str:
    """The folder of a pipeline whose network is a `SmallNet`."""
    torch.manual_seed(0)
    scheduler = DDPMScheduler(timestep_spacing="trailing")
    CFGDDPMPipeline(SmallNet(num_class_embeds=3), scheduler, null_label=2).save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.fixture
def forgotten(saved, monkeypatch) -> str:
    """The same folder, for a program that has not imported the class."""
    monkeypatch.delitem(sys.modules, "small_net")
    return saved


def sample(pipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return pipeline([0, 1], **options).images


class TestReasons:
    @pytest.mark.parametrize(
        "more",
        [
            "",
            '"""About it."""\nWIDTH: int = 3\n',
            'if __name__ == "__main__":\n    from hf_ddpm import train\n    train(None)\n',
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n",
        ],
        ids=["plain", "constants", "a program", "types"],
    )
    def test_a_self_contained_file_travels(self, reason, more):
        assert reason(CLASS + more) is None

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ("import small_net\n", "imports small_net, which is of no installed package"),
            ("def later():\n    from . import x\n", "imports ., which is of no installed package"),
            ("print(end='')\n", "line 6 of net_of_mine.py would run when it is loaded"),
            ("WIDTH = len('abc')\n", "line 6 of net_of_mine.py would run when it is loaded"),
            ("for _ in ():\n    pass\n", "line 6 of net_of_mine.py would run when it is loaded"),
        ],
    )
    def test_another_one_does_not(self, reason, more, why):
        assert why in reason(CLASS + more)

    @pytest.mark.parametrize("name", ["tiny_unet", "ddpm", "ddim"])
    def test_a_name_that_means_another_file_is_refused(self, reason, name):
        assert reason(CLASS, name) == f"its file cannot be called {name}.py: rename it"

    def test_what_has_no_file_or_is_installed_stays(self, monkeypatch):
        monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
        assert reason_to_stay("__main__") == "it has no file"
        assert reason_to_stay("torch.nn") == "it is part of the installed package torch"


def test_the_file_of_the_class_is_saved_beside_the_weights(saved):
    index = json.loads((Path(saved) / "model_index.json").read_text())
    assert index["unet"] == ["small_net", "SmallNet"]
    assert (Path(saved) / "unet" / "small_net.py").read_text() == Path(sys.modules["small_net"].__file__).read_text()


def test_a_program_that_knows_the_class_needs_no_trust(saved):
    for pipeline in (CFGDDPMPipeline.from_pretrained(saved), load_pipeline(saved, device="cpu")):
        assert type(pipeline.unet) is SmallNet


def test_another_program_is_told_to_read_the_code_first(forgotten):
    why = "its network is a SmallNet, whose code came with the model, unet/small_net.py: read it, then set HF_DDPM_TRUST"
    for load in (CFGDDPMPipeline.from_pretrained, load_pipeline):
        with pytest.raises(ValueError) as refused:
            load(forgotten)
        assert why in str(refused.value) and "\n" not in str(refused.value)


def test_with_trust_the_code_of_the_folder_is_run(forgotten, monkeypatch):
    loaded = [
        CFGDDPMPipeline.from_pretrained(forgotten, trust_remote_code=True),
        DiffusionPipeline.from_pretrained(forgotten, trust_remote_code=True),
        load_pipeline(forgotten, device="cpu", trust_remote_code=True),
    ]
    monkeypatch.setenv(TRUST, "1")
    loaded.append(load_pipeline(forgotten, device="cpu"))
    expected = sample(CFGDDPMPipeline.from_pretrained(forgotten, unet=SmallNet.from_pretrained(forgotten, subfolder="unet")))
    for pipeline in loaded:
        assert type(pipeline.unet).__module__.startswith("diffusers_modules.")
        torch.testing.assert_close(sample(pipeline), expected)


def test_a_loaded_network_travels_again(forgotten, tmp_path):
    CFGDDPMPipeline.from_pretrained(forgotten, trust_remote_code=True).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "unet" / "small_net.py").is_file()
    assert CFGDDPMPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True).num_classes == 2


def test_a_class_that_does_not_travel_is_found_by_its_module(saved, monkeypatch, tmp_path):
    shutil.rmtree(saved)
    monkeypatch.setattr(sys.modules["small_net"], "__file__", None)
    CFGDDPMPipeline(SmallNet(num_class_embeds=3), DDPMScheduler(), null_label=2).save_pretrained(saved)
    assert sorted(path.name for path in (tmp_path / "saved" / "unet").iterdir()) == [
        "config.json", "diffusion_pytorch_model.safetensors"
    ]  # fmt: skip
    assert type(CFGDDPMPipeline.from_pretrained(saved).unet) is SmallNet
    monkeypatch.delitem(sys.modules, "small_net")
    with pytest.raises(ValueError, match="small_net .*import small_net before calling"):
        load_pipeline(saved)
    network = SmallNet.from_pretrained(saved, subfolder="unet")
    assert CFGDDPMPipeline.from_pretrained(saved, unet=network).unet is network
