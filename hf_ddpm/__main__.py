"""`hf-ddpm NAME ...`, also `python -m hf_ddpm NAME ...`: start a program by its name in `COMMANDS`."""

from __future__ import annotations

import importlib
import sys

from hf_ddpm.cli import user_errors
from hf_ddpm.commandline.commands import COMMANDS, PROGRAM_COMMANDS, as_typed, command_name
from hf_ddpm.commandline.names import nearest

HELP = """Train, sample, measure and share small diffusion models (DDPM) with classifier-free guidance.
  hf-ddpm train --config digits --output_dir runs/digits
  hf-ddpm sample --model runs/digits/pipeline --per_class 8 --output_dir runs/digits/images
  torchrun --nproc_per_node 2 -m hf_ddpm train --config digits --output_dir runs/digits2
Commands, each with its own --help:"""


def main(args: list[str] | None = None) -> int | None:
    """Run a command; its exit code, None = 0."""
    name, *options = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help") and options:
        name, options = options[0], ["--help", *options[1:]]
    name = command_name(name)
    with user_errors():
        if name in ("-h", "--help"):
            print("\n".join([as_typed(HELP), *(f"  {name:14}{command.about}" for name, command in COMMANDS.items())]))
            return None
        if name not in COMMANDS:
            program = name.rpartition("/")[2].removesuffix(".py")
            near = [PROGRAM_COMMANDS[program]] if program in PROGRAM_COMMANDS else nearest(name, COMMANDS)
            hint = f"did you mean {' or '.join(near)}?" if near else f"give one of {', '.join(COMMANDS)}"
            raise ValueError(f"unknown command {name!r}: {hint}")
    result: int | None = importlib.import_module(f"hf_ddpm.programs.{COMMANDS[name].program}").main(options)
    return result


if __name__ == "__main__":
    sys.exit(main())
