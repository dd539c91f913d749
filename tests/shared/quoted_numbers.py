"""Find the numbers of a text that no results file has: `missing(text, folder)`.

A number is looked for in the results files that its section, the text from one heading to the next, links. In such a
section each number must be in one of them: in its values, rounded to what is printed, its commands or its description.
Those of a table row must be in one row of a file, in that whose names are in the line if there are such names. In a
section without results files, no number may look measured: no decimal, no number with a unit or an error, none of 1,000
and more.

Not measured are code, addresses and comments, sizes (28 x 28, 16 bits), names (AVX-512, fp32), symbols (s = 1.5), years and
dates.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_ddpm.runtime.reading import read_json, read_yaml

UNITS = {
    "%": ("%", 1.0),
    "ms": ("s", 1e-3),
    "s": ("s", 1.0),
    "seconds": ("s", 1.0),
    "min": ("s", 60.0),
    "minutes": ("s", 60.0),
    "h": ("s", 3600.0),
    "hours": ("s", 3600.0),
    "kB": ("B", 1e3),
    "MB": ("B", 1e6),
    "GB": ("B", 1e9),
    "KiB": ("B", 2.0**10),
    "MiB": ("B", 2.0**20),
    "GiB": ("B", 2.0**30),
    "M": ("", 1e6),
    "million": ("", 1e6),
    "images/s": ("images/s", 1.0),
    "images per second": ("images/s", 1.0),
    "x": ("x", 1.0),
}
"""What a unit measures, and its size."""
_UNIT = "|".join(re.escape(unit) + (r"\b" if unit[-1].isalpha() else "") for unit in sorted(UNITS, key=len, reverse=True))
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_ALONE = r"(?<![\w./])(?<!\w-)(?<!--)(?<!\d,)"
QUANTITY = re.compile(
    rf"{_ALONE}(?P<number>{_NUMBER})(?![\w-]|\.\d|,\d)(?: (?:±|\+-) (?P<error>{_NUMBER}))?(?: ?(?P<unit>{_UNIT}))?"
)
DURATION = re.compile(rf"{_ALONE}(\d+) (h|min) (\d+) (min|s)\b")
NOT_MEASURED = [
    re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL),
    re.compile(r"!\[[^\]]*\]\([^)]*\)|(?<=\])\([^)]*\)|\w+://\S+"),
    re.compile(r"\b\d+\s+x\s+\d+(?:\s+x\s+\d+)?\b(?!,\d)|(?<![\d.,])\d+ bits?\b(?! per)"),
    re.compile(r"\b[A-Za-z]\s+=\s+[\d.,]*\d\b(?:(?:,| and| or| /)\s+[\d.]*\d\b)*"),
    re.compile(r"\b(?:19|20)\d\d\b"),
    re.compile(r"^ *\d+\. |\bsection [\d.]+|\barXiv:[\d.]+", re.MULTILINE),
]
"""What of a text is not measured, replaced by nothing that has digits."""
RESULTS_LINK = re.compile(r"(?<=\]\()[^)#\s]+\.(?:json|yaml)(?=\))|model_cards/results/[\w.-]+\.yaml")


@dataclass(frozen=True)
class Quantity:
    """A number as it is printed: `99.0 ± 0.4 %`, `1 min 42 s`, `2.74 M`."""

    text: str
    printed: float
    """The number without its unit; of a duration of two parts, the seconds."""
    value: float
    """With its unit: 2,740,000."""
    kind: str
    """What its unit measures, as `s`; "" = it has none."""
    tolerance: float
    """Half of the last digit, in the unit of `value`."""
    error: float | None = None
    """After ±, in the unit that is printed."""
    error_tolerance: float = 0.0

    @property
    def looks_measured(self) -> bool:
        return bool(self.kind) or self.error is not None or bool(re.search(r"[.,M]", self.text))

    def is_in(self, known: "Iterable[Quantity | float]") -> bool:
        return any(self._is(other) for other in known)

    def _is(self, other: "Quantity | float") -> bool:
        if not isinstance(other, Quantity):  # a number of a program, whose unit is that of its name
            return self.error is None and self._close(other * (100 if self.kind == "%" else 1))
        if self.error is not None and (other.error is None or not _near(self.error, other.error, self.error_tolerance)):
            return False
        if self.kind:
            return self.kind == other.kind and self._close(other.value, other.error if self.error is None else None)
        values = (other.value, other.printed) if self.text[-1] != "M" else (other.value,)
        return any(self._close(value, other.error if self.error is None else None) for value in values)

    def _close(self, value: float, error: float | None = None) -> bool:
        return any(_near(self.value, it, self.tolerance) for it in (value, error) if it is not None)


def _near(printed: float, exact: float, tolerance: float) -> bool:
    return abs(printed - exact) <= tolerance * (1 + 1e-6) + 1e-12


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text, whatever they are."""
    found = []
    for match in DURATION.finditer(text):
        large, small = UNITS[match[2]][1], UNITS[match[4]][1]
        seconds = int(match[1]) * large + int(match[3]) * small
        found.append(Quantity(match[0], seconds, seconds, "s", small / 2))
    text = DURATION.sub(lambda match: "_" * len(match[0]), text)
    for match in QUANTITY.finditer(text):
        kind, size = UNITS.get(match["unit"], ("", 1.0))
        printed, half = _parse(match["number"])
        if not kind and len(match["number"]) == 1:
            half = 0.0  # a small count is not rounded
        error, half_error = _parse(match["error"]) if match["error"] else (None, 0.0)
        found.append(Quantity(match[0], printed, printed * size, kind, half * size, error, half_error))
    return found


def _parse(number: str) -> tuple[float, float]:
    """A printed number and half of its last digit."""
    mantissa, _, exponent = number.replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return float(number.replace(",", "")), 0.5 * 10.0**-digits


@dataclass(frozen=True)
class Record:
    """What belongs together in a results file: a row, or all of it."""

    known: list[Quantity | float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Texts of a row without numbers, as `deis`."""

    def __add__(self, other: "Record") -> "Record":
        """The numbers of both under the names of this one."""
        return Record([*self.known, *other.known], self.names)

    def named_in(self, line: str) -> int:
        """How many characters of a line of a table are names of this record."""
        return sum(len(name) for name in self.names if name in line)


def record_of(value: Any) -> Record:
    """All numbers in a value of JSON or YAML; pairs of mean and stderr belong together."""
    return Record(list(_leaves(value)))


def _leaves(value: Any) -> Iterator[Quantity | float]:
    if isinstance(value, dict):
        if isinstance(value.get("mean"), float) and isinstance(value.get("stderr"), float):
            mean = abs(value["mean"])
            yield Quantity("", mean, mean, "", 0.0, value["stderr"])
        for key, its in value.items():
            yield from _leaves(key) if isinstance(key, str) else _leaves(str(key))
            yield from _leaves(its)
    elif isinstance(value, list):
        for its in value:
            yield from _leaves(its)
    elif isinstance(value, str):
        yield from quantities(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield abs(float(value))  # as texts are read


def read_records(path: Path) -> list[Record]:
    """The records of a results file: the rows of its `values` with what belongs to all of them, or the whole file."""
    content = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("values"), list):
        return [record_of(content)]
    common = record_of({key: value for key, value in content.items() if key != "values"})
    return [Record(record_of(row).known, _names(row)) + common for row in content["values"]]


def _names(row: dict[str, Any]) -> list[str]:
    return [value for value in row.values() if isinstance(value, str) and not quantities(value)]


@dataclass(frozen=True)
class Missing:
    """A number without a source."""

    line: int
    number: str
    files: list[str]
    """The results files of its section."""
    is_in_another_row: bool = False
    """Whether they have it, but not in the row that has the other numbers of this line of a table."""

    def __str__(self) -> str:
        where = f"line {self.line}: {self.number}"
        if not self.files:
            return f"{where}: link the results file that has it; a setting belongs into backquotes"
        files = " or ".join(self.files)
        if self.is_in_another_row:
            return f"{where} is in {files}, but not in one row with the other numbers of this line"
        return f"{where} is not in {files}: add it there with its command"


def missing(text: str, folder: Path, more: Iterable[Record] = ()) -> list[Missing]:
    """The numbers of a Markdown text that are in none of the results files that their section links.

    Args:
        text: Markdown, or the header of a recipe, which names files by `model_cards/results/NAME.yaml` without a link.
        folder: Where the links lead from.
        more: Records that belong to every section.
    """
    text = re.sub(r"\A---\n.*?^---\n", lambda match: "\n" * match[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    more = list(more)
    plain = text
    for pattern in NOT_MEASURED:
        plain = pattern.sub(lambda match: re.sub(r"[^\n]", "·", match[0]), plain)
    lines, found = text.splitlines(), []
    starts = [number for number, line in enumerate(plain.splitlines()) if re.match(r"#+ ", line)]
    bounds = sorted({0, *starts, len(lines)})
    for start, end in zip(bounds, bounds[1:], strict=False):
        section = "\n".join(lines[start:end])
        files = list(dict.fromkeys(RESULTS_LINK.findall(section)))
        records = [*(record for name in files for record in read_records(folder / name)), *more]
        found += _missing_of_section(plain.splitlines()[start:end], lines, start + 1, records, files)
    return found


def _missing_of_section(
    plain: list[str], lines: list[str], first: int, records: list[Record], files: list[str]
) -> Iterator[Missing]:
    everything = [known for record in records for known in record.known]
    for number, block in _blocks(plain, first):
        found = quantities(block)
        if not records:
            lost = [it for it in found if it.looks_measured]
        elif block.startswith("|"):
            named = [record.named_in(lines[number - 1]) for record in records]
            rows = [record for record, its in zip(records, named, strict=True) if its == max(named)]
            lost = min(([it for it in found if not it.is_in(row.known)] for row in rows), key=len)
        else:
            lost = [it for it in found if not it.is_in(everything)]
        for it in lost:
            yield Missing(number, it.text, files, is_in_another_row=it.is_in(everything))


def _blocks(lines: list[str], first: int) -> Iterator[tuple[int, str]]:
    """Table rows, and the lines of a paragraph as one, with the number of their first line."""
    start, block = first, []
    for number, line in enumerate([*lines, ""], first):
        if line.startswith("|") or not line.strip():
            if block:
                yield start, " ".join(block)
            block = []
            if line.startswith("|"):
                yield number, line
            start = number + 1
        else:
            block.append(line)
