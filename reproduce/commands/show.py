"""`python -m reproduce show`: a cell or a record, with what repeats it."""

from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.commands import options
from reproduce.judge.lookup import find
from reproduce.report import details


def show(
    names: options.Names,
    results: options.Results = RESULTS,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Print a cell or a record, and the command that repeats it.

    Measures nothing.
    """
    shown = find(names, results, evaluations)
    if format == 'json':
        options.print_json(details.as_dict(shown))
    else:
        print('\n\n'.join(details.render(shown)))
