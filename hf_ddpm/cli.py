"""Command lines: `parse_config(ConfigClass)` reads a recipe and its overrides into a checked dataclass.

Precedence: the defaults of the dataclass, then `--config recipe.yaml` (which may say `extends: other.yaml`), then every
other option, in any position. A mistake is reported in one line on stderr, with exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import dis
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from hf_ddpm.runtime.output import keep_output_from_failing
from hf_ddpm.runtime.reading import check_yaml, read_yaml
from hf_ddpm.runtime.signals import Stopped, ending_signals_raise
from hf_ddpm.text import cleaned_output, one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

PROGRAMS = ("train", "train_gan", "train_judge")
"""Values of the key `program` of a recipe."""

FAILED_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
SIGNAL_EXIT_CODE = 128  # plus the number of the signal, as in shells
MAX_MESSAGE = 2000
"""Characters of an error or a notice that are shown."""

_RAISING = re.compile(r"(hf_ddpm|diffusers_modules|train_scripts\w*|__main__|datasets|huggingface_hub)\b")
"""Modules that raise errors on purpose: ours, pipelines saved with their code, and libraries that open data and models."""

# Messages of jsonargparse 4.51 to 4.53 and how they are shown; applied in this order.
_REWRITES = {
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* Given value: (.*)": (
        r"Expected a \1. Got value: \2"
    ),
    r"<class '(\w+)'>": r"\1",
    r"typing\.Literal\[(.*?)\]": r"one of \1",
    r"(?:, NoneType|(Expected a )NoneType, (.*))\. Got value": r"\1\2 or null. Got value",
    r'^Parser key "([\w.]+)": Expected a (.*)\. Got value: (.*)': r"--\1 is \3: expected \2",
    r'^Parser key "([\w.]+)": Unable to load config (.*) - .*': r"--\1 is \2: it is a group, give its options",
    r"^unrecognized arguments: (.*)": r"unknown option \1, --help lists them all",
    r"^Option '([\w.]+)' is not accepted": r"unknown option \1, --help lists them all",
    r"^Group '([\w.]+)' does not accept option '([\w.]+)'": r"unknown option \1.\2, --help lists them all",
    r"^the following arguments are required: ([\w.]+)": r"--\1 is required",
}

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_config(config_class: type[Config], args: list[str] | None = None, *, default_recipe: Path | None = None) -> Config:
    """Read `--config`, overrides, `--print_config` and `--help`.

    A boolean option is switched on by its name alone: `--compile`.

    Args:
        config_class: keyword-only dataclass whose `__post_init__` raises `ValueError` for values that cannot work.
        args: command line without the name of the program; None = `sys.argv[1:]`.
        default_recipe: recipe to read without `--config`; None = the defaults of the dataclass.

    Returns:
        An instance of `config_class`. `--help` and `--print_config` print and exit with 0, mistakes exit with 2.
    """
    flags = {f"--{name}" for name, kind in _options(config_class) if kind in (bool, bool | None)}  # on or off, or unset
    args = _complete_flags(list(sys.argv[1:] if args is None else args), flags)
    parser = _build_parser(config_class)
    with user_errors(config_class):
        recipe, args = _take_recipe(args, default_recipe)
        wants_config, args = "--print_config" in args, [arg for arg in args if arg != "--print_config"]
        if recipe is not None:
            _check_program(recipe, config_class)
            options = yaml.safe_dump(load_recipe(recipe))
            with _named_file(recipe):
                _parse(parser, ["--config", options], ignore_missing=True)
            args = ["--config", options, *args]
        config = _instantiate(parser, config_class, _parse(parser, args))
    if wants_config:
        print(dump_config(config), end="")
        raise SystemExit(0)
    return config


def load_recipe(path: Path) -> dict[str, Any]:
    """Read the options of a recipe, merged key by key over those of the recipe it extends.

    Raises:
        ValueError: the file is missing, is not a YAML mapping, extends itself, or extends a recipe of another program.
    """
    return _read_recipe(Path(path))[0]


def recipe_program(path: Path) -> str | None:
    """Program of a recipe: its key `program`, or that of the recipe it extends; None = not stated.

    Raises:
        ValueError: see `load_recipe`.
    """
    return _read_recipe(Path(path))[1]


def dump_config(config: Any) -> str:
    """Write a config dataclass as YAML from which `--config` reads an equal one."""
    plain = json.loads(json.dumps(asdict(config), default=str))  # tuples as lists, paths as strings
    return yaml.safe_dump(plain, sort_keys=False)


@contextlib.contextmanager
def user_errors(config_class: type | None = None) -> Iterator[None]:
    """Turn errors that a user can fix into one line on stderr and an exit code.

    A `ValueError` (a mistake) exits with 2, a `FloatingPointError` (a diverged run) or `OSError` (a full disk) with 1,
    SIGINT (Ctrl-C) with 130, SIGTERM with 143 and SIGHUP with 129. Output that cannot be written is dropped. With
    HF_DDPM_TRACEBACK=1 in the environment errors are shown in full.
    A `ValueError` or `FloatingPointError` that was not raised on purpose is a bug: it keeps its traceback, with a note that
    says so.

    Args:
        config_class: options of the program, whose module raises errors on purpose, too. Other functions know the options as
            arguments: "image_size is 7" or `image_size` in a message is shown as --data.image_size. None = messages are
            shown as they are.
    """
    keep_output_from_failing()
    logger = logging.getLogger("hf_ddpm")
    logger.setLevel(logging.INFO)
    others = [handler for handler in logger.handlers if not isinstance(handler, _Notices)]
    logger.handlers = [*others, _Notices(config_class)]
    try:
        with cleaned_output(), ending_signals_raise():
            yield
    except (ValueError, FloatingPointError, OSError) as error:
        if os.environ.get("HF_DDPM_TRACEBACK"):
            raise
        if not _is_on_purpose(error, config_class):
            error.add_note("This is a bug in hf_ddpm, not a mistake in your options: please report it with this traceback.")
            raise
        message = _with_options(str(error), config_class)
        _exit(message, USAGE_EXIT_CODE if isinstance(error, ValueError) else FAILED_EXIT_CODE)
    except KeyboardInterrupt as interrupt:
        number = interrupt.signal_number if isinstance(interrupt, Stopped) else signal.SIGINT
        _exit(str(interrupt) or "interrupted", SIGNAL_EXIT_CODE + number)


def _is_on_purpose(error: Exception, config_class: type | None) -> bool:
    """Whether an error was raised by a `raise` statement of this package, of the program, or of a library that opens data.

    Errors of the operating system and of connections (`OSError`) count as such wherever they occur.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or isinstance(error, OSError):
        return True
    module = traceback.tb_frame.f_globals.get("__name__", "")
    if not _RAISING.match(module) and module != getattr(config_class, "__module__", None):
        return False
    instruction = traceback.tb_frame.f_code.co_code[traceback.tb_lasti]
    return dis.opname[instruction] == "RAISE_VARARGS"  # not a failed call or operator


class _Notices(logging.Handler):
    """Prints the log of the package on stderr, one line per message: `warning: ...`."""

    def __init__(self, config_class: type | None) -> None:
        super().__init__()
        self.config_class = config_class

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        message = _with_options(record.getMessage(), self.config_class)
        print(f"{level}{one_line(message, MAX_MESSAGE)}", file=sys.stderr)


def _with_options(message: str, config_class: type | None) -> str:
    """Replace each argument, as in `argument` or an initial "argument is", by the option of that name, if it is unique."""
    options = list(_options(config_class)) if config_class else []

    def option(match: re.Match[str]) -> str:
        argument, *key = match[0].strip("`").split(".")
        found = [name for name, _ in options if name.rpartition(".")[2] == argument]
        return ".".join([f"--{found[0]}", *key]) if len(found) == 1 else match[0]

    return re.sub(r"`\w+(\.\w+)*`|^\w+(?= is )", option, message)


def _exit(message: str, code: int) -> NoReturn:
    rank = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"{Path(sys.argv[0]).name}{rank}: {one_line(message, MAX_MESSAGE)}", file=sys.stderr)
    raise SystemExit(code)


def _build_parser(config_class: type) -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=(config_class.__doc__ or "").strip().split("\n")[0]
    )
    parser.add_argument("--config", action="config", help="Recipe: a YAML file of the options below.")
    parser.add_class_arguments(config_class, as_group=False)
    return parser


def _options(config_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a program, such as data.image_size, with its type."""
    kinds = get_type_hints(config_class)
    for option in fields(config_class):
        if is_dataclass(kinds[option.name]):
            yield from _options(kinds[option.name], f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, kinds[option.name]


def _complete_flags(args: list[str], flags: set[str]) -> list[str]:
    """Read a flag without a value, `--compile`, as `--compile=true`."""
    has_value = [not after.startswith("--") for after in [*args[1:], "--"]]
    return [arg if arg not in flags or has_value[i] else f"{arg}=true" for i, arg in enumerate(args)]


def _take_recipe(args: list[str], default_recipe: Path | None) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of the command line."""
    splitter = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    splitter.add_argument("--config", action="append", default=[])
    try:
        known, rest = splitter.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ValueError(f"--config: {error.message}, give the path of a recipe") from None
    if len(known.config) > 1:
        raise ValueError(f"--config is given {len(known.config)} times: give one, which may say `extends: other.yaml`")
    return (Path(known.config[0]) if known.config else default_recipe), rest


def _read_recipe(path: Path, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], str | None]:
    """Options and program of a recipe; `seen` are the recipes that extend it."""
    if path.resolve() in seen:
        raise ValueError(f"--config {seen[0]}: `extends` leads back to {path}, remove the cycle")
    try:
        options = read_yaml(path)
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}, give the path of a recipe") from None
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from None
    if not isinstance(options, dict):
        raise ValueError(f"--config {path}: not a YAML mapping of option names to values")
    if "config" in options:
        raise ValueError(f"--config {path}: a recipe cannot have the key `config`, use `extends: other.yaml`")
    parent, program = options.pop("extends", None), options.pop("program", None)
    if program not in (None, *PROGRAMS):
        raise ValueError(f"--config {path}: `program` is {program!r}, give one of {', '.join(PROGRAMS)}")
    if parent is None:
        return options, program
    extended, extended_program = _read_recipe(path.parent / str(parent), (*seen, path.resolve()))
    if None not in (program, extended_program) and program != extended_program:
        raise ValueError(f"--config {path}: its program is {program}, but {parent} is a recipe of {extended_program}")
    return _merge(extended, options), program or extended_program


def _check_program(recipe: Path, config_class: type) -> None:
    """Refuse a recipe whose program has other options than `config_class`."""
    program = recipe_program(recipe)
    if program not in (None, getattr(config_class, "program", None)):
        command = f"python train_scripts/{program}.py --config {recipe}"
        raise ValueError(f"--config {recipe}: this is a recipe of {program}.py, run {command}")


def _parse(parser: ArgumentParser, args: list[str], ignore_missing: bool = False):
    _check_values(args)
    try:
        return parser.parse_args(args)
    except argparse.ArgumentError as error:
        message = _readable(str(error))
        if ignore_missing and "required" in message:
            return None
        raise ValueError(message) from None


def _check_values(args: list[str]) -> None:
    """Refuse values whose YAML grows beyond measure or gives a key twice, before the parser reads them."""
    name = ""
    for arg in args:
        is_option = arg.startswith("--")
        option, _, value = arg.partition("=") if is_option else (name, "", arg)
        name = option if is_option else name
        try:
            check_yaml(value)
        except yaml.YAMLError:  # text that is not YAML, for which the parser has its own message
            continue
        except ValueError as error:
            raise ValueError(f"{name} has a value that cannot be read: {error}") from None


def _readable(message: str) -> str:
    """Rewrite a message of the parser in the words of the command line."""
    text = " ".join(message.split())
    for pattern, words in _REWRITES.items():
        text = re.sub(pattern, words, text)
    return text


@contextlib.contextmanager
def _named_file(recipe: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        unknown = str(error).startswith("unknown option") and recipe_program(recipe) is None
        hint = "; a recipe of another program needs the key `program`" if unknown else ""
        raise ValueError(f"--config {recipe}: {error}{hint}") from None


def _instantiate(parser: ArgumentParser, config_class: type[Config], namespace) -> Config:
    for option in fields(config_class):
        value = namespace.get(option.name)
        if is_dataclass(option.default_factory) and not isinstance(value, Namespace):
            raise ValueError(f"--{option.name} is {value!r}: it is a group, give its options or leave it out")
    options = vars(parser.instantiate(namespace))
    return config_class(**{name: value for name, value in options.items() if name != "config"})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
