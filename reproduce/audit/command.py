"""`python -m reproduce audit`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reproduce.options import RESULTS, Format, OutputFormat


def audit_command(
    results: Annotated[
        Path, typer.Option('--results', help='Folder of the measured tables.')
    ] = RESULTS,
    format: OutputFormat = Format.TEXT,
) -> None:
    """Hold the paper against itself: its text against its tables, its tables against each other.

    Lists what does not hold, each with its evidence. That is no failure: the exit status is 0.
    """
    from reproduce.audit import text
    from reproduce.audit.run import audit

    found = audit(results)
    if format is Format.JSON:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        print(text.render(found))
