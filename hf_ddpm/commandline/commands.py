"""The commands of `hf-ddpm`, and how the user has started this one: texts show a command as it can be typed here."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal


@dataclass(frozen=True)
class Command:
    program: str
    """Module of hf_ddpm.programs, and file of train_scripts/."""
    about: str


COMMANDS = {
    "train": Command("train", "train a diffusion model"),
    "distill": Command("distill", "distill a diffusion model into one of a few steps"),
    "gan": Command("train_gan", "train the GAN baseline"),
    "judge": Command("train_judge", "train a judge, the classifier that measures samples"),
    "sample": Command("sample", "generate PNG files or one npz"),
    "edit": Command("edit", "edit images: image to image, inpainting, interpolation"),
    "average": Command("average", "average the weights of a run over another length"),
    "evaluate": Command("evaluate_model", "measure a model: distances, precision, recall, class accuracy"),
    "classify": Command("classify", "measure a model without a judge, and find doubtful labels"),
    "sweep": Command("sweep", "measure a grid of settings, models or checkpoints; compare recipes"),
    "tune-guidance": Command("tune_guidance", "find how a model samples best, and save it as its defaults"),
    "doctor": Command("doctor", "say what a run shows, what that means and what to do"),
    "report": Command("report", "write one HTML page about a run"),
    "figures": Command("figures", "plot a figure or an animation"),
    "recipes": Command("list_recipes", "list the recipes that --config takes by name"),
    "export-web": Command("export_web", "export a model as a web page that runs it in the browser"),
    "push": Command("push_to_hub", "publish a trained model"),
    "write-card": Command("write_card", "write the model card of a trained model, or a folder to share"),
    "render-page": Command("render_page", "put results into a page written by hand"),
}
"""By their names on the command line."""
PROGRAM_COMMANDS = {command.program: name for name, command in COMMANDS.items()}
"""Names of the commands, by their programs."""


@dataclass(frozen=True)
class Start:
    """How a program was started: by `hf-ddpm NAME`, `python -m hf_ddpm NAME` or `python train_scripts/PROGRAM.py`."""

    name: str | None
    """Of the command; None = none is named, or there is no such command."""
    arguments: tuple[str, ...] = ()
    way: Literal["hf-ddpm", "module", "script"] = "hf-ddpm"

    def command(self, name: str, num_processes: int = 1) -> str:
        """How to start a command in the same way."""
        if self.way == "script":
            return f"{_launcher(num_processes)} train_scripts/{COMMANDS[name].program}.py"
        if self.way == "hf-ddpm" and num_processes == 1:
            return f"hf-ddpm {name}"
        return f"{_launcher(num_processes)} -m hf_ddpm {name}"


def command_name(typed: str) -> str:
    """The name of a command, which may be typed with _ instead of -."""
    return typed.replace("_", "-") if typed.replace("_", "-") in COMMANDS else typed


def read_start(argv: Sequence[str]) -> Start | None:
    """How the program with this `sys.argv` was started; None = in another way, as from Python."""
    path = PurePath(argv[0] if argv else "")
    if path.parent.name == "train_scripts" and path.suffix == ".py" and path.stem in PROGRAM_COMMANDS:
        return Start(PROGRAM_COMMANDS[path.stem], tuple(argv[1:]), "script")
    is_module = path.parts[-2:] == ("hf_ddpm", "__main__.py")
    if is_module or path.name in ("hf-ddpm", "hf-ddpm.exe"):
        typed = command_name(argv[1]) if len(argv) > 1 else None
        name = typed if typed in COMMANDS else None
        return Start(name, tuple(argv[2:]), "module" if is_module else "hf-ddpm")
    return None


def start_here() -> Start:
    """How this process was started; `hf-ddpm` can be typed, too, where it is used from Python."""
    return read_start(sys.argv) or Start(None)


def as_typed(text: str) -> str:
    """Replace each `hf-ddpm NAME`, and `-m hf_ddpm NAME` after a launcher, by how the user starts that command here."""
    start = start_here()
    names = "|".join(COMMANDS)
    if start.way == "script":
        text = re.sub(rf"-m hf_ddpm ({names})\b", lambda match: f"train_scripts/{COMMANDS[match[1]].program}.py", text)
    return re.sub(rf"\bhf-ddpm ({names})\b", lambda match: start.command(match[1]), text)


def typed_name() -> str:
    """What messages of this program begin with."""
    start = read_start(sys.argv)
    if start is None or start.way == "script":
        return PurePath(sys.argv[0]).name
    return " ".join(["python -m hf_ddpm" if start.way == "module" else "hf-ddpm", *filter(None, [start.name])])


def shell_command(argv: Sequence[str], num_processes: int) -> str:
    """The shell command that starts a program with this `sys.argv` in a number of processes."""
    start = read_start(argv)
    if start is not None and start.way != "script" and start.name is not None:
        return f"{start.command(start.name, num_processes)} {shlex.join(start.arguments)}".rstrip()
    return f"{_launcher(num_processes)} {shlex.join(argv)}"


def _launcher(num_processes: int) -> str:
    return "python" if num_processes == 1 else f"torchrun --nproc_per_node {num_processes}"
