"""Comparisons as pages: the generated page, the expressions of a handwritten one, and refused expressions."""

import json
from dataclasses import replace

import pytest

from hf_ddpm.experiments.facts import ComparisonFacts
from hf_ddpm.experiments.page import Comparison, comparison_page, read_comparisons, render
from hf_ddpm.experiments.tables import varying_axes
from hf_ddpm.experiments.verdict import Verdict
from hf_ddpm.markdown import duration


def test_the_table_has_every_measurement_real_images_and_noise(facts_of):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in Comparison(facts_of()).table.splitlines()]
    assert lines[0] == ["recipe", "s (w = s - 1)", "parameters", "seconds per epoch", "network calls", "fd_judge", "recall"]
    costs = ["1.23 M", "4.79", "20"]
    assert lines[2:] == [
        ["unet", "1", *costs, "1.0 ± 0.1", "1.0 ± 0.1"], ["unet", "1.5", *costs, "1.5 ± 0.1", "1.5 ± 0.1"],
        ["gan", "", *costs, "9.0 ± 0.1", "9.0 ± 0.1"], ["real images (90)", *[""] * 4, "0.5", ""],
        ["uniform noise (100)", *[""] * 4, "300", ""],
    ]  # fmt: skip


def test_a_page_names_its_errors_and_the_cost_of_training(facts_of):
    page = comparison_page(facts_of())
    assert "One training run per recipe" in page and "over the sampling seeds" in page
    assert "| unet | 1,200 | 76,800 | 3 min 12 s | 0.25 |" in page
    assert "| gan | 1,200 | 76,800 | 3 min 12 s | d 1.2, g 0.9 |" in page
    assert "| cat | 2.0 ± 0.1 | 3.0 ± 0.1 | 18.0 ± 0.1 | 0.7 |" in page
    assert "minutes on this machine" not in page and "## Samples" in page and "## Classes" in page
    assert "as fit into 2.5 minutes on this machine" in comparison_page(facts_of(train_minutes=2.5))
    several = facts_of((0, 1))
    page = comparison_page(several)
    assert "2 trainings per recipe (seeds 0, 1): errors are standard errors over the trainings" in page
    assert "One training" not in page and "## Differences" in page
    without = [replace(cell, per_class={}) for cell in several.cells]
    assert "## Classes" not in comparison_page(facts_of((0, 1), cells=without))
    without = [replace(run, samples=None) for run in several.runs]
    assert "## Samples" not in comparison_page(facts_of((0, 1), runs=without))


@pytest.mark.parametrize(("counts", "text"), [([500], "500"), ([500, 1000], "500 and 1,000"), ([5, 8, 10], "5, 8 and 10")])
def test_numbers_of_images_are_listed(facts_of, counts, text):
    cells = [replace(cell, num_images=count) for count in counts for cell in facts_of().cells]
    assert f"3 sampling seeds of {text} images each" in Comparison(facts_of(cells=cells)).about


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_sampling_seed_has_no_errors(facts_of, seeds):
    page = comparison_page(facts_of(seeds, num_seeds=1))
    assert "1 sampling seed of 100 images" in page and "sampling seeds" not in page
    assert ("the numbers have no errors" in page) == (len(seeds) == 1)
    assert "no errors" not in comparison_page(facts_of(seeds))


def test_several_trainings_are_one_row_with_their_mean_and_the_error_over_them(facts_of):
    facts = facts_of((0, 1, 5))
    at_one = facts.means[0]
    assert (at_one.recipe, at_one.guidance_scale, at_one.train_seed) == ("unet", 1.0, "mean")
    for distance in (at_one.metrics["fd_judge"], at_one.per_class["cat"]["fd_judge"]):
        factor = distance.mean / 3
        assert distance.values == [1 * factor, 2 * factor, 6 * factor]
        assert distance.stderr == pytest.approx(factor * (7 / 3) ** 0.5)
    assert at_one.per_class["cat"]["fd_judge"].floor == 0.7
    assert len(facts.means) == 3 and facts_of().means == []
    assert varying_axes(facts.means) == ["recipe", "guidance_scale"]  # so that figures have one line per recipe
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in Comparison(facts).table.splitlines()]
    costs = ["1.23 M", "4.79", "20"]
    assert [line[:6] for line in lines[2:-2]] == [
        ["unet", "1", *costs, "3 ± 2"], ["unet", "1.5", *costs, "4 ± 2"], ["gan", "", *costs, "9 ± 0"],
    ]  # fmt: skip
    assert "| unet | 1,300 | 76,800 | 3 min 12 s | 0.25 ± 0 |" in Comparison(facts).training_table.splitlines()


def test_sample_grids_are_side_by_side_in_rows_of_about_equal_length(facts_of):
    run = facts_of().runs[0]
    runs = [replace(run, recipe=str(number)) for number in range(5)] + [replace(run, samples=None)]
    grids = Comparison(facts_of(runs=runs), "digits/").samples
    assert [block.splitlines()[0].count("|") - 1 for block in grids.split("\n\n")] == [3, 2]
    assert grids.count("(digits/comparison/unet-seed-0.png)") == 5
    assert Comparison(facts_of(runs=[])).samples == ""


def test_durations():
    assert [duration(seconds) for seconds in (0.456, 59.4, 60, 3599, 7380.0)] == [
        "0.456 s", "59.4 s", "1 min 0 s", "59 min 59 s", "2 h 3 min",
    ]  # fmt: skip


# Handwritten pages


@pytest.fixture
def names(facts_of) -> dict[str, Comparison]:
    """Two trainings of each recipe, three, and one."""
    seeds = {"ab": (0, 1), "abc": (0, 1, 5), "single": (0,)}
    return {name: Comparison(facts_of(its), f"{name}/") for name, its in seeds.items()}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('single.metric("gan", "fd_judge")', "9.0 ± 0.1"),
        ('ab.metric("unet", "fd_judge", train_seed=0, guidance_scale=1)', "1.0 ± 0.1"),
        ('ab.metric("unet", "fd_judge", guidance_scale=1.5)', "2.0 ± 0.5"),
        ('ab.metric("unet", "fd_judge", guidance_scale=1.50, train_seed=1)', "2.5 ± 0.1"),
        ('ab.metric("unet", "fd_judge", guidance_scale=1.5, train_seed="mean")', "2.0 ± 0.5"),
        ('single.metric("gan", "fd_judge", class_name="cat")', "18.0 ± 0.1"),
        ('ab.metric("unet", "fd_judge", guidance_scale=1, class_name="cat")', "3 ± 1"),
        ('ab.real("fd_judge")', "0.5"),
        ('ab.noise("fd_judge", num_images=100)', "300"),
        ('ab.run("unet", train_seed=1).steps', "1,300"),
        ('abc.run("unet").steps', "1,300"),
        ('single.run("unet").training_seconds', "3 min 12 s"),
        ('single.run("unet").parameters', "1.23 M"),
        ('single.run("gan").final_loss', "d 1.2, g 0.9"),
    ],
)
def test_an_expression_names_a_value(names, expression, value):
    assert render(f"a {{{{{expression}}}}} b {{{{  {expression}\n}}}}.", names) == f"a {value} b {value}."


def test_an_expression_names_a_table_or_how_it_was_measured(names):
    page = render("{{ab.table}}\n\n{{ab.training_table}}\n\n{{ab.class_table}}\n\n{{ab.samples}}\n\n{{ab.about}}\n", names)
    table, training, classes, grids, about = page.rstrip().split("\n\n")
    assert "| unet | 1.5 | 1.23 M | 4.79 | 20 | 2.0 ± 0.5 |" in table
    assert "| unet | 1,200 | 76,800 | 3 min 12 s | 0.25 ± 0 |" in training
    assert classes.splitlines()[2].startswith("| cat | 3 ± 1 |")
    assert "(ab/comparison/unet-seed-0.png)" in grids
    assert about.startswith("3 sampling seeds of 100 images each, compared with the train split of `digits` (1,437 images)")


def test_a_part_of_a_comparison_has_its_recipes_settings_and_costs(names):
    page = render('{% set part = abc.select("unet", guidance_scale=1) %}{{ part.about }}\n{{ part.table }}', names)
    assert "s = 1. 3 trainings" in page and "| unet | 1.23 M | 4.79 | 20 | 3 ± 2 | 3 ± 2 |" in page
    assert "gan" not in page and "1.5" not in page
    assert "| unet | 1,300 |" in names["abc"].select("unet").training_table
    assert names["abc"].select("gan", "unet").facts.recipes == ["gan", "unet"]
    single = names["abc"].select(train_seed=0)
    assert single.facts.train_seeds == [0] == list({run.train_seed for run in single.facts.runs})
    assert single.verdict("gan", {"recipe": "unet", "guidance_scale": 1}, "fd_judge").word == "undecided"
    assert names["abc"].select() == names["abc"] == names["abc"].select(num_images=100)


# Verdicts


@pytest.mark.parametrize(
    ("first", "second", "paired", "word", "text"),
    [
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], False, "lower", "**lower** by 1.00 ± 0.08"),
        ([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], False, "higher", "**higher** by 1.00 ± 0.08"),
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], False, "undecided", "**undecided** (1.0 ± 0.8 lower)"),
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.1], True, "lower", "**lower** by 1.03 ± 0.03"),
        ([0.0, 2.0], [0.0, 0.0], False, "undecided", "**undecided** (1 ± 1 higher)"),
        ([1.0, 1.0], [1.0, 1.0], True, "undecided", "**undecided** (no difference)"),
        ([1.0, 1.0], [0.5, 0.5], False, "higher", "**higher** by 0.5 ± 0"),
        ([1.0], [0.5], False, "undecided", "**undecided** (one training run each)"),
        ([1.0], [0.5], True, "undecided", "**undecided** (one training run each)"),
    ],
)
def test_only_a_difference_of_more_than_two_standard_errors_decides(first, second, paired, word, text):
    verdict = Verdict.between(first, second, paired=paired)
    assert (verdict.word, str(verdict)) == (word, text)


def test_two_standard_errors_do_not_decide():
    assert Verdict(difference=-0.2, stderr=0.1).word == "undecided"
    assert Verdict(difference=-0.2000001, stderr=0.1).word == "lower"


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (
            'single.verdict("gan", {"recipe": "unet", "guidance_scale": 1}, "fd_judge")',
            "**undecided** (one training run each)",
        ),
        ('abc.verdict({"recipe": "unet", "guidance_scale": 1}, "gan", "fd_judge")', "**lower** by 6 ± 2"),
        ('abc.verdict({"guidance_scale": 1}, {"guidance_scale": 1.5}, "fd_judge", recipe="unet")', "**lower** by 0.5 ± 0"),
        ('abc.verdict({"guidance_scale": 1.5}, "gan", "fd_judge", recipe="unet", class_name="cat")', "**lower** by 11 ± 3"),
        ('abc.verdict("gan", "gan", "fd_judge", train_seed=0)', "**undecided** (one training run each)"),
        ('abc.verdict("gan", "gan", "fd_judge").word', "undecided"),
    ],
)
def test_settings_of_one_recipe_are_compared_within_each_training(names, expression, text):
    assert render(f"{{{{ {expression} }}}}", names) == text


def test_a_table_of_verdicts_has_every_setting_that_the_baseline_has_too(facts_of):
    rows = [replace(row, recipe="other") for row in facts_of((0, 1)).cells if row.recipe == "unet"]
    both = Comparison(facts_of((0, 1), cells=[*facts_of((0, 1)).cells, *rows], recipes=["unet", "gan", "other"]))
    assert both.verdict_table("unet", "fd_judge").splitlines() == [
        "| against unet | s (w = s - 1) | fd_judge |", "|---|---|---|",
        "| other | 1 | **undecided** (no difference) |", "| other | 1.5 | **undecided** (no difference) |",
    ]  # fmt: skip
    assert both.verdict_table("gan", "fd_judge") == ""


def test_a_value_is_not_read_as_a_template(facts_of):
    command = "python train_scripts/sweep.py --train_overrides '{data: {source: {{x}}}}'"
    assert render("{{ ab.command }}", {"ab": Comparison(facts_of(command=command))}) == f"```bash\n{command}\n```"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ba.table", "'ba' is undefined"),
        ("ab.tabel", "no attribute 'tabel'"),
        ('single.run("gan").step', "no attribute 'step'"),
        ('single.metric("gam", "fd_judge")', "single/: 0 match recipe='gam', choose among recipe unet, gan"),
        ('single.metric("gan", "fd_juge")', "unknown name 'fd_juge', give one of fd_judge, recall"),
        ('single.metric("gan", "fd_judge", class_name="dog")', "unknown name 'dog', give one of cat"),
        (
            'single.metric("unet", "fd_judge", guidance_scale=2)',
            "0 match .*guidance_scale=2, .* guidance_scale 1.0, 1.5",
        ),
        ('single.verdict("unet", "gam", "fd_judge")', "2 match recipe='unet', choose among guidance_scale 1.0, 1.5"),
        ('ab.verdict("gan", "gan", "fd_juge")', "unknown name 'fd_juge', give one of fd_judge, recall"),
        ('ab.select("unet", "gan", guidance_scale=1)', "0 match recipe='gan', guidance_scale=1, choose among"),
        ('single.metric("unet", "fd_judge", guidance=1.5)', "0 match recipe='unet', guidance=1.5, choose"),
        (
            'ab.run("unet", train_seed=4)',
            "0 match recipe='unet', train_seed=4, choose among .*; train_seed 0, 1",
        ),
        (
            'ab.metric("unet", "fd_judge")',
            "2 match recipe='unet', train_seed='mean', choose among guidance_scale 1.0, 1.5",
        ),
        ('ab.noise("recall")', "unknown name 'recall', give one of fd_judge"),
        ('ab.metric("gan")', "missing 1 required positional argument"),
        ("ab.table()", "not callable"),
        ("", "line 1: Expected an expression"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(names, expression, message):
    with pytest.raises(ValueError, match=message) as caught:
        render(f"text {{{{ {expression} }}}}", names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{{ab.table", "{{ {{ab.table}} }}"])
def test_an_expression_without_an_end_is_refused(names, text):
    with pytest.raises(ValueError, match="the template, line 1"):
        render(text, names)


def test_text_without_expressions_stays_as_it_is():
    text = "# A\n\n`{x}` \\1 \\g<0> { {a} } }}\n\n\n"
    assert render(text, {}) == text


def test_each_folder_with_facts_is_a_comparison(facts_of, tmp_path):
    text = facts_of((0, 1)).to_json()
    facts = ComparisonFacts.from_json(text)
    assert facts.to_json() == text
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "comparison.json").write_text(text)
    assert read_comparisons(tmp_path) == {name: Comparison(facts, f"{name}/") for name in ("one", "two")}
    earlier = json.dumps({**json.loads(text), "means": [{"recipe": "unet", "num_train_seeds": 2}]})
    assert ComparisonFacts.from_json(earlier) == facts
    missing = {name: value for name, value in json.loads(text).items() if name != "recipes"}
    for damaged in ('{"runs": [', "[1]", '{"runs": []}', json.dumps(missing)):
        (tmp_path / "three" / "comparison.json").write_text(damaged)
        with pytest.raises(ValueError, match="three/comparison.json is damaged"):
            read_comparisons(tmp_path)
