"""Help pages: the main options on at most two screens, a group, or every option."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.commandline.names import explain_unknown
from hf_ddpm.commandline.options import Option, groups_of, options_of

MAX_WIDTH = 100
_NAMES_WIDTHS = 28, 36
"""Columns of the names: on a terminal narrower than `MAX_WIDTH`, and on others."""
_OWN_OPTIONS = {
    "--config NAME|FILE": "A YAML file, or the name of a recipe (see hf-ddpm recipes); other options replace its.",
    "--print_config": "Print the options that this command would use, as YAML for --config, and stop.",
}


def help_page(config_class: Any, topic: str | None, about: str, values: Mapping[str, Any]) -> str:
    """The text of `--help TOPIC`.

    Args:
        config_class: options of the program; its `main_options` are the names on the first page (none = all of them), and
            its `flags` are words that are no options of a run, with their texts (none = there are none).
        topic: None = the first page, `all`, a group, or an option.
        about: docstring of the program: what it does, a blank line, and its commands.
        values: values of options that differ from their defaults.

    Raises:
        ValueError: there is no such topic.
    """
    options, groups = options_of(config_class), groups_of(config_class)
    topic, about = (topic or "").lstrip("-"), wrap_prose(about.strip())
    main = getattr(config_class, "main_options", tuple(options))
    if topic not in ("", "all") and topic not in options and topic not in groups:
        reason = explain_unknown(topic, [*groups, *options], dashes="--help ")
        raise ValueError(f"--help {topic}: there is no such option, {reason}")
    own = _rows({name: as_typed(text) for name, text in (_OWN_OPTIONS | getattr(config_class, "flags", {})).items()})
    if topic in options:
        return _table([options[topic]], config_class, values)
    if topic in groups:
        group = [option for name, option in options.items() if name.startswith(f"{topic}.")]
        return f"{_summary(groups[topic])}\n\n{_table(group, config_class, values)}"
    if not topic and len(main) < len(options):
        more = {"--help all": "Every option."}
        more |= {f"--help {name}": f"The options of a group: {', '.join(groups)}." for name in list(groups)[:1]}
        shown = _table([options[name] for name in main], config_class, values, brief=True)
        return f"{about}\n\nMain options:\n{own}\n{shown}\n\nMore:\n{_rows(more)}"
    parts = [about, f"Options:\n{own}"]
    parts[-1] += "\n" + _table([option for name, option in options.items() if "." not in name], config_class, values)
    for name, group_class in groups.items():
        group = [option for other, option in options.items() if other.startswith(f"{name}.")]
        parts.append(f"{_summary(group_class)}\n{_table(group, config_class, values)}")
    return "\n\n".join(parts)


def describe(option: Option, config_class: Any, values: Mapping[str, Any] | None = None, *, brief: bool = False) -> str:
    """What an option does and what applies without it, in words; `brief` = the first sentence."""
    *groups, name = option.name.split(".")
    for group in groups:
        config_class = groups_of(config_class)[group]
    text = as_typed(" ".join(_field_texts(config_class).get(name, "").split()))
    value = (values or {}).get(option.name, option.default)
    if brief:
        text = re.split(r"(?<=\.) (?=[A-Z`])", text)[0]
    if value is None:
        return re.sub(r"\bNone = ", "default: ", re.sub(r"\. None = ", ". Default: ", text))
    text = re.sub(r"\bNone = ", "null = ", text)
    if value is MISSING:
        return f"{text} Required."
    if value is False or value == []:
        return text
    return f"{text} [{_shown(value)}]"


def wrap_prose(text: str) -> str:
    """Wrap lines that are too long for a help page; the columns of a list stay aligned."""
    wrapped = []
    for line in text.splitlines():
        column = re.match(r" *(?:\w+  +)?", line)
        indent = " " * len(column[0] if column else "")
        wrapped += textwrap.wrap(line, MAX_WIDTH, subsequent_indent=indent, drop_whitespace=True) or [""]
    return "\n".join(wrapped)


def _table(options: Iterable[Option], config_class: Any, values: Mapping[str, Any], *, brief: bool = False) -> str:
    return _rows({_usage(option): describe(option, config_class, values, brief=brief) for option in options})


def _rows(texts: Mapping[str, str]) -> str:
    """Two columns, names and texts; a long name has a line of its own."""
    width = min(max(60, shutil.get_terminal_size((MAX_WIDTH, 24)).columns), MAX_WIDTH)
    names_width = _NAMES_WIDTHS[width == MAX_WIDTH]
    lines = []
    for name, text in texts.items():
        wrapped = textwrap.wrap(text, width - names_width)
        if len(name) > names_width - 4:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:{names_width - 2}}{wrapped.pop(0) if wrapped else ''}".rstrip())
        lines += [" " * names_width + line for line in wrapped]
    return "\n".join(lines)


def _usage(option: Option) -> str:
    """An option with what it takes, such as `--data.batch_size N`."""
    if option.choices == (bool,):
        return f"--{option.name}" + (" true|false" if option.default is None else "")
    words = list(dict.fromkeys(_word(kind) for kind in option.choices if kind is not bool))
    return f"--{option.name} {'|'.join(words)}"


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) in (list, tuple):
        return f"{_word(get_args(kind)[0])} ..."
    if get_origin(kind) is dict:
        return "'{NAME: VALUE}'"
    return {int: "N", float: "X", str: "NAME", Path: "PATH"}.get(kind, "NAME")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _summary(config_class: Any) -> str:
    return (config_class.__doc__ or "").strip().split("\n")[0].rstrip(".") + ":"


@functools.cache
def _field_texts(config_class: Any) -> dict[str, str]:
    """The string under each field of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if "__annotations__" not in vars(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for item, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr):
                found[item.target.id] = str(ast.literal_eval(after.value))
    return found
