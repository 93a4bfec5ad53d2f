"""`python -m reproduce show`: a cell or a record, with what repeats it."""

from reproduce.base import terminal
from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.commands import options
from reproduce.judge.lookup import find
from reproduce.report import details, listing

# Cells that are shown one by one; more are shown as a table.
_FEW = 12


def show(
    names: options.Names,
    results: options.Results = RESULTS,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Print a cell or a record, and the command that repeats it; many cells as a table.

    Measures nothing.
    """
    shown = find(names, results, evaluations)
    if format == 'json':
        options.print_json(details.as_dict(shown))
    elif len(shown.cells) > _FEW:
        *tables, last = listing.render(shown.cells)
        some = details.address(shown.cells[0])
        terminal.show(*tables, f'{last} All that is known of one: show {some}')
    else:
        print('\n\n'.join(details.render(shown)))
