"""List the recipes of this package: name, command, and what each is.

hf-ddpm recipes
"""

import re
import textwrap
from dataclasses import dataclass

from hf_ddpm.cli import parse_config, recipe_program
from hf_ddpm.commandline.commands import PROGRAM_COMMANDS
from hf_ddpm.commandline.recipes import named_recipes


@dataclass(kw_only=True)
class RecipesConfig:
    """List the recipes of this package."""


def main(args: list[str] | None = None) -> None:
    parse_config(RecipesConfig, args, about=__doc__)
    for name, path in named_recipes().items():
        header = re.sub(r"\n# *", " ", path.read_text(encoding="utf-8").split("\n#\n")[0]).lstrip("# ")
        command = PROGRAM_COMMANDS[recipe_program(path) or "train"]
        print(f"{name:24}{command:7}{textwrap.shorten(header, 90, placeholder=' ...')}")
