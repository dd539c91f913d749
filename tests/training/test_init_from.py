"""A run that starts from a trained model: its weights, its classes by name, its schedule, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file, save_file

from hf_ddpm.cli import parse_config
from hf_ddpm.config import ObjectiveConfig, ScheduleConfig
from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.models.base_model import read_base_model
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.training.base_options import changed_target, take_over
from hf_ddpm.training.init_from import check_base_model, start_from
from hf_ddpm.training.loop import train, training_task
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.task import set_up

WEIGHTS = "diffusion_pytorch_model.safetensors"
PETS = ["cat", "dog", "frog"]  # of `tiny_pipeline`
LINEAR = {"beta_schedule": "linear", "beta_end": 0.03, "num_train_timesteps": 500}
RUN = ["--data.batch_size=8", "--num_threads=1", "--mixed_precision=fp32", "--logging.sample_every_steps=null"]


def config_of(model: Path, *options: str) -> TrainConfig:
    given = ["--max_train_steps=2", "--output_dir=runs/a", f"--model.init_from={model}", *options]
    return parse_config(TrainConfig, given)


def draw(pipeline: CFGDDPMPipeline, *labels: str) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(labels))]
    options = {"guidance_scale": 2.0, "num_inference_steps": 2, "output_type": "np"}
    return pipeline(list(labels), generator=generators, **options).images


def saved(network, folder: Path, scheduler=None, pipeline_class=DDPMPipeline) -> Path:
    pipeline_class(network, scheduler or DDPMScheduler(**LINEAR)).save_pretrained(folder)
    return folder


@pytest.fixture
def pets(tiny_pipeline, tmp_path) -> Path:
    """The saved pipeline of three classes and a null label."""
    tiny_pipeline(DDPMScheduler(**LINEAR)).save_pretrained(tmp_path / "pets")
    return tmp_path / "pets"


# Weights


def test_a_run_starts_as_the_model_with_its_classes_by_name(tiny_run, tmp_path, capsys):
    options = [*RUN, "--data.source=digits", "--data.labels", "7", "3", f"--output_dir={tmp_path / 'run'}"]
    config = config_of(tiny_run / "pipeline", *options)
    run, state = set_up(config, training_task(config), init_distributed(1))
    run.batches.close()
    base = CFGDDPMPipeline.from_pretrained(tiny_run / "pipeline")
    assert state.pipeline.id2label == {0: "7", 1: "3"}
    assert np.array_equal(draw(state.averaged_pipeline(), "3", "7", "7"), draw(base, "3", "7", "7"))
    trained, averaged = state.network.state_dict(), state.pipeline.unet.state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in averaged.items())
    assert f"start:    {tiny_run / 'pipeline'}: 2 of 2 classes by name; the null row\n" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_new_rows_begin_at_the_mean(pets, tiny_unet):
    rows = load_file(pets / "unet" / WEIGHTS)["class_embedding.weight"]
    network = tiny_unet(5, seed=1)
    said = start_from(network, read_base_model(str(pets)), ["owl", "frog", "cat", "ant"], 4, "learned")
    assert said == "2 of 4 classes by name, 2 new, which begin at the mean; the null row"
    mean = rows[:3].mean(dim=0)
    assert torch.equal(network.class_embedding.weight, torch.stack([mean, rows[2], rows[0], mean, rows[3]]))


def test_a_model_without_a_null_label_gains_one(tiny_pipeline, tiny_unet, tmp_path):
    tiny_pipeline(null=False).save_pretrained(tmp_path / "model")
    network = tiny_unet(4, seed=1)
    said = start_from(network, read_base_model(str(tmp_path / "model")), PETS, 3, "learned")
    assert said == "3 of 3 classes by name; a new null row, which begins at the mean"
    rows = load_file(tmp_path / "model" / "unet" / WEIGHTS)["class_embedding.weight"]
    assert torch.equal(network.class_embedding.weight, torch.cat([rows, rows.mean(dim=0, keepdim=True)]))


def test_names_are_compared_in_one_form_and_two_classes_of_one_name_are_none(tiny_pipeline, tiny_unet, tmp_path):
    tiny_pipeline(names=("e\u0301", "dog", "dog")).save_pretrained(tmp_path / "model")
    said = start_from(tiny_unet(3), read_base_model(str(tmp_path / "model")), ["\u00e9", "dog"], 2, "learned")
    assert said.startswith("1 of 2 classes by name, 1 new")


@pytest.mark.parametrize("architecture", ["unet", "conv_denoiser", "tiny_unet"])
def test_classes_are_gained_and_lost_without_another_output(tmp_path, architecture):
    def build(rows: int | None, null_label: int | None):
        overrides = {"block_out_channels": [8, 16], "norm_num_groups": 4}
        arguments = unet_arguments("digits8", overrides, num_class_embeds=rows, architecture=architecture)
        return build_unet(arguments, null_label=null_label, architecture=architecture).eval()

    torch.manual_seed(0)
    images, times = torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 9])
    plain, conditional, without = build(None, None), build(4, 3), build(None, None)
    with torch.no_grad():
        plain.save_pretrained(tmp_path / "plain")
        said = start_from(conditional, read_base_model(str(tmp_path / "plain")), PETS, 3, "learned")
        assert said == "3 classes and the null label are new: each begins as the model without classes"
        for label in range(4):
            labels = torch.full((3,), label)
            assert torch.equal(conditional(images, times, class_labels=labels).sample, plain(images, times).sample)

        conditional.class_embedding.weight.normal_()
        CFGDDPMPipeline(conditional, DDPMScheduler(), dict(enumerate(PETS)), 3).save_pretrained(tmp_path / "pets")
        start_from(without, read_base_model(str(tmp_path / "pets")), None, None, "learned")
        null = conditional(images, times, class_labels=torch.full((3,), 3)).sample
        torch.testing.assert_close(without(images, times).sample, null, rtol=0, atol=1e-4)


def test_a_class_map_network_starts_from_its_like(tmp_path):
    overrides = {"block_out_channels": [8, 16], "norm_num_groups": 4}
    arguments = unet_arguments("digits8", overrides, num_class_embeds=4, architecture="class_map_unet")
    network, other = (build_unet(arguments, architecture="class_map_unet").eval() for _ in range(2))
    CFGDDPMPipeline(network, DDPMScheduler(), dict(enumerate(PETS)), 3).save_pretrained(tmp_path)
    assert start_from(other, read_base_model(str(tmp_path)), PETS, 3, "learned").startswith("3 of 3")
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(SystemExit):
        config_of(tmp_path, "--model.architecture=class_map_unet", "--data.image_size=16")


def test_a_null_row_that_is_to_be_zero_must_be_zero(pets, tiny_pipeline, tiny_unet, tmp_path):
    tiny_pipeline(null=False).save_pretrained(tmp_path / "model")
    network = tiny_unet(4)
    assert start_from(network, read_base_model(str(tmp_path / "model")), PETS, 3, "zero").endswith("null row, which is 0")
    assert not network.class_embedding.weight[3].any() and network.class_embedding.weight[:3].any()
    base = read_base_model(str(pets))
    with pytest.raises(ValueError, match="^--model.null_embedding is 'zero': .* give learned"):
        start_from(tiny_unet(4), base, PETS, 3, "zero")


# Layouts


def flat(folder: Path) -> Path:
    """The layout of google/ddpm-cifar10-32: the files of the parts side by side, beside a pickle."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    return folder


def test_pipelines_of_diffusers_and_networks_alone(tiny_unet, tmp_path):
    network = tiny_unet(None)
    places = [
        saved(network, tmp_path / "ddpm"),
        saved(network, tmp_path / "ddim", DDIMScheduler(**LINEAR), DDIMPipeline),
        flat(saved(network, tmp_path / "flat")),
        tmp_path / "ddpm" / "unet",
    ]
    for place in places:
        config, other = config_of(place), tiny_unet(4, seed=1)
        assert config.network_arguments(num_class_embeds=4)["block_out_channels"] == [8, 16]
        is_alone = place.name == "unet"
        assert config.objective.prediction_type == ("v_prediction" if is_alone else "epsilon"), place
        schedule = {name: getattr(config.schedule, name) for name in LINEAR}
        assert is_alone or schedule == LINEAR, place
        check_base_model(config.base)
        start_from(other, config.base, PETS, 3, "learned")
        assert torch.equal(other.conv_in.weight, network.conv_in.weight)


def test_names_of_attention_layers_in_early_models(tiny_unet, tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    folder, network = saved(tiny_unet(None), tmp_path / "model"), tiny_unet(None, seed=1)
    tensors = load_file(folder / "unet" / WEIGHTS)
    renamed = {}
    for name, tensor in tensors.items():
        for new, early in old.items():
            name = name.replace(f".{new}.", f".{early}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "unet" / WEIGHTS)
    check_base_model(read_base_model(str(folder)))
    start_from(network, read_base_model(str(folder)), None, None, "learned")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())


# Schedule and prediction type


def test_the_schedule_is_taken_over_where_no_option_gives_another(pets):
    config = config_of(pets)
    assert config.objective.prediction_type == "epsilon"
    assert (config.schedule.beta_schedule, config.schedule.beta_range) == ("linear", (1e-4, 0.03))
    assert changed_target(config.base, config.schedule, config.objective) is None
    given = config_of(pets, "--objective.prediction_type=v_prediction", "--schedule.beta_schedule=cosine")
    assert (given.schedule.num_train_timesteps, given.schedule.beta_end) == (500, None)
    assert changed_target(given.base, given.schedule, given.objective) == (
        "prediction_type 'v_prediction' instead of 'epsilon', beta_schedule 'squaredcos_cap_v2' instead of 'linear'"
    )


def test_in_python_as_on_the_command_line(pets):
    objective = ObjectiveConfig(prediction_type="v_prediction")
    schedule, kept = take_over(read_base_model(str(pets)), ScheduleConfig(num_train_timesteps=500), objective)
    assert kept is objective
    assert schedule.beta_schedule == "linear"


def test_a_learned_variance_is_kept(tiny_unet, tmp_path):
    scheduler = DDPMScheduler(variance_type="learned_range")
    place = saved(tiny_unet(None, out_channels=2), tmp_path / "model", scheduler)
    config = config_of(place)
    assert config.schedule.variance_type == "learned_range"
    assert config.network_arguments()["out_channels"] == 2


def test_a_schedule_that_no_option_describes_has_to_be_replaced(tiny_unet, tmp_path, capsys):
    place = saved(tiny_unet(None), tmp_path / "model", DDPMScheduler(trained_betas=[0.1, 0.2]))
    with pytest.raises(SystemExit):
        config_of(place)
    assert "no option describes its betas, give the --schedule.beta_schedule that" in capsys.readouterr().err
    config_of(place, "--schedule.beta_schedule=cosine")


# Resuming


def hashes(checkpoint: Path) -> dict[str, str]:
    names = ("training/model.safetensors", "training/optimizer.safetensors", f"unet/{WEIGHTS}")
    return {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names}


def test_a_run_continues_bit_for_bit_without_the_model(some_digits, tiny_run, tmp_path, capsys, caplog):
    base = shutil.copytree(tiny_run / "pipeline", tmp_path / "base")
    options = [*RUN, some_digits, "--data.image_size=12", "--optim.lr_scheduler=constant"]
    train(config_of(base, *options, f"--output_dir={tmp_path / 'whole'}"))
    for steps in (1, 2):
        given = [*options, f"--output_dir={tmp_path / 'parts'}", f"--max_train_steps={steps}", "--resume=auto"]
        config = config_of(base, *given)
        assert config.base.is_checkpoint == (steps == 2)
        train(config)
        shutil.rmtree(base, ignore_errors=True)
    whole, parts = (RunFolder(tmp_path / name).last_checkpoint() for name in ("whole", "parts"))
    assert whole.name == parts.name == "step-00000002"
    assert hashes(whole) == hashes(parts)
    assert json.loads((parts / "training" / "state.json").read_text())["identity"]["model"]["init_from"] == str(base)
    assert RunFolder(tmp_path / "parts").read_options()["model"]["init_from"] == str(base)
    assert caplog.messages == []
    assert capsys.readouterr().out.count("start:  ") == 2
    with pytest.raises(ValueError, match="model.init_from was .* and is .*other"):
        train(
            config_of(
                tmp_path / "other", *options, f"--output_dir={tmp_path / 'parts'}", "--resume=auto", "--max_train_steps=3"
            )
        )


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.preset=digits8"],
            "--model.preset is 'digits8': the model of --model.init_from has block_out_channels [8, 16]",
        ),
        (["--model.overrides.layers_per_block=2"], "--model.overrides.layers_per_block is 2: "),
        (["--model.overrides.layers=2"], "--model.overrides.layers is 2: "),
        (["--model.architecture=tiny_unet"], "--model.architecture is 'tiny_unet': "),
        (["--data.channels=3"], "--data.channels is 3: the model of --model.init_from takes 1 channels"),
        (["--data.image_size=9"], "--data.image_size is 9: the model of --model.init_from halves images 1 times"),
        (["--schedule.variance_type=learned_range"], "--schedule.variance_type is 'learned_range': "),
    ],
)
def test_options_that_contradict_the_model(pets, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        config_of(pets, *options)
    lines = capsys.readouterr().err.splitlines()
    assert (stopped.value.code, len(lines)) == (2, 1)
    assert message in lines[0]


def test_what_has_no_weights_may_differ(pets):
    arguments = config_of(pets, "--model.overrides.dropout=0.3", "--data.image_size=16").network_arguments(image_size=16)
    assert (arguments["dropout"], arguments["sample_size"]) == (0.3, 16)


def change_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_other_models_are_refused_by_name(pets, tmp_path):
    DCGANPipeline(DCGANGenerator(8, 1, 4, 4)).save_pretrained(tmp_path / "gan")
    shutil.copytree(pets, tmp_path / "latent")
    change_json(tmp_path / "latent" / "model_index.json", vqvae=["diffusers", "VQModel"])
    shutil.copytree(pets, tmp_path / "sigmas")
    change_json(tmp_path / "sigmas" / "scheduler" / "scheduler_config.json", beta_schedule=None)
    shutil.copytree(pets, tmp_path / "text")
    change_json(tmp_path / "text" / "unet" / "config.json", _class_name="UNet2DConditionModel")
    shutil.copytree(pets, tmp_path / "timestep")
    change_json(tmp_path / "timestep" / "unet" / "config.json", class_embed_type="timestep")
    shutil.copytree(pets, tmp_path / "list")
    (tmp_path / "list" / "unet" / "config.json").write_text("[1]")
    (tmp_path / "empty").mkdir()
    reasons = {
        "gan": "give a pipeline of a unet and a scheduler, the parts of this one are: generator",
        "latent": "the parts of this one are: scheduler, unet, vqvae",
        "sigmas": "has no schedule of betas",
        "text": "its network is a UNet2DConditionModel",
        "timestep": "its classes have the embedding 'timestep'",
        "list": "its JSON files are not those of a saved model",
        "empty": "the folder has no model_index.json",
        "missing": "no such folder exists",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError) as refused:
            read_base_model(str(tmp_path / name))
        assert str(refused.value).startswith(f"init_from is {str(tmp_path / name)!r}: ")
        assert reason in str(refused.value)


def test_weights_that_cannot_be_taken_are_refused(pets, tmp_path, tiny_unet):
    for name in ("pickle", "nan", "shape"):
        shutil.copytree(pets, tmp_path / name)
    (tmp_path / "pickle" / "unet" / WEIGHTS).rename(tmp_path / "pickle" / "unet" / "diffusion_pytorch_model.bin")
    change_json(tmp_path / "shape" / "unet" / "config.json", block_out_channels=[8, 32])
    tensors = load_file(pets / "unet" / WEIGHTS)
    save_file(tensors | {"conv_in.bias": torch.full((8,), torch.nan)}, tmp_path / "nan" / "unet" / WEIGHTS)
    for name, reason in {"pickle": "no weights in the safetensors format", "shape": f"unet/{WEIGHTS}: the shape of"}.items():
        with pytest.raises(ValueError, match=reason) as refused:
            check_base_model(read_base_model(str(tmp_path / name)))
        assert str(refused.value).startswith(f"init_from is {str(tmp_path / name)!r}: ")
    with pytest.raises(ValueError, match=r"conv_in\.bias is 'NaN or infinite'"):
        start_from(tiny_unet(4), read_base_model(str(tmp_path / "nan")), PETS, 3, "learned")


def test_mistakes_come_before_the_run_folder(message_of, pets):
    assert "--model.init_from is 'missing': no such folder exists" in message_of("train", "--model.init_from=missing")
    (pets / "unet" / WEIGHTS).unlink()
    message = message_of("train", f"--model.init_from={pets}", "--model.preset=null")
    assert f"--model.init_from is {str(pets)!r}: it has no weights in the safetensors format" in message
