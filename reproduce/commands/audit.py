"""`python -m reproduce audit`: the paper against itself."""

from typing import Annotated

import typer

from reproduce.audit import text
from reproduce.audit.run import audit as run_audit
from reproduce.base import terminal
from reproduce.base.folders import RESULTS
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json

app = typer.Typer(**SETTINGS)


@app.command()
def audit(
    details: Annotated[
        bool, typer.Option('--details', help='Show the evidence, the claims and the readings, too.')
    ] = False,
    results: options.Results = RESULTS,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Check the paper against itself: its text, its tables, and their sources.

    Lists what is not so, ranked by how sure and how large it is. The exit status is 0 even so.
    """
    data, findings = run_audit(results)
    if format is OutputFormat.JSON:
        print_json(text.as_json(data, findings))
    else:
        terminal.show(*text.render(data, findings, details))
