"""Command lines: `parse_config(ConfigClass)` reads a recipe and its overrides into a checked dataclass.

Precedence: the defaults of the dataclass, then `--config recipe.yaml` (which may say `extends: other.yaml`), then every
other option, in any position. A mistake is reported in one line on stderr, with exit code 2.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hf_ddpm.commandline.commands import PROGRAM_COMMANDS, as_typed, typed_name
from hf_ddpm.commandline.help import help_page
from hf_ddpm.commandline.names import explain_unknown
from hf_ddpm.commandline.options import Option, build, find_option, groups_of, options_of
from hf_ddpm.commandline.recipes import PROGRAMS, load_recipe, merge, read_recipe, recipe_program
from hf_ddpm.commandline.values import Tree, read_value, read_words
from hf_ddpm.commandline.words import nest, split_words
from hf_ddpm.commandline.yaml_nodes import dump_yaml
from hf_ddpm.runtime.output import keep_output_from_failing
from hf_ddpm.runtime.signals import Stopped, ending_signals_raise
from hf_ddpm.text import cleaned_output, one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

__all__ = ["PROGRAMS", "dump_config", "load_recipe", "parse_config", "recipe_program", "take_flag", "user_errors"]

FAILED_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
SIGNAL_EXIT_CODE = 128  # plus the number of the signal, as in shells
MAX_MESSAGE = 2000
"""Characters of an error or a notice that are shown."""

_RAISING = re.compile(r"(hf_ddpm|diffusers_modules|__main__|datasets|huggingface_hub)\b")
"""Modules that raise errors on purpose: ours, pipelines saved with their code, and libraries that open data and models."""


def parse_config(config_class: type[Config], args: list[str] | None = None, *, about: str | None = None) -> Config:
    """Read `--config`, overrides, `--print_config` and `--help`.

    A boolean option is switched on by its name alone: `--compile`. A list is one word or several: `--class_labels 3 7`.

    Args:
        config_class: keyword-only dataclass whose `__post_init__` raises `ValueError` for values that cannot work.
        args: command line without the name of the program; None = `sys.argv[1:]`.
        about: docstring of the program, with which its help begins; None = that of `config_class`.

    Returns:
        An instance of `config_class`. `--help` and `--print_config` print and exit with 0, mistakes exit with 2.
    """
    with user_errors(config_class):
        options = options_of(config_class).items()
        once = {"config", *(name for name, option in options if option.is_list and not option.may_be_one)}
        words = split_words(sys.argv[1:] if args is None else args, once)
        topics, wants_config = words.pop("help", None), words.pop("print_config", None) is not None
        values = _read_values(config_class, words)
        if topics is not None:
            text = as_typed(inspect.cleandoc(about or config_class.__doc__ or ""))
            print(help_page(config_class, " ".join(topics) or None, text, values))
            raise SystemExit(0)
        config = _build(config_class, values, as_typed(about or ""))
    if wants_config:
        print(dump_config(config), end="")
        raise SystemExit(0)
    return config


def take_flag(name: str, args: list[str] | None = None) -> tuple[bool, list[str]]:
    """Whether a word such as `--estimate`, which is no option of a run, is on a command line, and the other words."""
    with user_errors():
        words = sys.argv[1:] if args is None else args
        if any(word.startswith(f"--{name}=") for word in words):
            raise ValueError(f"--{name} takes no value")
        return f"--{name}" in words, [word for word in words if word != f"--{name}"]


def dump_config(config: Any) -> str:
    """Write a config dataclass as YAML from which `--config` reads an equal one."""
    return dump_yaml(json.loads(json.dumps(asdict(config), default=str)))  # tuples as lists, paths as strings


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
        _exit_interrupted(interrupt)


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
    options = options_of(config_class) if config_class else {}

    def option(match: re.Match[str]) -> str:
        argument, *key = match[0].strip("`").split(".")
        found = [name for name in options if name.rpartition(".")[2] == argument]
        return ".".join([f"--{found[0]}", *key]) if len(found) == 1 else match[0]

    return re.sub(r"`\w+(\.\w+)*`|^\w+(?= is )", option, message)


def _exit(message: str, code: int) -> NoReturn:
    rank = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"{typed_name()}{rank}: {one_line(message, MAX_MESSAGE)}", file=sys.stderr)
    raise SystemExit(code)


def _exit_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    number = interrupt.signal_number if isinstance(interrupt, Stopped) else signal.SIGINT
    _exit(str(interrupt) or "interrupted", SIGNAL_EXIT_CODE + number)


def _interrupts_in_one_line(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Show an interruption outside `user_errors`, as while a program imports its modules, without a traceback."""
    if isinstance(error, KeyboardInterrupt):
        _exit_interrupted(error)
    sys.__excepthook__(kind, error, traceback)


if sys.excepthook is sys.__excepthook__:  # here, as programs import this module first
    sys.excepthook = _interrupts_in_one_line


def _read_values(config_class: Any, words: dict[str, list[str]]) -> dict[str, Any]:
    """Values of the recipe and of the command line, by the names of the options."""
    options, groups = options_of(config_class), groups_of(config_class)
    recipe = _take_recipe(words)
    written: Tree = {}
    if recipe is not None:
        _check_program(recipe, config_class)
        written = read_recipe(recipe)
        with _named_file(recipe):
            _values_of(written, options, groups)
    overrides: dict[str, Any] = {}
    unknown = []
    for name, after in words.items():
        option = find_option(name, options)
        if option is not None:
            overrides[name] = read_words(option, after)
        elif name in groups:
            raise ValueError(_is_group(name, " ".join(after), options))
        else:
            unknown.append(f"unknown option --{name}, {explain_unknown(name, list(options))}")
    if unknown:
        raise ValueError("; ".join(unknown))
    return _values_of(merge(written, nest(overrides)), options, groups)


def _values_of(written: Tree, options: Mapping[str, Option], groups: Mapping[str, Any]) -> dict[str, Any]:
    """Read what is written for each option; names that are no options are refused, all of them at once."""
    values: dict[str, Any] = {}
    unknown = []

    def read(tree: Tree, prefix: str) -> None:
        for key, value in tree.items():
            name = prefix + key
            if name in options:
                values[name] = read_value(options[name], value)
            elif name not in groups:
                unknown.append(f"unknown option {name}, {explain_unknown(name, list(options), dashes='')}")
            elif isinstance(value, dict):
                read(value, f"{name}.")
            else:
                raise ValueError(_is_group(name, value.value, options))

    read(written, "")
    if unknown:
        raise ValueError("; ".join(unknown))
    return values


def _is_group(name: str, value: Any, options: Mapping[str, Option]) -> str:
    first = next(option for option in options if option.startswith(f"{name}."))
    return f"--{name} is {value or None}: it is a group, give its options, such as --{first}"


def _take_recipe(words: dict[str, list[str]]) -> Path | None:
    """Take `--config FILE` out of the words of the command line."""
    if "config" not in words:
        return None
    files = words.pop("config")
    if len(files) != 1:
        raise ValueError(
            f"--config has {len(files)} values: give the path of one recipe, which may say `extends: other.yaml`"
        )
    return Path(files[0])


def _check_program(recipe: Path, config_class: type) -> None:
    """Refuse a recipe whose program has other options than `config_class`."""
    program = recipe_program(recipe)
    if program not in (None, getattr(config_class, "program", None)):
        command = as_typed(f"hf-ddpm {PROGRAM_COMMANDS[program]}")
        raise ValueError(f"--config {recipe}: this is a recipe of {program}, run {command} --config {recipe}")


@contextlib.contextmanager
def _named_file(recipe: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        unknown = str(error).startswith("unknown option") and recipe_program(recipe) is None
        hint = "; a recipe of another program needs the key `program`" if unknown else ""
        raise ValueError(f"--config {recipe}: {error}{hint}") from None


def _build(config_class: type[Config], values: dict[str, Any], about: str) -> Config:
    missing = [f"--{name}" for name, option in options_of(config_class).items() if option.default is MISSING]
    missing = [name for name in missing if name[2:] not in values]
    if missing:
        commands = re.findall(r"^ *((?:hf-ddpm|python|accelerate launch) .*(?:\\\n.*)*)", about, flags=re.MULTILINE)
        example = f", as in: {' '.join(commands[0].replace(chr(92), '').split())}" if commands else ""
        raise ValueError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} required{example}")
    config: Config = build(config_class, values)
    return config
