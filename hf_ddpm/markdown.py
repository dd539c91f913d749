"""Write values as Markdown: tables, numbers with errors, and foreign strings, escaped and without paths."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hf_ddpm.text import one_line, printable

ROUNDING = 1e-9
"""Relative errors below are those of arithmetic."""
UNESCAPED_BAR = r"(?<!\\)\|"
_URL = r"[A-Za-z][A-Za-z0-9+.-]*://\S*"
# The start of an absolute path, of one in the home folder, or of one that leads out of the working folder.
_PATH_START = r"(?:~|/|\\\\|\.\.[/\\]|[A-Za-z]:[/\\])"


def escaped(text: Any) -> str:
    """Plain text for a paragraph or a cell: on one line, without HTML, links, emphasis or cell borders."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~:])", r"\\\1", html.escape(one_line(text), quote=False))


def code(value: Any) -> str:
    """A value as inline code, also within a cell of a table."""
    text = one_line(value).replace("|", r"\|")
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if len(ticks) > 1 else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def code_block(text: str, language: str) -> str:
    """A fenced block that the text cannot close."""
    text = printable(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown cells, every row as long as the header; a `|` that would end a cell is replaced."""
    lines = [f"| {' | '.join(re.sub(UNESCAPED_BAR, '&#124;', one_line(cell)) for cell in row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def number(value: float | None, digits: int = 4) -> str:
    """A measured value with this number of significant digits; "" for None."""
    return "" if value is None else f"{value:.{digits}g}"


def mean_with_error(mean: float, stderr: float | None) -> str:
    """A mean with its standard error, both rounded to the first digit of the error, as `0.43 ± 0.01`.

    Of a few values the error itself is known to about a half, so that more digits would say nothing. `stderr` None =
    unknown; the mean then has four digits, as with an error of 0, but for rounding, or one that is not finite.
    """
    if stderr is None:
        return number(mean)
    if not ROUNDING * abs(mean) < stderr < math.inf:
        return f"{number(mean)} ± {stderr:.1g}"
    error = f"{stderr:.0e}"  # 0.096 is 1e-01
    decimals = -int(error.partition("e")[2])
    return f"{round(mean, decimals):.{max(0, decimals)}f} ± {float(error):.{max(0, decimals)}f}"


def value_text(value: str | float | tuple[float, ...] | None) -> str:
    """An option or a count: `1,437`, `1.5`, `ddim`, `0.1 to 0.8`; "" for None."""
    if isinstance(value, tuple):
        return " to ".join(map(value_text, value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return value or ""


def interval_text(interval: Sequence[float]) -> str:
    """Where guidance acts: `for 0.2 <= t / T < 0.8`."""
    return "for {:g} <= t / T < {:g}".format(*interval)


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number of things: `1 seed`, `3 seeds`, `2 classes`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A time in seconds for a reader: `3 min 12 s`."""
    if seconds < 60:
        return f"{number(seconds, 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def python_literal(value: str | int) -> str:
    """A string or number as Python (and JSON) writes it, on one line and in ASCII."""
    return json.dumps(value)


def without_paths(value: Any) -> Any:
    """Replace each path of this machine in a string, list or dict by its last part; a relative path such as `a/b` stays."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    # `PATH`, `--option=PATH` or `judge:PATH`, where the path may contain spaces; then any within a text.
    if whole := re.fullmatch(rf"((?![A-Za-z]:[/\\])[\w.-]*[=:])?(?!//\w)({_PATH_START}.*)", value, re.DOTALL):
        return (whole[1] or "") + _last_part(whole[2])
    paths = rf"({_URL})|(?<![\w.~/\\-]){_PATH_START}[^\s,'\"\])]+"
    return re.sub(paths, lambda found: found[1] or _last_part(found[0]), value)


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "."


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
