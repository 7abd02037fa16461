"""`dinat-zoo analyse`: the analyses of the DiNAT paper, each a subcommand."""

from __future__ import annotations

import argparse
from pathlib import Path

from dinat_zoo._weights_file import WeightsError, first_line
from dinat_zoo.analysis import write
from dinat_zoo.cli._analyse import attention, costs, fields
from dinat_zoo.cli._analyse.parser import Run
from dinat_zoo.cli._arguments import PLOTS, Commands, example, fail, unwritable

_EXAMPLES = """\
examples:
  dinat-zoo analyse receptive-field nat_mini dinat_mini swin_tiny_patch4_window7_224 convnext_tiny --plot fields.png
  dinat-zoo analyse receptive-field dinat_mini --layers --measure --json
  dinat-zoo analyse operators --format markdown                       Table 1
  dinat-zoo analyse cost dinat_tiny swin_tiny_patch4_window7_224 --memory
  dinat-zoo analyse span --plot span.png                              Figure 1
  dinat-zoo analyse attention photo.jpg --model dinat_mini --layer levels.0.blocks.1 --plot attention.png
  dinat-zoo analyse rollout photo.jpg --model dinat_mini --plot rollout.png
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand, and its own."""
    parser = commands.add_parser(
        "analyse",
        help="receptive fields, costs, attention",
        description="The analyses of the DiNAT paper as tables, and figures where --plot is given. Each has a --help "
        "of its own.",
        **example(_EXAMPLES),
    )
    analyses = parser.add_subparsers(dest="analysis", required=True)
    for module in (fields, costs, attention):
        module.add_to(analyses)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Analyse, and print the table or write it to a file.

    Returns:
        The exit code: 0; 1 if weights cannot be had, or a model does not run; 2 if an argument cannot be right.
    """
    analyse: Run = arguments.analyse
    output: Path | None = arguments.output
    plot: Path | None = getattr(arguments, "plot", None)
    for path, suffixes in ((output, ()), (plot, PLOTS)):
        if path is not None and (problem := unwritable(path, suffixes)):
            return fail(problem, 2)
    try:
        text = write(analyse(arguments), arguments.format)
        if output is None:
            print(text)
        else:
            output.write_text(f"{text}\n", encoding="utf-8")
    except (WeightsError, RuntimeError) as error:
        return fail(first_line(error), 1)
    except (ValueError, TypeError, ImportError, OSError) as error:
        return fail(str(error), 2)
    return 0
