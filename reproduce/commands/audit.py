"""`python -m reproduce audit`: the paper against itself."""

from typing import Annotated

from typer import Option

from reproduce.audit import text
from reproduce.audit.findings import audit as run_audit
from reproduce.base.folders import RESULTS
from reproduce.commands import options


def audit(
    details: Annotated[
        bool, Option('--details', help='Show the evidence, the claims and the readings, too.')
    ] = False,
    results: options.Results = RESULTS,
    format: options.Format = 'text',
) -> None:
    """Check the paper against itself: its text, its tables, and their sources.

    Lists what is not so, ranked by how sure and how large it is. The exit status is 0 even so.
    """
    data, findings = run_audit(results)
    options.show(format, text.as_json(data, findings), *text.render(data, findings, details))
