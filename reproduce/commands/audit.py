"""`python -m reproduce audit`: the paper against itself."""

import typer
from pydantic_core import to_jsonable_python

from reproduce.audit import text
from reproduce.audit.run import audit as run_audit
from reproduce.base import terminal
from reproduce.base.folders import RESULTS
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json

app = typer.Typer(**SETTINGS)


@app.command()
def audit(results: options.Results = RESULTS, format: options.Format = OutputFormat.TEXT) -> None:
    """Check the paper against itself: its text, its tables, and their sources.

    Lists what does not hold, each with its evidence. That is no failure: the exit status is 0.
    """
    found = run_audit(results)
    if format is OutputFormat.JSON:
        print_json(to_jsonable_python(found))
    else:
        terminal.show(*text.render(found))
