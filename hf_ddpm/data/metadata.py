"""Read the metadata files of a folder of images, `metadata.csv` or `metadata.jsonl`, as one table."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.json

from hf_ddpm.text import composed


def read_metadata(files: list[Path], images: list[Path], source: str) -> pyarrow.Table:
    """All metadata files as one table, whose column `image` is the path of each image; without columns if there are none.

    A `ValueError` names the file, and the row, that cannot be read or does not fit the images.
    """
    if not files:
        return pyarrow.table({})
    tables = _numbers_as_texts([_read_file(path, source) for path in files])
    listed: dict[str, str] = {}
    known = {str(path) for path in images}
    for file, table in zip(files, tables, strict=True):
        for row, path in enumerate(table["image"].to_pylist()):
            place = f"row {row} of {str(file)!r} of `source` {source!r}"
            if path is None:
                raise ValueError(f"{place} has no file_name: name its image, or remove the row")
            if path not in known:
                raise ValueError(f"{place} names {path!r}, which is not an image file: {_remedy(path, known)}")
            if path in listed:
                raise ValueError(f"{place} names {path!r}, as row {listed[path]} does: remove one of them")
            listed[path] = f"{row} of {file.name}"
    for path in images:
        if str(path) not in listed:
            raise ValueError(f"source is {source!r}, but {str(path)!r} has no row in {files[0].name}: add or remove it")
    try:
        return pyarrow.concat_tables(tables, promote_options="default")
    except pyarrow.ArrowException as error:
        names = ", ".join(map(str, files))
        raise ValueError(f"source is {source!r}, but the columns of {names} differ in type: make them alike") from error


def _remedy(path: str, known: set[str]) -> str:
    """What to do about a row that names no image."""
    if os.path.normpath(path.replace("\\", "/")) in known:
        return "separate folders by / instead of \\"
    nearly = next((name for name in sorted(known) if composed(name).casefold() == composed(path).casefold()), None)
    if nearly:
        return f"write its name as {ascii(os.path.basename(nearly))}"
    return "fix or remove the row"


def _read_csv(content: bytes) -> pyarrow.Table:
    """Read a CSV file; whole numbers that begin with a zero are names, as 007 is another one than 7."""

    def read(text_columns: list[str]) -> pyarrow.Table:
        options = pyarrow.csv.ConvertOptions(
            null_values=[""], strings_can_be_null=True, column_types=dict.fromkeys(text_columns, pyarrow.string())
        )
        return pyarrow.csv.read_csv(pyarrow.BufferReader(content), convert_options=options)

    table = read(["file_name"])
    names = [field.name for field in table.schema if pyarrow.types.is_integer(field.type)]
    if not names or len(set(table.column_names)) < table.num_columns:
        return table
    texts = read(["file_name", *names])
    padded = [
        name for name in names if pyarrow.compute.any(pyarrow.compute.match_substring_regex(texts[name], "^0[0-9]")).as_py()
    ]
    return read(["file_name", *padded]) if padded else table


def _numbers_as_texts(tables: list[pyarrow.Table]) -> list[pyarrow.Table]:
    """Whole numbers become texts where another table has texts that are all digits, as those with leading zeros."""

    def are_digits(column: pyarrow.ChunkedArray) -> bool:
        found = pyarrow.compute.match_substring_regex(column, "^[0-9]+$") if column.type == pyarrow.string() else None
        return found is not None and bool(pyarrow.compute.all(found, min_count=1).as_py())

    digits = {name for table in tables for name in table.column_names if are_digits(table[name])}

    def converted(field: pyarrow.Field) -> pyarrow.Field:
        is_number = field.name in digits and pyarrow.types.is_integer(field.type)
        return field.with_type(pyarrow.string()) if is_number else field

    return [table.cast(pyarrow.schema(map(converted, table.schema))) for table in tables]


def _read_file(file: Path, source: str) -> pyarrow.Table:
    """Read a metadata file; an empty CSV field is a missing value."""

    def mistake(what: str) -> ValueError:
        return ValueError(f"source is {source!r}, but {str(file)!r} {what}")

    try:
        content = file.read_bytes()
        content.decode()
        if file.suffix == ".csv":
            table = _read_csv(content)
        else:
            table = pyarrow.json.read_json(pyarrow.BufferReader(content))
    except UnicodeDecodeError as error:
        raise mistake("is not in UTF-8: save it as UTF-8") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise mistake(f"cannot be read ({' '.join(str(error).split())}): fix the file") from error
    names = table.column_names
    if len(set(names)) < len(names):
        raise mistake("has two columns of one name: rename one")
    if "file_name" not in names:
        wrong = next((sign for sign in (";", "\t") if len(names) == 1 and sign in names[0]), None)
        if wrong:
            raise mistake(f"separates its columns by {wrong!r}: separate them by commas")
        raise mistake(f"has no column file_name, only {', '.join(names)}: name the image of each row in it")
    if table["file_name"].type != pyarrow.string():
        raise mistake(f"has a column file_name of type {table['file_name'].type}: write the names of the images as text")
    if "image" in names:
        raise mistake("has a column called image: rename it")
    paths = [None if name is None else os.path.normpath(file.parent / name) for name in table["file_name"].to_pylist()]
    return table.drop_columns("file_name").append_column("image", pyarrow.array(paths, pyarrow.string()))
