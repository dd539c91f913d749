r"""Fill measured numbers into a handwritten page: Markdown with Jinja expressions that name results.

    hf-ddpm render-page --template model_cards/comparison/page.md \
        --output model_cards/comparison/README.md

The numbers come from the comparison.json in each sub-folder beside the template, written by hf-ddpm sweep.
hf_ddpm/experiments/page.py lists what an expression can name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import require


@dataclass(kw_only=True)
class RenderConfig:
    """Fill measured numbers into a handwritten page."""

    template: Path
    """Markdown with expressions such as {{ NAME.table }}; NAME is a sub-folder beside it with a comparison.json."""
    output: Path
    """The page, beside the template because its links to pictures are relative; an existing file is replaced."""

    def __post_init__(self) -> None:
        template, output = Path(self.template), Path(self.output)
        require(template.is_file(), "template", str(template), "the file does not exist")
        beside = output.resolve().parent == template.resolve().parent and output.resolve() != template.resolve()
        require(beside, "output", str(output), f"give another file in the folder of the template, {template.parent}")


def main(args: list[str] | None = None) -> None:
    config = parse_config(RenderConfig, args, about=__doc__)
    with user_errors():
        from hf_ddpm.experiments.page import read_comparisons, render
        from hf_ddpm.runtime.files import write_whole

        template, output = Path(config.template), Path(config.output)
        try:
            text = template.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"--template is {str(template)!r}: it is not UTF-8 text, {error.reason}") from error
        write_whole(output, render(text, read_comparisons(template.parent)))
        print(f"page: {output}")
