"""Every number of the READMEs, the cards and the headers of the recipes is in a results file."""

import json
import re
from pathlib import Path

import pytest
from quoted_numbers import Record, missing, read_records, record_of

from hf_ddpm.commandline.recipes import load_recipe
from hf_ddpm.hub.card import card_files
from hf_ddpm.hub.facts import read_pipeline
from hf_ddpm.hub.seal import is_rendered
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.reading import read_json, read_yaml

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
RESULTS = CARDS / "results"
LEDGER = sorted(RESULTS.glob("*.yaml"))
PAGES = sorted(CARDS.glob("*/page.md"))
"""Templates of pages; what their expressions give is compared with results files in test_render_page.py."""
MODELS = sorted(path.parent for path in CARDS.glob("*/samples.png"))
"""Folders of rendered cards; the record of the run that a card is rendered from is beside it."""
GENERATED = [folder / "README.md" for folder in (*(page.parent for page in PAGES), *MODELS)]
FOLDERS = ("hf_ddpm", "train_scripts", "model_cards", "tests")
READMES = [ROOT / "README.md", *(path for name in FOLDERS for path in sorted((ROOT / name).rglob("README.md")))]
READMES = [path for path in READMES if path not in GENERATED]
RECIPES = sorted((ROOT / "train_scripts" / "recipes").glob("*.yaml"))
KEYS = {"what", "date", "machine", "commands", "values"}


def report(found) -> str:
    return "".join(f"\n{it}" for it in found)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_numbers_of_a_readme_are_in_results_files(readme):
    found = missing(readme.read_text(encoding="utf-8"), readme.parent)
    assert not found, report(found)


def header(recipe: Path) -> str:
    """The comment that a recipe begins with, as text."""
    lines = re.match(r"(?:#.*\n)*", recipe.read_text(encoding="utf-8"))[0].splitlines()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def records_of_recipe(recipe: Path) -> list[Record]:
    """What the header of a recipe may quote: its options, its network, and the reports of the systems that it names."""
    text = header(recipe)
    networks = [row for row in read_yaml(RESULTS / "networks.yaml")["values"] if row.get("recipe") == recipe.stem]
    reports = [row for row in read_yaml(RESULTS / "reports.yaml")["values"] if str(row["name"]) in text.replace("\n", " ")]
    return [record_of(value) for value in (str(load_recipe(recipe)), *networks, *reports)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_numbers_of_a_header_are_in_results_files(recipe):
    found = missing(header(recipe), ROOT, records_of_recipe(recipe))
    assert not found, report(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_the_handwritten_numbers_of_a_page_are_in_results_files(page):
    """They are settings, or from the reports."""
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    comparisons = [read_json(path) for path in sorted(page.parent.glob("*/comparison.json"))]
    settings = [
        {name: cell.get(name) for name in ("num_images", "num_inference_steps", "guidance_scale", "num_seeds")}
        for comparison in comparisons
        for cell in comparison["cells"]
    ]
    records = [
        *read_records(RESULTS / "reports.yaml"),
        *read_records(RESULTS / "two_standard_errors.yaml"),
        record_of(settings),
    ]
    found = missing(text, page.parent, records)
    assert not found, report(found)


@pytest.mark.parametrize(
    "folder", [folder for folder in MODELS if RunFolder(folder).config.is_file()], ids=lambda path: path.name
)
def test_the_numbers_of_a_card_are_in_the_files_beside_it(folder):
    card, run = (folder / "README.md").read_text(encoding="utf-8"), RunFolder(folder)
    assert is_rendered(card), "changed after it was rendered"
    parameters = None
    if (folder / "model_index.json").exists():
        assert card_files(folder, folder)["README.md"].decode() == card, "hf-ddpm write-card renders another card"
        parameters = read_pipeline(folder).parameters
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    grid, networks = read_json(run.grid_settings), read_yaml(RESULTS / "networks.yaml")["values"]
    rows = len(grid["class_labels"])
    beside = [read_yaml(run.config), *map(read_json, sorted(folder.rglob("*.json"))), *lines]
    beside += [row for row in networks if row.get("recipe") == folder.name]
    counts = record_of([f"{rows} classes, seeds to {rows * grid['columns'] - 1}", parameters])
    found = missing(card, folder, [record_of(value) + counts for value in beside])
    assert not found, report(found)


@pytest.mark.parametrize("path", LEDGER, ids=lambda path: path.stem)
def test_a_results_file_says_where_its_numbers_come_from(path):
    content = read_yaml(path)
    assert content.keys() >= KEYS and all(content[key] for key in KEYS)
    assert isinstance(content["commands"], list) and isinstance(content["values"], list)
    named = re.compile(rf'(results/|RESULTS / "){re.escape(path.name)}')
    readers = [*READMES, *RECIPES, Path(__file__)]
    assert any(named.search(reader.read_text(encoding="utf-8")) for reader in readers), "no text quotes it"


WRITTEN = """
what: 3 seeds of 500 images
commands: [hf-ddpm evaluate --sampling.num_inference_steps 20]
values:
  - {model: a, time: 1 min 42 s, accuracy: 99.97 ± 0.03 %, distance: 1.404 ± 0.068, parameters: 702753}
  - {model: b, time: 17.4 ms, accuracy: 99.44 %, distance: 0.329, images: "1,437"}
"""
PROGRAM = """
{"metrics": {"fd_judge": {"mean": 2.4812, "stderr": 0.0551}}, "floor": {"class_accuracy": 0.992}, "seconds": 75.2}
"""


@pytest.fixture
def numbers_of(tmp_path):
    """What is missing of a text whose first section links two results files."""
    (tmp_path / "a.yaml").write_text(WRITTEN, encoding="utf-8")
    (tmp_path / "b.json").write_text(PROGRAM, encoding="utf-8")

    def found(text: str) -> list[str]:
        text = f"[results](a.yaml), [also](b.json)\n\n{text}\n"
        return [it.number for it in missing(text, tmp_path)]

    return found


@pytest.mark.parametrize(
    ("right", "wrong", "number"),
    [
        ("it took 1 min 42 s", "it took 1 min 43 s", "1 min 43 s"),
        ("it took 102 seconds", "it took 103 seconds", "103 seconds"),
        ("it took 1.7 min", "it took 1.8 min", "1.8 min"),
        ("in 17 ms", "in 18 ms", "18 ms"),
        ("in 17 ms", "in 17 s", "17 s"),
        ("99.97 ± 0.03 %", "99.98 ± 0.03 %", "99.98 ± 0.03 %"),
        ("99.97\n± 0.03 %", "99.97\n± 0.04 %", "99.97 ± 0.04 %"),
        ("1.40 +- 0.07", "1.41 +- 0.07", "1.41 +- 0.07"),
        ("the error is 0.03 %", "the error is 0.04 %", "0.04 %"),
        ("99.4 %, 99 %", "99.5 %, 99 %", "99.5 %"),
        ("0.70 M parameters", "0.71 M parameters", "0.71 M"),
        ("1,437 images", "1,438 images", "1,438"),
        ("3 seeds x 500 images, 20 steps", "3 seeds x 500 images, 25 steps", "25"),
        ("2.48 ± 0.06, real images 99.2 %", "2.49 ± 0.06, real images 99.2 %", "2.49 ± 0.06"),
        ("75 s in all", "76 s in all", "76 s"),
        ("| a | 1.404 ± 0.068 | 1 min 42 s |", "| a | 0.329 | 1 min 42 s |", "0.329"),
        ("| b | 99.44 % |", "| b | 1.404 ± 0.068 |", "1.404 ± 0.068"),
        ("28 x 28, AVX-512, `9.9`, s = 8, 9.9, in 2020, 99.4 %", "28 x 28, 9.9, AVX-512", "9.9"),
    ],
)
def test_a_wrong_number_is_found(numbers_of, right, wrong, number):
    assert numbers_of(right) == []
    assert numbers_of(wrong) == [number]


def test_a_section_without_results_has_no_measured_number(numbers_of):
    text = "## Next\n\nexit code 2 after 20 steps\n\n| 1 | 2 |\n\n0.5, 20 %, 1,437 and 3 s, ![99.9](99.9.png) `7.5`\n"
    assert numbers_of(text) == ["0.5", "20 %", "1,437", "3 s"]


def test_a_message_says_where_to_add_a_number(tmp_path):
    (tmp_path / "a.yaml").write_text(WRITTEN, encoding="utf-8")
    text = "[a](a.yaml)\n\nit took 1 min 43 s\n\n| a | 1 min 42 s | 1.404 | 0.329 |\n\n## Next\n\n99.4 %\n"
    first, second, third = missing(text, tmp_path)
    assert str(first) == "line 3: 1 min 43 s is not in a.yaml: add it there with its command"
    assert str(second) == "line 5: 0.329 is in a.yaml, but not in one row with the other numbers of this line"
    assert str(third).startswith("line 9: 99.4 %: link the results file that has it")
