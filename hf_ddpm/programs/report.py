r"""Write one HTML file about a run: samples over the training, losses, results, what the doctor says, data, options.

    hf-ddpm report runs/digits
    hf-ddpm report runs/digits --output digits.html

The file needs nothing else, so that it can be sent to somebody. The run may be unfinished or have failed.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import BaseConfig
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.progress import Progress


@dataclass(kw_only=True)
class ReportConfig(BaseConfig):
    """Write a page about a run."""

    run: Path
    """Run folder; it may also stand first, without a name."""
    output: Path | None = None
    """The file; an older report is replaced. None = report.html in the run folder."""


def main(args: list[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    if args and not args[0].startswith("-"):
        args = ["--run", *args]
    config = parse_config(ReportConfig, args, about=__doc__)
    with user_errors(ReportConfig):
        run = RunFolder(config.run)
        output = run.report if config.output is None else Path(config.output)
        with Progress("writing the report"):
            from hf_ddpm.report.page import write_report  # imports matplotlib

            write_report(run, output)
        print(f"report: {output}")
