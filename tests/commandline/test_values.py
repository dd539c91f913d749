"""Values are read by the types of the options, from the command line and from a recipe alike; text stays as written."""

import pytest

from hf_ddpm.cli import dump_config, parse_config
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.experiments.options import SweepConfig
from hf_ddpm.figures.forward import ForwardConfig
from hf_ddpm.figures.schedules import SchedulesConfig
from hf_ddpm.training.options import TrainConfig

RUN = ["--output_dir=a", "--max_train_steps=1"]


@pytest.fixture
def labels(tmp_path):
    """The labels that words after --data.labels mean, or that stand in a recipe."""

    def read(*words: str, recipe: str | None = None) -> list[str | int] | None:
        (tmp_path / "recipe.yaml").write_text("{}" if recipe is None else f"data:\n  labels: {recipe}\n")
        options = ["--data.labels", *words] if words else []
        return parse_config(TrainConfig, ["--config", str(tmp_path / "recipe.yaml"), *RUN, *options]).data.labels

    return read


@pytest.fixture
def mistake(capsys):
    def run(*args: str, config_class: type = TrainConfig) -> str:
        with pytest.raises(SystemExit) as stopped:
            parse_config(config_class, [*RUN, *args])
        out, err = capsys.readouterr()
        assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    return run


AS_WRITTEN = ["no", "on", "Yes", "007", "0x10", "1e3", "1_000", "1.50", "true", "2024-01-01", "1:30", "cat"]


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_names_of_classes_stay_as_written(labels, name):
    for read in (labels(name), labels(f"[{name}]"), labels(recipe=name)):
        assert read == [name]
    assert labels(name, "dog") == labels(f"[{name}, dog]") == labels(recipe=f"[{name}, dog]") == [name, "dog"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["3", "7"], [3, 7]),
        (["[3, 7]"], [3, 7]),
        (["[3,", "7]"], [3, 7]),  # the brackets without quotes, as a shell splits them
        (["-1"], [-1]),
        (["[]"], None),
        (["['3', 7]"], ["3", 7]),
        (["sea lion", "a, b"], ["sea lion", "a, b"]),
        (["[null]"], ["null"]),
        (["cat", "null"], ["cat", "null"]),
        (["null"], None),
        (["None"], None),
    ],
)
def test_a_list_is_one_word_or_several_or_in_brackets(labels, mistake, words, value):
    if words == ["[]"]:
        assert "name at least one class" in mistake("--data.labels", *words)
    else:
        assert labels(*words) == value


@pytest.mark.parametrize("words", [["5", "10"], ["5,10"], ["[5, 10]"], ["5,", "10"]])
def test_numbers_may_have_commas_between_them(words):
    config = parse_config(SweepConfig, ["--model=m", "--features=inception", "--output_dir=a", "--grid.num_images", *words])
    assert config.grid.num_images == [5, 10]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["28"], 28),
        (["28", "--data.image_size", "24"], 24),
        (["48", "32"], (48, 32)),
        (["48,32"], (48, 32)),
        (["[48, 32]"], (48, 32)),
        (["28", "28"], 28),
        (["null"], None),
    ],
)
def test_a_size_is_one_number_or_two(tmp_path, words, size):
    options = ["--data.source=digits", "--output=a"]
    config = parse_config(ForwardConfig, [*options, "--data.image_size", *words])
    assert config.data.image_size == size
    (tmp_path / "a.yaml").write_text(dump_config(config))
    assert parse_config(ForwardConfig, ["--config", str(tmp_path / "a.yaml")]) == config


def test_choices_may_have_commas_between_them():
    config = parse_config(SchedulesConfig, ["--schedules", "linear,cosine", "--output", "a"])
    assert config.schedules == ["linear", "cosine"]


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_every_option_that_takes_text_keeps_it(tmp_path, name):
    """A folder, a split and a column whose names YAML would read as something else; in a printed recipe, too."""
    options = [f"--output_dir={name}", "--data.train_split", name, "--data.image_column", name, "--max_train_steps=1"]
    (tmp_path / "a.yaml").write_text(f"output_dir: {name}\ndata: {{train_split: {name}, image_column: {name}}}\n")
    config = parse_config(TrainConfig, options)
    assert (config.output_dir, config.data.train_split, config.data.image_column) == (name, name, name)
    assert parse_config(TrainConfig, ["--config", str(tmp_path / "a.yaml"), "--max_train_steps=1"]) == config
    config.data.labels = [name, 7]
    (tmp_path / "b.yaml").write_text(dump_config(config))
    assert parse_config(TrainConfig, ["--config", str(tmp_path / "b.yaml")]) == config


def test_lists_of_paths_and_names_on_the_axes_of_a_sweep_stay_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "007").write_text("max_train_steps: 1\n")
    options = ["--features=inception", "--output_dir", "1e3", "--grid.recipe", "007", "--grid.scheduler", "no"]
    config = parse_config(SweepConfig, options)
    assert [str(config.output_dir), *map(str, config.grid.recipe), *config.grid.scheduler] == ["1e3", "007", "no"]
    config = parse_config(SweepConfig, ["--model=m", *options[:3], "--grid.checkpoint", "5", "noise"])
    assert config.grid.checkpoint == [5, "noise"]


def test_numbers_are_decimal():
    assert parse_config(TrainConfig, [*RUN, "--seed", "010"]).seed == 10
    config = parse_config(TrainConfig, [*RUN, "--optim.learning_rate", "1e-4", "--optim.betas", "0.5", "0.9"])
    assert (config.optim.learning_rate, config.optim.betas) == (1e-4, (0.5, 0.9))
    assert type(parse_config(TrainConfig, [*RUN, "--optim.weight_decay", "1"]).optim.weight_decay) is float


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--seed", "0x10"], "--seed is 0x10: expected int"),
        (["--seed", "1", "2"], "--seed takes one value, but 2 are given (1, 2)"),
        (["--data.source", "my", "folder"], "put a value with spaces in quotes"),
        (["--data.source", "a", "recipe.yaml"], "a recipe is given as --config recipe.yaml"),
        (["--data.channels", "17"], "--data.channels is 17: give 1 (gray), 3 (RGB) or another number up to 16"),
        (["--data.image_size", "0", "8"], "--data.image_size is (0, 8): give a number of pixels above 0"),
        (["--data.image_size", "8", "8", "3"], "expected int or tuple of int, int or null"),
        (["--data.labels", "[a, b"], "neither"),
        (["--data.labels", "[a: b]"], "--data.labels is [{'a': 'b'}]: expected list of str or int or null"),
        (["--data.labels"], "--data.labels needs a value"),
        (["--data.batch_size="], "--data.batch_size is '': expected int"),
        (["--objective.loss", "L2"], "did you mean l2?"),
        (["--optim.lr_scheduler", "cosin"], "did you mean cosine?"),
        (["--logging.trackers", "tensorbord", "wandb"], "did you mean tensorboard?"),
        (["--optim.betas", "0.5"], "--optim.betas is [0.5]: expected tuple of float, float"),
        (["--model.overrides.dropout", "no"], "--model.overrides.dropout is no: write true or false"),
        (["--model.overrides", "{dropout: [007]}"], "--model.overrides.dropout is 007: write"),
        (["--model.overrides", "3"], "--model.overrides is 3: expected dict or null"),
        (["--data.labels", "cat", "--data.labels", "dog"], "--data.labels is given twice: give all its values after one"),
    ],
)  # fmt: skip
def test_mistakes(mistake, args, words):
    if words == "neither":  # brackets that do not close are a name
        assert parse_config(TrainConfig, [*RUN, *args]).data.labels == ["[a, b"]
    else:
        assert words in mistake(*args)


def test_of_an_option_given_twice_the_last_one_counts():
    assert parse_config(TrainConfig, [*RUN, "--seed", "1", "--seed=2"]).seed == 2
    assert parse_config(TrainConfig, [*RUN, "--data.labels", "cat", "--data.labels=[dog]"]).data.labels == ["dog"]


def test_a_word_before_every_option_is_explained(capsys):
    for word, words in (("digits.yaml", "a recipe is given as --config digits.yaml"), ("digits", "options begin with --")):
        with pytest.raises(SystemExit):
            parse_config(TrainConfig, [word, *RUN])
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_and_nothing_in_a_recipe(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"model: m\nfeatures: inception\noutput: a.json\ndata:\n  test_split: {text}\n")
    assert parse_config(EvaluationConfig, ["--config", str(tmp_path / "a.yaml")]).data.test_split is None


def test_merged_keys_of_yaml_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("optim: &o {lr_warmup_steps: 7}\nema: {power: 0.5}\ndata: {batch_size: 9}\n")
    assert parse_config(TrainConfig, ["--config", str(tmp_path / "a.yaml"), *RUN]).optim.lr_warmup_steps == 7
