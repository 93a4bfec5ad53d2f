"""`python -m reproduce compare`: is the difference between two results real?"""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from reproduce.base.errors import UserError
from reproduce.base.folders import EVALUATIONS
from reproduce.commands import options
from reproduce.judge import comparison
from reproduce.report import comparisons


def compare(
    names: Annotated[
        list[str],
        Argument(
            help='Two or more records (file, stem or key), systems or released weights (their '
            'latest record), or files of predictions.'
        ),
    ],
    data: Annotated[
        Path | None,
        Option(help="The data set's folder, for files of predictions."),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        Option('--fail-if-worse', help='Exit with 1 if one is significantly worse than the first.'),
    ] = False,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Compare two results on the same images, or several: is the difference real?

    Of several, each is compared with the first. Top-1 by McNemar's exact test; AP, AR and mIoU by
    the paired bootstrap over the images.

    Exits with 0, or with 1 for --fail-if-worse.
    """
    if len(names) < 2:
        raise UserError(f"'{' '.join(names)}' is one result: name two or more to compare.")
    candidates = comparison.find_candidates(names, evaluations, data)
    found = comparison.compare(candidates)
    worse = any(pair.worse for pair in found)
    if len(found) > 1:
        result = {'pairs': [pair.as_dict() for pair in found], 'worse': worse}
        parts = comparisons.render_several(found)
    else:
        result = found[0].as_dict()
        parts = comparisons.render(found[0])
    options.show(format, result, *parts)
    raise typer.Exit(int(fail_if_worse and worse))
