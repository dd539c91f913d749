"""Strings that would break a card, or tell about the machine that it was made on."""

import math
import re

import pytest

from hf_ddpm.markdown import code, code_block, counted, escaped, mean_with_error, number, table, value_text, without_paths

HOSTILE = "a|b\n\n---\n<script>alert(1)</script> [x](http://e.vil) **b** `c` # {{ 7 * 7 }} \u202e\\"


def test_escaped_text_is_one_line_without_html_links_or_unescaped_marks():
    text = escaped(HOSTILE)
    assert "\n" not in text
    assert "<" not in text
    assert "\u202e" not in text
    assert re.findall(r"(?<!\\)(?:\\\\)*[|`*\[\]#{}]", text) == []
    assert escaped("great dane") == "great dane"


@pytest.mark.parametrize("value", [HOSTILE, "`", "``", "|", "plain", 3, None])
def test_a_row_of_a_table_keeps_its_number_of_cells(value):
    lines = table(("a", "b", "c"), [(escaped(value), code(value), str(value).partition("\n")[0])]).splitlines()
    assert len(lines) == 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}


def test_numbers():
    assert [number(0.123456), number(1234.5, 6), number(None)] == ["0.1235", "1234.5", ""]
    assert [value_text(value) for value in (1437, 1.50, "ddim", None)] == ["1,437", "1.5", "ddim", ""]
    assert [counted(1, "seed"), counted(3, "seed"), counted(2, "class", "classes")] == ["1 seed", "3 seeds", "2 classes"]


@pytest.mark.parametrize(
    ("mean", "stderr", "text"),
    [
        (0.123456, 0.0123, "0.12 ± 0.01"),
        (2.0, 0.034, "2.00 ± 0.03"),
        (2.48, 0.096, "2.5 ± 0.1"),
        (0.9999, 0.4, "1.0 ± 0.4"),
        (7.4, 9.6, "10 ± 10"),
        (12_345.0, 321.0, "12300 ± 300"),
        (-0.0545, 0.0033, "-0.054 ± 0.003"),
        (0.0, 0.002, "0.000 ± 0.002"),
        (2.0, None, "2"),
        (1.0, 0.0, "1 ± 0"),
        (0.123456, 1e-17, "0.1235 ± 1e-17"),
        (2.5, math.nan, "2.5 ± nan"),
        (math.inf, 0.1, "inf ± 0.1"),
    ],
)
def test_a_mean_is_rounded_to_the_first_digit_of_its_error(mean, stderr, text):
    assert mean_with_error(mean, stderr) == text


def test_inline_code_is_fenced_by_more_backticks_than_it_holds():
    assert code("a") == "`a`"
    assert code("a``b") == "``` a``b ```"


def test_a_block_is_not_closed_by_its_content():
    lines = code_block("x\n````\ny", "yaml").splitlines()
    assert lines[0] == "`````yaml"
    assert lines[-1] == "`````"


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ("/home/ada/code/train.py", "train.py"),
        ("/home/ada/my pictures/", "my pictures"),
        ("--data.source=/home/ada/my pictures", "--data.source=my pictures"),
        ("judge:/home/ada/runs/judge", "judge:judge"),
        ("~/images", "images"),
        ("~ada/images", "images"),
        ("../shared/data/mnist", "mnist"),
        ("C:\\Users\\Ada\\mnist", "mnist"),
        ("\\\\server\\share\\mnist", "mnist"),
        ("python x.py --model /home/ada/runs/a --n 3", "python x.py --model a --n 3"),
        ("[/home/ada/a, '/home/ada/b']", "[a, 'b']"),
        ("/", "."),
        ("runs/digits", "runs/digits"),
        ("ylecun/mnist", "ylecun/mnist"),
        ("1/2 n/a and 3 / 4", "1/2 n/a and 3 / 4"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("--source=https://example.org/a --out /home/ada/b", "--source=https://example.org/a --out b"),
        ("--features judge:/home/me/judge --grid.recipe '[/a/b.yaml, /c.yaml]'",
         "--features judge:judge --grid.recipe '[b.yaml, c.yaml]'"),
        ("--train_overrides '{data: {source: /home/ada/cats}}'", "--train_overrides '{data: {source: cats}}'"),
        (["/a/b", {"k": ("/c/d", 5, None)}], ["b", {"k": ["d", 5, None]}]),
    ],
)  # fmt: skip
def test_paths_of_the_machine_are_cut_to_their_last_part(value, public):
    assert without_paths(value) == public
