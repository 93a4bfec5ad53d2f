"""`python -m reproduce report`: everything as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from reproduce.audit.run import audit
from reproduce.commands import options
from reproduce.commands.options import SETTINGS
from reproduce.evaluate.records import load_all
from reproduce.files import check_writable, write_atomically
from reproduce.folders import RESULTS
from reproduce.judge.cells import load_results
from reproduce.paper import TABLES
from reproduce.report import page
from reproduce.report.studies import load_studies

app = typer.Typer(**SETTINGS)


@app.command()
def report(
    output: Annotated[Path, typer.Option('--output', help='The HTML file to write.')] = RESULTS
    / 'report.html',
    results: options.Results = RESULTS,
) -> None:
    """Write one HTML page with all tables, figures and the origin of each number.

    The page needs no other file. The audit's findings are on it where all seven tables are.
    """
    check_writable(output.parent)
    found = load_results(results)
    findings = audit(results).findings if {cell.table for cell in found} == set(TABLES) else ()
    studies = load_studies(results)
    records = load_all(results / 'evaluations')
    write_atomically(output, page.render(found, records, findings, studies))
    print(f'The report: {output}')
