"""A length on the command line, or in a recipe that extends another, replaces the one below it."""

import pytest

from hf_ddpm.cli import parse_config
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig


@pytest.fixture
def length(tmp_path):
    """The length of a run in steps and in epochs."""

    def read(*args: str, config_class: type = TrainConfig, **recipes: str) -> tuple[int | None, int | None]:
        for name, text in recipes.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        options = ["--config", str(tmp_path / f"{name}.yaml"), "--output_dir=a", "--data.image_size=8", *args]
        config = parse_config(config_class, options)
        return config.max_train_steps, config.num_train_epochs

    return read


@pytest.mark.parametrize("config_class", [TrainConfig, GANConfig, JudgeConfig])
def test_a_length_on_the_command_line_replaces_that_of_the_recipe(length, config_class):
    split = ["--data.test_split=test"] if config_class is JudgeConfig else []
    read = lambda *args, **recipes: length(*split, *args, config_class=config_class, **recipes)  # noqa: E731
    assert read("--num_train_epochs=3", a="max_train_steps: 9\n") == (None, 3)
    assert read("--max_train_steps=3", a="num_train_epochs: 9\n") == (3, None)
    assert read("--max_train_steps=3", a="max_train_steps: 9\n") == (3, None)
    assert read(a="max_train_steps: 9\n") == (9, None)
    assert read("--num_train_epochs=null", "--max_train_steps=4", a="num_train_epochs: 9\n") == (4, None)


def test_a_recipe_replaces_the_length_of_the_one_it_extends(length):
    base = "num_train_epochs: 9\n"
    assert length(base=base, child="extends: base.yaml\nmax_train_steps: 3\n") == (3, None)
    assert length("--num_train_epochs=2", base=base, child="extends: base.yaml\nmax_train_steps: 3\n") == (None, 2)


@pytest.mark.parametrize("args", [["--num_train_epochs=3", "--max_train_steps=3"], ["--num_train_epochs=null"]])
def test_two_lengths_of_one_origin_and_none_at_all_are_refused(length, capsys, args):
    with pytest.raises(SystemExit):
        length(*args, a="num_train_epochs: 9\n")
    assert "give exactly one of them" in capsys.readouterr().err


STEPS = "num_train_epochs: 9\noptim: {lr_scheduler: multistep, lr_gamma: 0.1, lr_milestones: [3, 6]}\n"


def test_milestones_in_the_other_unit_are_refused(length, capsys):
    with pytest.raises(SystemExit):
        length("--max_train_steps=300", a=STEPS)
    assert "--max_train_steps replaces --num_train_epochs: give --optim.lr_milestones in steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        length(a=STEPS, b="extends: a.yaml\nmax_train_steps: 300\n")
    assert "b.yaml: --max_train_steps replaces" in capsys.readouterr().err
    assert length("--max_train_steps=300", "--optim.lr_milestones", "100", "200", a=STEPS) == (300, None)
    assert length("--num_train_epochs=8", a=STEPS) == (None, 8)
