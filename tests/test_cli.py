"""A recipe and its overrides become a checked dataclass; a mistake is one line and exit code 2."""

import contextlib
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hf_ddpm.cli import PROGRAMS, dump_config, load_recipe, parse_config, recipe_program, user_errors
from hf_ddpm.commandline.help import describe
from hf_ddpm.commandline.options import options_of
from hf_ddpm.config import require
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig


@dataclass(kw_only=True)
class Oven:
    degrees: int = 180
    """Celsius."""
    fan: bool = False
    """Whether the air moves."""
    tuning: dict[str, Any] | None = None
    """Anything else; None = nothing."""


@dataclass(kw_only=True)
class Cake:
    """Bake a cake."""

    name: str
    """What it is called."""
    layers: int | None = 2
    """How many; None = flat."""
    sugar: float = 0.5
    """Share of sugar."""
    flavour: Literal["plain", "lemon"] = "plain"
    """Taste."""
    tins: list[int] = field(default_factory=list)
    """Sizes."""
    oven: Oven = field(default_factory=Oven)

    def __post_init__(self):
        if self.layers is not None and self.layers < 0:
            raise ValueError(f"--layers is {self.layers}: give 0 or more")


@pytest.fixture
def recipe(tmp_path):
    def write(text: str, name: str = "recipe.yaml") -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.fixture
def mistake(refusal_of):
    return lambda *args, config_class=Cake: refusal_of(config_class, *args)


# Precedence


def test_defaults_recipe_overrides(recipe):
    path = recipe("layers: 5\noven:\n  degrees: 200\n")
    cake = parse_config(Cake, ["--config", path, "--name", "a", "--oven.fan", "true"])
    assert cake == Cake(name="a", layers=5, oven=Oven(degrees=200, fan=True))
    assert isinstance(cake.oven, Oven)


def test_overrides_win_in_any_position(recipe):
    path = recipe("name: a\nlayers: 5\noven:\n  degrees: 200\n")
    override = ["--layers", "3", "--oven.degrees", "90"]
    for args in ([*override, "--config", path], ["--config", path, *override], [*override, f"--config={path}"]):
        assert parse_config(Cake, args) == Cake(name="a", layers=3, oven=Oven(degrees=90))


@pytest.mark.parametrize(
    ("args", "fan", "layers"),
    [
        (["--oven.fan"], True, 2),
        (["--oven.fan", "--layers=3"], True, 3),
        (["--oven.fan", "false", "--layers", "3"], False, 3),
        (["--oven.fan=true"], True, 2),
        (["--layers=3", "--oven.fan"], True, 3),
    ],
)
def test_a_flag_is_switched_on_by_its_name(args, fan, layers):
    cake = parse_config(Cake, ["--name=tart", *args])
    assert (cake.oven.fan, cake.layers) == (fan, layers)


def test_optional_flags_are_switched_on_by_name_too():
    options = ["--output_dir=a", "--max_train_steps=1", "--hub.push_to_hub", "--hub.private", "--hub.repo_id=me/x"]
    config = parse_config(TrainConfig, options)
    assert config.hub.push_to_hub is True and config.hub.private is True


def test_null_is_none(recipe):
    assert parse_config(Cake, ["--name", "a", "--layers", "null"]).layers is None
    assert parse_config(Cake, ["--config", recipe("name: a\nlayers: null\n")]).layers is None


@pytest.mark.parametrize(
    ("text", "value"), [("0.1", 0.1), ("1e-3", 1e-3), ("3", 3), ("true", True), ("silu", "silu"), ("[32, 64]", [32, 64])]
)
def test_free_options_get_the_same_types_from_the_command_line_and_a_recipe(recipe, text, value):
    for args in (
        ["--name", "a", "--oven.tuning.x", text],
        ["--name", "a", "--oven.tuning", f"{{x: {text}}}"],
        ["--config", recipe(f"name: a\noven:\n  tuning:\n    x: {text}\n")],
    ):
        tuning = parse_config(Cake, args).oven.tuning
        assert tuning == {"x": value} and type(tuning["x"]) is type(value)


def test_numbers_may_be_written_in_scientific_notation_in_a_recipe(recipe):
    assert parse_config(Cake, ["--config", recipe("name: a\nsugar: 2e-3\n")]).sugar == 2e-3


# extends


def test_extends_merges_nested_keys(recipe):
    recipe("name: a\ntins: [1, 2]\noven:\n  degrees: 200\n  fan: true\n", "base.yaml")
    recipe("extends: base.yaml\nlayers: 4\n", "middle.yaml")
    path = recipe("extends: middle.yaml\ntins: [3]\noven:\n  degrees: 90\n")
    cake = parse_config(Cake, ["--config", path])
    assert cake == Cake(name="a", layers=4, tins=[3], oven=Oven(degrees=90, fan=True))


def test_extends_is_relative_to_the_recipe(recipe, tmp_path, monkeypatch):
    recipe("name: a\n", "base.yaml")
    recipe("extends: ../base.yaml\nlayers: 4\n", "folder/child.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(Path("../folder/child.yaml")) == {"name": "a", "layers": 4}


@pytest.mark.parametrize("names", [["a.yaml"], ["a.yaml", "b.yaml"], ["a.yaml", "b.yaml", "c.yaml"]])
def test_cycles_are_refused(recipe, mistake, names):
    for name, parent in zip(names, [*names[1:], names[0]], strict=True):
        path = recipe(f"name: a\nextends: {parent}\n", name)
    assert "remove the cycle" in mistake("--config", path)


def test_missing_parent_is_named(recipe, mistake):
    assert "gone.yaml: No such file" in mistake("--config", recipe("extends: gone.yaml\n"))


# program


def test_a_recipe_of_another_program_is_refused_with_the_command_to_use(recipe, mistake):
    path = recipe("program: train_gan\nmodel:\n  latent_dim: 8\n")
    message = mistake("--config", path, config_class=TrainConfig)
    assert f"--config {path}: this is a recipe of train_gan, run hf-ddpm gan --config {path}" in message
    assert "this is a recipe of train_gan" in mistake("--name=a", "--config", path)


def test_a_recipe_without_a_program_works_with_any(recipe):
    path = recipe("max_train_steps: 3\noutput_dir: a\n")
    assert recipe_program(path) is None
    for config_class in (TrainConfig, GANConfig):
        assert parse_config(config_class, ["--config", path, "--data.image_size=8"]).max_train_steps == 3


def test_the_program_is_inherited_and_is_not_an_option(recipe):
    recipe("program: train_gan\nmax_train_steps: 3\n", "base.yaml")
    path = recipe("extends: base.yaml\nseed: 4\n")
    assert recipe_program(path) == "train_gan" and load_recipe(path) == {"max_train_steps": 3, "seed": 4}
    recipe("seed: 5\n", "silent.yaml")
    assert recipe_program(recipe("extends: silent.yaml\nprogram: train\n")) == "train"


def test_a_recipe_cannot_extend_one_of_another_program(recipe, mistake):
    recipe("program: train_gan\n", "base.yaml")
    message = mistake("--config", recipe("extends: base.yaml\nprogram: train\n"))
    assert "its program is train, but base.yaml is a recipe of train_gan" in message


@pytest.mark.parametrize("program", ["bake", "[train]", "3"])
def test_unknown_programs_are_refused(recipe, mistake, program):
    message = mistake("--name=a", "--config", recipe(f"program: {program}\n"))
    assert "`program` is" in message and "train, distill, train_gan, train_judge" in message


def test_every_program_has_its_options():
    assert sorted(kind.program for kind in (TrainConfig, DistillConfig, GANConfig, JudgeConfig)) == sorted(PROGRAMS)


# Mistakes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--colour", "red"], ["unknown option --colour"]),
        (["--oven.colour", "red"], ["unknown option --oven.colour"]),
        (["--oven.fan", "true", "stray"], ["--oven.fan takes one value, but 2 are given (true, stray)", "in quotes"]),
        (["--layer", "3"], ["unknown option --layer"]),
        (["--sugar", "much"], ["--sugar", "float", "much"]),
        (["--oven.degrees", "1.5"], ["--oven.degrees", "int", "1.5"]),
        (["--flavour", "mint"], ["--flavour", "plain", "lemon", "mint"]),
        (["--layers", "-1"], ["--layers is -1: give 0 or more"]),
        (["--sugar"], ["--sugar needs a value"]),
        (["--config"], ["--config", "give the path"]),
        (["--config", "gone.yaml"], ["--config gone.yaml", "No such file"]),
        (["--config", "a.yaml", "--config", "b.yaml"], ["--config is given twice", "extends"]),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(mistake, args, words):
    message = mistake("--name", "a", *args)
    assert all(word in message for word in words)


def test_missing_required_option_is_named(mistake):
    assert "--name is required" in mistake()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour: red\n", "unknown option colour"),
        ("oven:\n  colour: red\n", "colour"),
        ("sugar: much\n", "--sugar"),
        ("a: [1, 2\nb: {", "not readable as YAML"),
        ("\t- a", "not readable as YAML"),
        ("- a\n- b\n", "not a YAML mapping"),
        ("", "not a YAML mapping"),
    ],
)
def test_mistakes_in_a_recipe_name_the_file(recipe, mistake, text, words):
    path = recipe(text)
    message = mistake("--name", "a", "--config", path)
    assert f"--config {path}" in message and words in message


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11))
INLINE_BOMB = f"{{{BOMB.strip().replace(chr(10), ', ')}}}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"name: a\noven:\n  tuning: {INLINE_BOMB}", "where an alias repeats it"),
        ("name: a\nlayers: 1\nlayers: 2\n", "'layers' twice, in line 3"),
        ("name: a\ntins: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("name: !!python/object/apply:os.system [ls]", "the tag !!python"),
    ],
)
def test_what_a_recipe_and_a_value_on_the_command_line_may_not_hold(recipe, mistake, text, words):
    assert words in mistake("--config", recipe(text))
    assert words in mistake("--config", recipe("extends: recipe.yaml", "child.yaml"))
    value = text.partition("tuning: ")[2] or "{" + text.replace("\n", ", ").rstrip(", ") + "}"
    for args in (["--oven.tuning", value], [f"--oven.tuning={value}"]):
        message = mistake("--name", "a", *args)
        assert message.split(": ")[1].startswith("--oven.tuning") and words.partition(", in")[0] in message


def test_single_anchors_may_be_used(recipe):
    text = "name: &n lemon\nflavour: *n\noven: {tuning: {a: &a [1, 2], b: *a}}"
    config = parse_config(Cake, ["--config", recipe(text)])
    assert (config.name, config.flavour, config.oven.tuning) == ("lemon", "lemon", {"a": [1, 2], "b": [1, 2]})


def test_unknown_keys_in_a_parent_name_the_recipe(recipe, mistake):
    recipe("colour: red\n", "base.yaml")
    path = recipe("extends: base.yaml\n")
    assert f"--config {path}" in mistake("--name", "a", "--config", path)


def test_a_folder_is_not_a_recipe(mistake, tmp_path):
    assert "Is a directory" in mistake("--config", str(tmp_path))


def test_mistakes_are_reported_before_the_config_is_printed(mistake):
    mistake("--name", "a", "--layers", "-1", "--print_config")


# Exits


def test_print_config_reloads_to_an_equal_config_and_creates_nothing(recipe, capsys, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    path = recipe("name: a\noven:\n  tuning: {rate: 0.1, sizes: [1, 2], deep: {open: true}}\n")
    args = ["--config", path, "--sugar", "1e-5", "--layers", "null"]
    with pytest.raises(SystemExit) as stopped:
        parse_config(Cake, [*args, "--print_config"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, err) == (0, "")
    printed = recipe(out, "printed.yaml")
    assert parse_config(Cake, ["--config", printed]) == parse_config(Cake, args)
    assert list(Path().iterdir()) == []


def test_dumped_training_options_reload_to_equal_ones(recipe):
    config = TrainConfig(output_dir="runs/a", num_train_epochs=3)
    config.data.labels = ["3", "seven"]
    config.objective.snr_gamma, config.objective.loss_weighting = 5.0, "min_snr"
    config.logging.trackers = ["tensorboard"]
    again = parse_config(TrainConfig, ["--config", recipe(dump_config(config))])
    assert again == config and asdict(again) == asdict(config)


@pytest.mark.parametrize("config_class", [Cake, TrainConfig])
def test_help_lists_the_options(capsys, config_class):
    with pytest.raises(SystemExit) as stopped:
        parse_config(config_class, ["--help"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, err) == (0, "")
    assert "--config" in out and ("Celsius" in out or "Run folder" in out)


@pytest.mark.parametrize("config_class", [TrainConfig, GANConfig, JudgeConfig, EvaluationConfig, SweepConfig])
def test_every_option_has_a_help_text(config_class):
    texts = {name: describe(option, config_class) for name, option in options_of(config_class).items()}
    assert len(texts) > 20 and [name for name, text in texts.items() if not text.split("[")[0]] == []


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("HF_DDPM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="--layers is -1"):
        parse_config(Cake, ["--name", "a", "--layers", "-1"])


def test_an_interrupt_is_one_line_and_exit_code_130(capsys):
    with pytest.raises(SystemExit) as stopped, user_errors():
        raise KeyboardInterrupt("stopped at\nstep 3")
    assert stopped.value.code == 130
    assert capsys.readouterr().err.endswith(": stopped at step 3\n")


def test_sigterm_is_one_line_and_exit_code_143_and_its_handler_is_restored(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, user_errors():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143
    assert capsys.readouterr().err.endswith(": interrupted\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), user_errors():
        raise ZeroDivisionError


# Groups


def test_a_group_left_empty_is_named(recipe, mistake):
    assert "--oven is None: it is a group" in mistake("--config", recipe("name: x\noven:\n"))


@pytest.mark.parametrize("args", [["--oven=3"], ["--oven", "3"], ["--config", "three.yaml"]])
def test_a_group_that_is_a_number_is_named(recipe, mistake, monkeypatch, tmp_path, args):
    recipe("oven: 3\n", "three.yaml")
    monkeypatch.chdir(tmp_path)
    assert "--oven is 3: it is a group, give its options, such as --oven.degrees" in mistake("--name=x", *args)


def test_a_recipe_cannot_have_the_key_config(recipe, mistake):
    other = recipe("name: y\n", "other.yaml")
    assert "cannot have the key `config`" in mistake("--config", recipe(f"name: x\nconfig: {other}\n"))


def test_a_diverged_run_is_one_line_and_another_exit_code(capsys):
    with pytest.raises(SystemExit) as stopped, user_errors(Cake):
        raise FloatingPointError("step 3: the loss is nan")
    assert stopped.value.code == 1
    assert capsys.readouterr().err.endswith("step 3: the loss is nan\n")


# Mistakes and bugs


def require_in_a_with_block() -> None:
    with contextlib.suppress(KeyError):
        require(False, "sugar", 3, "give less")


def raise_from_another() -> None:
    raise_in(
        "hf_ddpm.bakery", "try:\n    int('x')\nexcept ValueError as error:\n    raise ValueError('give a number') from error"
    )


def raise_in(module: str, code: str) -> None:
    """Run code as if it were that of a module."""
    exec(compile(code, f"<{module}>", "exec"), {"__name__": module, "np": np, "torch": torch})


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (lambda: require(False, "sugar", 3, "give less"), 2),
        (require_in_a_with_block, 2),
        (raise_from_another, 2),
        (lambda: raise_in("hf_ddpm.bakery", "raise ValueError('give less')"), 2),
        (lambda: raise_in("__main__", "raise FloatingPointError('the dough is nan')"), 1),
        (lambda: raise_in("huggingface_hub.names", "raise ValueError('no such name')"), 2),
        (lambda: raise_in("hf_ddpm.bakery", "open('/no/such/folder/file')"), 1),
        (lambda: raise_in("elsewhere", "raise OSError('no space left on device')"), 1),
    ],
)
def test_what_was_raised_on_purpose_is_one_line(capsys, run, code):
    with pytest.raises(SystemExit) as stopped, user_errors():
        run()
    assert stopped.value.code == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "code",
    [
        "np.zeros(3) + np.zeros(4)",  # an operator
        "np.zeros(3).reshape(2, 2)",  # a call that Python code does not see
        "int('x')",
        "[].index(3)",
        "a, b = [1]",
        "torch.nn.functional.pad(torch.zeros(2), (1, 1), mode='bogus')",
        "with np.errstate(all='raise'):\n    np.zeros(1) / 0",
    ],
)
@pytest.mark.parametrize("module", ["hf_ddpm.bakery", "__main__", "elsewhere"])
def test_a_bug_keeps_its_traceback_and_says_so(capsys, module, code):
    with pytest.raises((ValueError, FloatingPointError, NotImplementedError)) as raised, user_errors():
        raise_in(module, code)
    if not isinstance(raised.value, NotImplementedError):
        (note,) = raised.value.__notes__
        assert "bug in hf_ddpm" in note
    assert capsys.readouterr().err == ""


def test_a_planted_bug_ends_a_program_with_its_traceback(tmp_path):
    program = """
import numpy as np, sys
from hf_ddpm.config import BaseConfig
from hf_ddpm.cli import parse_config
from hf_ddpm.config import require
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.training.options import TrainConfig
import hf_ddpm.training.options as options

options.unet_arguments = lambda *args, **kwargs: np.zeros(3) + np.zeros(4)
parse_config(TrainConfig, ["--max_train_steps=1", "--output_dir=new"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("Traceback") and "could not be broadcast" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("This is a bug in hf_ddpm")


def test_an_argument_in_a_message_is_shown_as_the_option_of_its_name(capsys):
    with pytest.raises(SystemExit), user_errors(Cake):
        raise ValueError("`degrees` is -5: give `tuning.fan_speed` or `name`, but no `salt`")
    error = "--oven.degrees is -5: give --oven.tuning.fan_speed or --name, but no `salt`"
    assert capsys.readouterr().err.endswith(f": {error}\n")


@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", 130), ("Stopped(15)", 143), ("Stopped(2, 'saved')", 130)])
def test_an_interruption_outside_the_reported_part_is_one_line(error, code):
    """As while a program imports its modules, or between two parts."""
    program = f"import hf_ddpm.cli; from hf_ddpm.runtime.signals import Stopped; raise {error}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "saved" if "saved" in error else "interrupted"
    assert (done.returncode, done.stderr) == (code, f"-c: {said}\n")


def test_other_errors_there_keep_their_traceback():
    done = subprocess.run([sys.executable, "-c", "import hf_ddpm.cli; 1 / 0"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
