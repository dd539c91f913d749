"""Every recipe and every command of the README is understood by the program it is written for."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "train_scripts" / "recipes").glob("*.yaml"))
SCRIPT = re.compile(r"train_scripts/(\w+)\.py$")
LAUNCHERS = ("python", "python3", "accelerate", "torchrun")
SHELL = {"|", ">", ">>", "2>", "2>&1", "<", "&"}


def header(recipe: Path) -> str:
    """The comment lines that a recipe begins with."""
    return re.match(r"(?:#.*\n)*", recipe.read_text(encoding="utf-8"))[0]


def commands(markdown: str) -> list[list[str]]:
    """Words of every command in the fenced blocks that starts a program of train_scripts/."""
    found = []
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for part in re.split(r"&&|;", line.removeprefix("$ ")):
                if re.search(r"train_scripts/\w+\.py", part):
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
    readme = ROOT / "README.md"
    return commands(readme.read_text(encoding="utf-8")) if readme.exists() else []


# Recipes


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_begins_with_a_comment(recipe):
    assert len(header(recipe).lstrip("# ")) > 20


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_parses(understood, recipe):
    """The program is the one that the header comment names, train.py where it names none."""
    named = re.search(r"train_scripts/(\w+)\.py", header(recipe))
    script = named[1] if named else "train"
    understood(script, ["--config", str(recipe), "--output_dir", "runs/new"])


# README


def test_the_readme_shows_how_to_train_and_how_to_sample():
    shown = {match[1] for words in readme_commands() for word in words if (match := SCRIPT.search(word))}
    assert {"train", "sample"} <= shown


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_a_command_of_the_readme_parses(understood, words):
    position = next(position for position, word in enumerate(words) if SCRIPT.search(word))
    assert (ROOT / words[position]).is_file()
    understood(SCRIPT.search(words[position])[1], words[position + 1 :])


def test_commands_are_found_in_fenced_blocks():
    markdown = """
Run `python train_scripts/train.py --ignored`, or python train_scripts/train.py --ignored too:

```bash
# python train_scripts/train.py --commented_out
pip install -e . && OMP_NUM_THREADS=1 python train_scripts/train.py \\
    --config a.yaml --data.labels '[3, 7]'   # a minute
torchrun --nproc_per_node 2 train_scripts/train.py --seed 1 > log.txt
$ accelerate launch train_scripts/sample.py --model a && ls train_scripts/train.py
```
"""
    assert commands(markdown) == [
        ["python", "train_scripts/train.py", "--config", "a.yaml", "--data.labels", "[3, 7]"],
        ["torchrun", "--nproc_per_node", "2", "train_scripts/train.py", "--seed", "1"],
        ["accelerate", "launch", "train_scripts/sample.py", "--model", "a"],
    ]
