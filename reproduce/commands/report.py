"""`python -m reproduce report`: everything as one HTML page."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from typer import Option

from reproduce.base.files import check_writable, write_atomically
from reproduce.base.folders import RESULTS
from reproduce.commands import options
from reproduce.evaluate.records import commit_of_checkout
from reproduce.judge.cells import load_results
from reproduce.judge.lookup import load_kept
from reproduce.paper import TABLES


def report(
    output: Annotated[Path, Option(help='The HTML file to write.')] = RESULTS / 'report.html',
    results: options.Results = RESULTS,
) -> None:
    """Write one HTML page with all tables, figures and the origin of each number.

    The page needs no other file. The audit's findings are on it where all tables are.
    """
    # Imported here, so that `--help` does not wait for matplotlib and scipy.
    from reproduce.ablation.outcomes import load_studies
    from reproduce.audit.findings import audit
    from reproduce.report import page

    check_writable(output.parent)
    found = load_results(results)
    findings = audit(results)[1] if {cell.table for cell in found} == set(TABLES) else ()
    commit = commit_of_checkout()
    origin = f'made on {datetime.now(UTC):%Y-%m-%d}' + (
        f' from commit {commit[:8]}' if commit else ''
    )
    origin += ', with changes' if commit.endswith('-dirty') else ''
    records = tuple(load_kept(results / 'evaluations').values())
    html = page.render(found, records, findings, load_studies(results), origin)
    write_atomically(output, html)
    print(f'The report: {output}')
