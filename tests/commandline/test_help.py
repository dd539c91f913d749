"""Help: what matters on two screens, everything on request, with the defaults that apply."""

import re
import sys
from pathlib import Path

import pytest

from hf_ddpm.cli import parse_config
from hf_ddpm.commandline.commands import PROGRAM_COMMANDS
from hf_ddpm.commandline.help import describe
from hf_ddpm.commandline.options import options_of
from hf_ddpm.editing.options import EDITS
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.experiments.tuning_options import TuneConfig
from hf_ddpm.figures.registry import FIGURES
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "train_scripts").glob("*.py"))
DIGITS = ["--config", str(ROOT / "train_scripts" / "recipes" / "digits.yaml")]
CONFIGS = [TrainConfig, DistillConfig, GANConfig, JudgeConfig, EvaluationConfig, SweepConfig, TuneConfig, *EDITS.values()]
CONFIGS += [kind for kind, _ in FIGURES.values()]


@pytest.fixture
def help_of(load_script, capsys):
    def run(script: str, *args: str) -> str:
        main = load_script(script).main
        try:
            main(list(args))
        except SystemExit as stopped:
            assert stopped.code == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.mark.parametrize(("columns", "most_lines", "way"), [(100, 50, "script"), (80, 60, "hf-ddpm")])
@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--seed=3", "--help"]])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_first_page_fits_two_screens(help_of, monkeypatch, script, args, columns, most_lines, way):
    monkeypatch.setenv("COLUMNS", str(columns))
    if "--seed=3" in args and script not in ("train", "sample"):
        args = ["--help"]
    argv, typed = ["/bin/hf-ddpm", PROGRAM_COMMANDS[script]], f"hf-ddpm {PROGRAM_COMMANDS[script]}"
    if way == "script":
        argv, typed = [f"train_scripts/{script}.py"], f"python train_scripts/{script}.py"
    monkeypatch.setattr(sys, "argv", argv)
    lines = help_of(script, *args).splitlines()
    assert len(lines) <= most_lines and max(map(len, lines)) <= 100
    assert any(line.strip().startswith(typed) for line in lines)
    assert way == "hf-ddpm" or "hf-ddpm" not in "".join(lines)
    text = "\n".join(lines)
    assert "CONFIG" not in text and "Union" not in text and "default: null" not in text and "type:" not in text


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_has_its_page(help_of, monkeypatch, figure):
    monkeypatch.setenv("COLUMNS", "100")
    lines = help_of("figures", figure, "--help").splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 100 and any("--output PATH" in line for line in lines)


def test_help_all_lists_every_option(help_of):
    page = help_of("train", "--help", "all")
    assert all(re.search(rf"^  --{re.escape(name)}\b", page, re.MULTILINE) for name in options_of(TrainConfig))
    assert page == help_of("train", "--help=all")


def test_a_group_and_an_option_have_pages(help_of):
    group = help_of("train", "--help", "ema")
    assert group.startswith("Moving average") and "--ema.power X" in group and "--data" not in group
    assert help_of("train", "--help", "data.labels").startswith("  --data.labels NAME ...")


def test_an_unknown_topic_is_answered(load_script, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_script("train").main(["--help", "datas"])
    assert stopped.value.code == 2 and "did you mean --help data or" in capsys.readouterr().err


def test_defaults_are_those_that_apply(help_of):
    plain, with_recipe = help_of("train", "--help", "all"), help_of("train", *DIGITS, "--data.batch_size=7", "--help", "all")
    flat, flat_recipe = (" ".join(page.split()) for page in (plain, with_recipe))
    assert "Images per process and micro-step. [128]" in flat and "Images per process and micro-step. [7]" in flat_recipe
    assert "Peak learning rate. [0.001]" in flat and "Peak learning rate. [0.002]" in flat_recipe
    assert "default: no held-out loss." in flat and "null = no held-out loss. [test]" in flat_recipe
    assert "default: 0.1 for a conditional model" in flat


def test_none_is_explained_wherever_it_is_the_default():
    for config_class in CONFIGS:
        for name, option in options_of(config_class).items():
            if (
                option.default is None
                and not name.startswith("grid.")
                and "required" not in (text := describe(option, config_class))
            ):
                assert re.search(r"\b[dD]efault: \S", text), (config_class, name)


def test_main_options_exist_and_required_ones_are_among_them():
    from dataclasses import MISSING

    for config_class in CONFIGS:
        options = options_of(config_class)
        main = getattr(config_class, "main_options", tuple(options))
        assert set(main) <= set(options)
        assert {name for name, option in options.items() if option.default is MISSING} <= set(main)


@pytest.mark.parametrize("script", ["train", "distill", "train_gan", "train_judge", "sample", "evaluate_model", "sweep"])
def test_a_program_alone_says_what_it_needs_with_an_example(load_script, capsys, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        load_script(script).main([])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1
    assert f"required, as in: hf-ddpm {PROGRAM_COMMANDS[script]} --" in err and "--" in err.partition("as in")[2]


def test_no_recipe_is_read_unless_it_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, ["--output_dir=a"])
    assert "neither is given, and no recipe with --config" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, ["--output_dir=a", "--max_train_steps=3", "--data.source=my/folder"])
    assert "--model.preset is None: name a network for these images" in capsys.readouterr().err
    assert parse_config(TrainConfig, ["--output_dir=a", "--max_train_steps=3"]).model.preset == "digits8"
