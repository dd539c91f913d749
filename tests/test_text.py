"""Names and messages that would control a terminal, and how they leave a program and enter pages and pictures."""

import io
import logging
import re
import sys

import numpy as np
import pytest
from tqdm import tqdm

from hf_ddpm.cli import MAX_MESSAGE, user_errors
from hf_ddpm.experiments.page import render
from hf_ddpm.figures.blocks import plain
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.measurements import plot_measurement
from hf_ddpm.markdown import code, code_block, escaped, table
from hf_ddpm.results import MetricValue, Results
from hf_ddpm.text import cleaned_output, one_line, printable

CLIPBOARD, RED, UP = "\x1b]52;c;cm0gLXJm\x07", "\x1b[31m", "\x1b[1A\x1b[2K"
HOSTILE = f"ca{RED}t{UP}{CLIPBOARD}\r\x9b5m\u202etac\u2066\x00\x7f"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("great dane", "great dane"),
        ("дог, 犬, 👩\u200d🚀, می\u200cخواهم", "дог, 犬, 👩\u200d🚀, می\u200cخواهم"),
        (" two\nlines\t\u2028of text\r\n", "two lines of text"),
        (RED + "red", "red"),
        (UP + "overwritten", "overwritten"),
        (CLIPBOARD, r"\x1b]52;c;cm0gLXJm\x07"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("caf\udce9", r"caf\udce9"),  # as Python decodes the name of a file that is not UTF-8
        (7, "7"),
    ],
)
def test_text_becomes_one_line_in_which_every_character_is_harmless(text, line):
    assert one_line(text) == line == one_line(line)
    line.encode()


def test_of_a_long_text_the_beginning_and_the_end_are_shown():
    text = one_line(f"the cause {'x' * 200_000} the remedy", 300)
    assert len(text) <= 305
    assert text.startswith("the cause xx") and text.endswith("xx the remedy")


def test_lines_and_tabs_stay_where_several_lines_are_shown():
    assert printable("a\n\tb\x0cc") == "a\n\tb\\x0cc"


WRITERS = {
    "escaped": escaped,
    "code": code,
    "code_block": lambda text: code_block(text, "yaml"),
    "table": lambda text: table([text], [[text]]),
    "plain": plain,
    "render": lambda text: render("{{ name }}", {"name": text}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_pages_and_figures_get_clean_text(write):
    text = write(HOSTILE)
    assert text.strip("`|\n").startswith(("cat", "yaml", " cat"))
    assert not UNSAFE.search(text)


def test_a_block_is_not_closed_by_what_cleaning_leaves():
    assert code_block("``\x1b[m`", "yaml").splitlines() == ["````yaml", "```", "````"]


def test_names_that_are_formulas_lines_or_very_long_do_not_break_pictures(tmp_path):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert image_grid(images, columns=1, row_names=["a" * 100_000, HOSTILE + "\nb"]).width < 1000
    results = Results(metrics={"fid": MetricValue(mean=1.0, stderr=None, n=1, values=[1.0])}, floor={"fid": 0.5}, ceiling={})
    for title in ("runs/$x_{$", HOSTILE):
        plot_measurement(results, tmp_path / "picture.png", title=title)
    assert (tmp_path / "picture.png").stat().st_size


def test_everything_that_a_program_prints_is_cleaned(capsys):
    with user_errors():
        print(f"pipeline: runs/{HOSTILE}")
        sys.stderr.writelines([f"another package: {HOSTILE}\n"])
        logging.getLogger("hf_ddpm").warning("%s", HOSTILE)
    with pytest.raises(SystemExit) as stopped, user_errors():
        raise OSError(f"class {HOSTILE} is unknown")
    assert stopped.value.code == 1
    for text in capsys.readouterr():
        assert text.count("ca") == text.count("tac") > 0
        assert not UNSAFE.search(text)


def test_errors_and_notices_are_cut(capsys):
    with pytest.raises(SystemExit), user_errors():
        logging.getLogger("hf_ddpm").warning("%s", "y" * 200_000)
        raise OSError("z" * 200_000)
    lines = capsys.readouterr().err.splitlines()
    assert [len(line) < MAX_MESSAGE + 100 for line in lines] == [True, True]


def test_progress_bars_still_move(monkeypatch):
    as_it_is, cleaned = io.StringIO(), io.StringIO()

    def draw(stream):
        for position in (0, 1):
            with tqdm(total=2, desc="outer", file=stream, position=position, mininterval=0) as bar:
                bar.update()

    draw(as_it_is)
    monkeypatch.setattr(sys, "stderr", cleaned)
    with cleaned_output():
        draw(sys.stderr)
    assert "\x1b[A" in cleaned.getvalue()
    moves = re.compile(r"[\r\n]|\x1b\[A")
    assert moves.findall(cleaned.getvalue()) == moves.findall(as_it_is.getvalue())


def test_a_terminal_without_the_characters_of_a_name_is_no_error(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with cleaned_output():
        print("class 犬")
        sys.stdout.flush()
    assert raw.getvalue() == b"class \\u72ac\n"
