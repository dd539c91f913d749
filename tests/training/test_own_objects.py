"""Training with a data set, a network, a loss and callbacks of a program, on images of 8 x 8 pixels."""

import functools
import json
import shutil
from collections.abc import Callable as Function
from pathlib import Path

import pytest
import small_net
import torch
from safetensors.torch import load_file
from small_net import SmallNet, plain_loss, weighted_loss
from torch import nn
from torch.utils.data import TensorDataset

from hf_ddpm.config import (
    GIVEN_IN_PYTHON,
    CheckpointConfig,
    LoggingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)
from hf_ddpm.data.options import DataConfig
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.callbacks import Callback
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

SIXTEEN = torch.randint(65536, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint16)
DATASET = TensorDataset(SIXTEEN, torch.arange(40) % 3)
CONSTANT = OptimConfig(lr_scheduler="constant")  # the learning rate does not depend on the length of the run
VALUES = {"value_range": (0, 65535), "batch_size": 8}


def new_network(**arguments) -> SmallNet:
    """A network for the three classes, with the same weights each time."""
    torch.manual_seed(1)
    return SmallNet(**{"num_class_embeds": 4, **arguments})


def config_for(folder: Path, *, steps: int = 4, data: dict | None = None, **options) -> TrainConfig:
    return TrainConfig(
        output_dir=str(folder),
        max_train_steps=steps,
        mixed_precision="fp32",
        num_threads=1,
        data=DataConfig(**(VALUES if data is None else data)),
        checkpoint=CheckpointConfig(every_steps=2),
        logging=LoggingConfig(every_steps=1, sample_every_steps=None),
        **options,
    )


class Note(Callback):
    """Notes what it is called for, draws random numbers and leaves the network in evaluation mode."""

    def __init__(self):
        self.calls: list[tuple] = []

    def on_step(self, event):
        torch.rand(3)
        event.network.eval()
        self.calls.append(("step", event.step, event.images_seen, event.checkpoint))
        event.log(twice=2 * event.loss)

    def on_checkpoint(self, event):
        self.calls.append(("checkpoint", event.step, event.checkpoint.name))

    def on_preview(self, event):
        self.calls.append(("preview", event.step, event.sample_grid.name, event.total_steps))
        event.log(last=event.pipeline().unet.calls.item())


class Raise:
    """Raises an error at the second step; only one of the methods is there."""

    def on_step(self, event):
        if event.step == 2:
            raise RuntimeError("enough")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Note]:
    """A run of four steps with objects of every kind, and its callback."""
    folder, note = tmp_path_factory.mktemp("whole") / "run", Note()
    train(config_for(folder), dataset=DATASET, network=new_network(), loss=weighted_loss, callbacks=[note])
    return folder, note


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Trained and averaged weights, and moments of the optimizer."""
    checkpoint = RunFolder(folder).checkpoint(step)
    files = ("training/model.safetensors", "training/optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors")
    return {f"{file}:{name}": tensor for file in files for name, tensor in load_file(checkpoint / file).items()}


def lines(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in RunFolder(folder).read_metrics()]


def refusal(**arguments) -> str:
    with pytest.raises(ValueError) as refused:
        train(**arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_run_says_what_was_given(whole):
    folder, _ = whole
    given = {
        "dataset": "torch.utils.data.dataset.TensorDataset",
        "network": "small_net.SmallNet",
        "loss": "small_net.weighted_loss",
        "callbacks": f"{Note.__module__}.Note",
    }
    run = RunFolder(folder)
    head = run.config.read_text().splitlines()[:4]
    assert head == [f"# {name} given in Python: {which}" for name, which in given.items()]
    options = run.read_options()
    assert (options["data"]["source"], options["model"]["preset"]) == (GIVEN_IN_PYTHON, GIVEN_IN_PYTHON)
    assert json.loads(run.environment.read_text())["objects"] == given
    card = (run.pipeline / "README.md").read_text()
    assert "Trained on a dataset given in Python, `torch.utils.data.dataset.TensorDataset`, that is not published" in card
    assert "| Given in Python | dataset `torch" in card and "loss `small_net.weighted_loss`" in card
    assert "| Objective | prediction_type `v_prediction` |" in card, "the loss of the options was not used"
    assert "from_pretrained(" in card and "trust_remote_code=True" in card and "hf-ddpm train --config recipe" not in card


def test_callbacks_are_called_in_order(whole):
    folder, note = whole
    checkpoints = {step: f"step-{step:08d}" for step in (2, 4)}
    expected = []
    for step in (1, 2, 3, 4):
        expected.append(("step", step, 8 * step, None))
        expected += [("checkpoint", step, checkpoints[step])] if step in checkpoints else []
    assert note.calls == [*expected, ("preview", 4, "step-00000004.png", 4)]
    logged = lines(folder)
    losses = {line["step"]: line["loss"] for line in logged if "loss" in line}
    assert {line["step"]: line["twice"] for line in logged if "twice" in line} == {s: 2 * x for s, x in losses.items()}
    assert [line["last"] for line in logged if "last" in line] == [8], "two calls a step, in the averaged network, too"


def test_a_resumed_run_is_the_same_bit_for_bit(whole, tmp_path):
    for steps, note in ((3, Note()), (4, Note())):
        objects = {"dataset": DATASET, "network": new_network(width=4), "loss": weighted_loss, "callbacks": [note]}
        train(config_for(tmp_path, steps=steps, resume="auto", optim=CONSTANT), **objects)
    assert [call[:2] for call in note.calls] == [("step", 4), ("checkpoint", 4), ("preview", 4)]
    expected = tmp_path / "whole"
    train(config_for(expected, optim=CONSTANT), **{**objects, "callbacks": []})
    found = tensors(tmp_path, 4)
    assert all(torch.equal(tensor, found[name]) for name, tensor in tensors(expected, 4).items()), "callbacks change nothing"
    assert [line["twice"] for line in lines(tmp_path) if "twice" in line] == [
        2 * line["loss"] for line in lines(expected) if "loss" in line
    ]


def test_the_default_loss_may_be_given(tmp_path):
    network = new_network(num_class_embeds=11)
    digits = {"batch_size": 8}
    train(config_for(tmp_path / "default", data=digits, steps=2), network=network)
    train(config_for(tmp_path / "given", data=digits, steps=2), network=network, loss=plain_loss)
    default, given = (
        torch.tensor([line["loss"] for line in lines(tmp_path / name) if "loss" in line]) for name in ("default", "given")
    )
    torch.testing.assert_close(default, given)
    assert network.calls == 0, "the network that was given stays as it is"


def test_a_loss_and_a_data_set_go_with_a_preset_of_the_package(tmp_path):
    overrides = {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 4}
    config = config_for(tmp_path, steps=1, model=ModelConfig(preset="digits8", overrides=overrides))
    folder = train(config, dataset=DATASET, loss=functools.partial(plain_loss))
    assert CFGDDPMPipeline.from_pretrained(folder).num_classes == 3
    assert "# loss given in Python: small_net.plain_loss" in RunFolder(tmp_path).config.read_text()


class TestResuming:
    @pytest.fixture
    def resumed(self, whole, tmp_path) -> Function[..., Path]:
        def run(**objects) -> Path:
            shutil.copytree(whole[0], tmp_path / "run")
            given = {"dataset": DATASET, "network": new_network(), "loss": weighted_loss, **objects}
            config = config_for(tmp_path / "run", steps=5, resume="auto")
            return train(config, **{name: thing for name, thing in given.items() if thing is not None})

        return run

    def test_other_images_or_another_range_are_refused(self, resumed):
        with pytest.raises(ValueError, match="data_fingerprint was '.*--resume|--resume.*data_fingerprint was"):
            resumed(dataset=TensorDataset(SIXTEEN.flip(0), torch.arange(40) % 3))

    def test_another_network_is_refused(self, resumed):
        with pytest.raises(ValueError, match="objects.network_config.width was 4 and is 5"):
            resumed(network=new_network(width=5))

    def test_another_loss_is_warned_of(self, resumed, caplog):
        resumed(loss=plain_loss)
        warned = [record.getMessage() for record in caplog.records]
        assert any("objects.loss was 'small_net.weighted_loss' and is now 'small_net.plain_loss'" in text for text in warned)

    def test_an_edited_loss_is_warned_of(self, resumed, caplog, monkeypatch):
        monkeypatch.setattr(small_net.weighted_loss, "__code__", plain_loss.__code__)
        resumed()
        assert any("objects.loss_code was" in record.getMessage() for record in caplog.records)


def test_the_range_of_the_values_belongs_to_the_images(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    config = config_for(tmp_path / "run", steps=5, resume="auto", data={**VALUES, "value_range": (1, 65535)})
    assert "data_fingerprint" in refusal(config=config, dataset=DATASET, network=new_network(), loss=weighted_loss)


def test_an_error_in_a_callback_ends_the_run_which_is_saved(tmp_path):
    config = config_for(tmp_path)
    config.checkpoint.every_steps = None
    with pytest.raises(RuntimeError, match="enough"):
        train(config, dataset=DATASET, network=new_network(), callbacks=[Raise()])
    assert list(RunFolder(tmp_path).checkpoints()) == [2]


class Untitled:
    pass


class Misnamed(Callback):
    def on_steps(self, event):
        pass


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return plain_loss(inputs) * self.weight


class Unregistered(SmallNet):
    def __init__(self, extra):
        super().__init__(num_class_embeds=4)
        self.more = nn.Linear(extra, 1)


class Tied(SmallNet):
    def __init__(self, **arguments):
        super().__init__(num_class_embeds=4)
        self.again = self.last


class Wrong(SmallNet):
    def forward(self, *args, **kwargs):
        raise KeyError("no")


class Half(SmallNet):
    def forward(self, sample, *args, **kwargs):
        return super().forward(sample[..., :4], *args, **kwargs)


def class_conditional(value: bool) -> dict:
    return {"data": {**VALUES, "class_conditional": value}}


REFUSED = {
    "network: a class": ({"network": SmallNet}, {}, "network is a SmallNet: give an object of it"),
    "network: a module": ({"network": nn.Linear(1, 1)}, {}, "network is a Linear: make it a ModelMixin and ConfigMixin"),
    "network: a preset": (
        {}, {"model": ModelConfig(preset="digits8")}, "--model.preset is 'digits8': leave it out, as train()",
    ),
    "network: not from its config": ({"network": Unregistered(3)}, {}, "Unregistered cannot be built again from its config"),
    "network: a number": ({}, {"data": {**VALUES, "condition": "number"}}, "which takes classes"),
    "network: half": ({"network": SmallNet(num_class_embeds=4).half()}, {}, "SmallNet has weights that are not float32"),
    "network: tied weights": ({"network": Tied()}, {}, "Tied has one tensor under two names"),
    "network: an error": (
        {"network": Wrong(num_class_embeds=4)}, {}, "cannot be called like a UNet2DModel (KeyError: 'no')",
    ),
    "network: a shape": (
        {"network": Half(num_class_embeds=4)}, {}, "Half returns (1, 1, 8, 4) for one image, it must be (1, 1",
    ),
    "network: classes": (
        {"network": SmallNet()}, {}, "has num_class_embeds 11, but the images have 3 classes and the null label",
    ),
    "network: no classes": ({"network": SmallNet(num_class_embeds=None)}, {}, "build it with num_class_embeds=4, or give"),
    "network: too many": ({}, class_conditional(False), "num_class_embeds 4, but the images have no classes"),
    "network: variance": (
        {}, {"schedule": ScheduleConfig(variance_type="learned_range")}, "with variance_type 'learned_range' needs 2",
    ),
    "network: a size": ({}, {"data": {**VALUES, "image_size": 16}}, "--data.image_size is 16: SmallNet takes 8, leave it"),
    "dataset: a source": (
        {}, {"data": {**VALUES, "source": "digits"}}, "--data.source is 'digits': leave it out, as train()",
    ),
    "dataset: a stream": ({}, {"data": {**VALUES, "streaming": True}}, "--data.streaming is True: leave it out, as train()"),
    "dataset: no network": (
        {"network": None}, {}, "--model.preset is None: name a network for these images, such as mnist28",
    ),
    "loss: a type": ({"loss": nn.MSELoss}, {}, "give a function of LossInputs"),
    "loss: parameters": ({"loss": Weighted()}, {}, "Weighted has parameters, which are neither trained nor saved"),
    "loss: an option": (
        {"loss": plain_loss}, {"objective": ObjectiveConfig(loss="l1")}, "--objective.loss is 'l1': leave it out",
    ),
    "loss: one number": (
        {"loss": lambda inputs: plain_loss(inputs).mean()}, {}, "returned () float32, give the loss of each image, (8,)",
    ),
    "loss: no tensor": (
        {"loss": lambda inputs: 1.0}, {}, "loss: it returned float, give the loss of each image, (8,) float32",
    ),
    "loss: no gradient": ({"loss": lambda inputs: inputs.snr}, {}, "loss: it returned numbers without a gradient"),
    "callbacks: a class": ({"callbacks": [Note]}, {}, "callbacks: Note is a class, give an object of it, Note()"),
    "callbacks: no method": (
        {"callbacks": [Untitled()]}, {}, "Untitled has none of the methods on_step, on_preview, on_checkpoint",
    ),
    "callbacks: a typo": ({"callbacks": [Misnamed()]}, {}, "Misnamed.on_steps would never be called, name it on_step"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(name, tmp_path):
    objects, options, message = REFUSED[name]
    given = {"dataset": DATASET, "network": new_network(), **objects}
    assert message in refusal(config=config_for(tmp_path, **options), **given)
    assert not (tmp_path / "config.yaml").exists() or name.startswith("loss: "), "before anything is written"


def test_options_of_such_a_run_need_its_objects(tmp_path):
    config = config_for(tmp_path, data={**VALUES, "source": GIVEN_IN_PYTHON}, model=ModelConfig(preset=GIVEN_IN_PYTHON))
    assert "--data.source is 'given in Python': give train() the images" in refusal(config=config, network=new_network())
    assert "--model.preset is 'given in Python': give train() the network" in refusal(config=config, dataset=DATASET)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": 1.0}, "'loss' is what a run logs itself"),
        ({"a": torch.ones(1)}, "give a finite number"),
        ({"a": float("nan")}, "give a finite number"),
    ],
)
def test_only_numbers_of_its_own_are_logged(values, message, tmp_path):
    class Log:
        def on_step(self, event):
            event.log(**values)

    config = config_for(tmp_path, steps=1)
    assert message in refusal(config=config, dataset=DATASET, network=new_network(), callbacks=[Log()])
