"""Every recipe and every command of the READMEs is understood by the program it is written for."""

import ast
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from diffusers import DDPMScheduler

from hf_ddpm import cli
from hf_ddpm.commandline.commands import COMMANDS
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted((ROOT / "hf_ddpm" / "programs").glob("[!_]*.py"))
RECIPES = sorted((ROOT / "train_scripts" / "recipes").glob("*.yaml"))
STARTS = re.compile(r"train_scripts/\w+\.py\b|(?:\bhf-ddpm|-m hf_ddpm) [a-z]")
"""What starts a program: a script, or a command."""
LAUNCHERS = ("hf-ddpm", "python", "python3", "accelerate", "torchrun")
SYSTEMS = (
    "digits", "mnist_cpu", "ho2020_cifar10", "judge_digits", "judge_mnist", "judge_cifar10", "a_cifar100", "a_mnist",
    "a_mnist_class_map", "a_cifar100_cfg", "b_mnist", "b_cifar10", "b_mnist_cfg", "b_cifar10_cfg", "c_cats_3xblocks",
    "c_cats_2xud", "c_cats_2xud_half", "c_cats_conv", "c_cats_3xblocks_cosine", "c_cats_2xud_cosine", "c_cats_t500",
    "c_cats_t1500", "c_cats_frogs_cfg", "c_gan_cats", "c_gan_cats_smoothed", "c_gan_cats_frogs", "d_tiny_imagenet",
    "e_fashion_mnist", "e_fashion_mnist_cosine", "e_mnist32", "e_mnist32_cosine", "e_cars128",
)  # fmt: skip
"""Recipes of published systems, and what measures them."""
SHELL = {"|", ">", ">>", "2>", "2>&1", "<", "&"}


def header(recipe: Path) -> str:
    """The comment lines that a recipe begins with."""
    return re.match(r"(?:#.*\n)*", recipe.read_text(encoding="utf-8"))[0]


def header_commands(recipe: Path) -> list[list[str]]:
    """Words of every command in backquotes in the header that starts a program."""
    text = re.sub(r"\\?\n#", " ", header(recipe))
    quoted = [_words(part) for part in re.findall(r"`([^`]+)`", text) if STARTS.search(part)]
    return [words for words in quoted if Path(words[0]).name in LAUNCHERS]


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """The program that a command starts, and its options."""
    for position, word in enumerate(words):
        if re.fullmatch(r"train_scripts/\w+\.py", word):
            assert (ROOT / word).is_file()
            return Path(word).stem, words[position + 1 :]
        if Path(word).name == "hf-ddpm" or words[max(position - 1, 0) : position + 1] == ["-m", "hf_ddpm"]:
            return COMMANDS[words[position + 1]].program, words[position + 2 :]
    raise AssertionError(words)


def commands(markdown: str) -> list[list[str]]:
    """Words of every command in the fenced blocks that starts a program."""
    found = []
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for part in re.split(r"&&|;", line.removeprefix("$ ")):
                if STARTS.search(part):
                    found.append(_words(part))
    return [words for words in found if words and Path(words[0]).name in LAUNCHERS]


def _words(part: str) -> list[str]:
    words = shlex.split(part, comments=True)
    while words and re.match(r"\w+=", words[0]):  # variables of the environment
        words = words[1:]
    ends = [position for position, word in enumerate(words) if word in SHELL]
    return words[: ends[0]] if ends else words


@pytest.fixture
def understood(load_script, capsys, tmp_path, monkeypatch):
    """Let a program parse a command line, from a folder where nothing but the programs is."""
    (tmp_path / "train_scripts").symlink_to(ROOT / "train_scripts")
    monkeypatch.chdir(tmp_path)

    def parse(script: str, args: list[str]) -> dict:
        with pytest.raises(SystemExit) as stopped:
            load_script(script).main([*args, "--print_config"])
        out, err = capsys.readouterr()
        assert stopped.value.code == 0, err
        assert [file.name for file in tmp_path.iterdir() if file.name != "datasets_cache"] == ["train_scripts"]
        return yaml.safe_load(out)

    return parse


def readme_commands() -> list[list[str]]:
    """Words of each command of the READMEs, once each."""
    readmes = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted((ROOT / "hf_ddpm").glob("*/README.md"))]
    found = [words for readme in readmes for words in commands(readme.read_text(encoding="utf-8"))]
    return [words for position, words in enumerate(found) if words not in found[:position]]


# Recipes


def test_every_published_system_has_its_recipes():
    assert set(SYSTEMS) <= {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_header_says_what_was_measured(recipe):
    text = header(recipe)
    assert len(text.lstrip("# ")) > 20
    assert ("\n# Measured on " in text) != ("\n# Not measured here" in text)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_parses(understood, recipe):
    """By the program that it names, and what it prints does not name it."""
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))["program"]
    assert cli.recipe_program(recipe) == written
    assert "program" not in understood(written, ["--config", str(recipe), "--output_dir", "runs/new"])


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if header_commands(recipe)], ids=lambda recipe: recipe.stem)
def test_the_commands_of_a_header_parse(understood, recipe):
    """And those that train are of this recipe, under its name; a teacher is trained by another one."""
    own = cli.recipe_program(recipe)
    for words in header_commands(recipe):
        program, args = program_of(words)
        options = understood(program, args)
        if program == "distill":
            assert recipe.stem in args
        elif program.startswith("train") and own != "distill":
            assert program == own
            assert recipe.stem in args and options["output_dir"] == f"runs/{recipe.stem}"


@pytest.mark.parametrize("name", [name for name in SYSTEMS if re.match(r"[abcde]_", name)])
def test_the_header_of_a_long_run_shows_one_of_minutes(name):
    recipe = ROOT / "train_scripts" / "recipes" / f"{name}.yaml"
    assert re.search(r"\n# On a CPU, in minutes:\n# `hf-ddpm [a-z]+ --config ", header(recipe))
    assert any("--max_train_steps" in words for words in header_commands(recipe))


# README


def test_the_readme_shows_how_to_train_and_how_to_sample():
    shown = {program_of(words)[0] for words in readme_commands()}
    assert {"train", "sample"} <= shown


@pytest.fixture(scope="module")
def untrained_mnist(tmp_path_factory) -> str:
    """The folder of a pipeline with the network and the classes of MNIST."""
    unet = build_unet(unet_arguments("mnist28", num_class_embeds=11))
    pipeline = CFGDDPMPipeline(unet, DDPMScheduler(), id2label=dict(enumerate("0123456789")), null_label=10)
    pipeline.save_pretrained(folder := tmp_path_factory.mktemp("mnist"))
    return str(folder)


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_a_command_of_the_readme_parses(understood, untrained_mnist, words):
    program, options = program_of(words)
    if "--model.init_from" in options:  # read with the options
        place = options.index("--model.init_from") + 1
        options = [*options[:place], untrained_mnist, *options[place + 1 :]]
    understood(program, options)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_the_commands_in_the_docstring_of_a_program_parse(understood, program):
    """Those that are written out, and need no files of an earlier one."""
    docstring = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8")))
    words = commands(f"```\n{textwrap.dedent(docstring)}\n```")
    shown = [command for command in words if "..." not in command and "--resume" not in command]
    assert shown
    for command in shown:
        if "page.md" not in " ".join(command):
            understood(*program_of(command))


def test_commands_are_found_in_fenced_blocks():
    markdown = """
Run `python train_scripts/train.py --ignored`, or python train_scripts/train.py --ignored too:

```bash
# python train_scripts/train.py --commented_out
pip install -e . && OMP_NUM_THREADS=1 python train_scripts/train.py \\
    --config a.yaml --data.labels '[3, 7]'   # a minute
torchrun --nproc_per_node 2 train_scripts/train.py --seed 1 > log.txt
$ accelerate launch train_scripts/sample.py --model a && ls train_scripts/train.py
hf-ddpm --help
hf-ddpm train --config a; torchrun -m hf_ddpm sample --model a
```
"""
    assert commands(markdown) == [
        ["python", "train_scripts/train.py", "--config", "a.yaml", "--data.labels", "[3, 7]"],
        ["torchrun", "--nproc_per_node", "2", "train_scripts/train.py", "--seed", "1"],
        ["accelerate", "launch", "train_scripts/sample.py", "--model", "a"],
        ["hf-ddpm", "train", "--config", "a"],
        ["torchrun", "-m", "hf_ddpm", "sample", "--model", "a"],
    ]
    assert [program_of(words)[0] for words in commands(markdown)] == ["train", "train", "sample", "train", "sample"]
