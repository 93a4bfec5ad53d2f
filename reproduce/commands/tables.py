"""`python -m reproduce tables`: the tables in Markdown and LaTeX."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, write_atomically
from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, split_names
from reproduce.judge.cells import load_results
from reproduce.paper import table_numbers
from reproduce.report import added_rows, layout, markup, speeds

app = typer.Typer(**SETTINGS)


class Markup(StrEnum):
    """What a table is written in."""

    MARKDOWN = 'markdown'
    LATEX = 'latex'


class Show(StrEnum):
    """Which value a cell shows."""

    MEASURED = 'measured'
    PRINTED = 'printed'
    BOTH = 'both'


@app.command()
def tables(
    tables: options.Tables = None,
    format: Annotated[
        Markup | None,
        typer.Option(
            '--format',
            help='markdown or latex (booktabs).  [default: markdown; both with --output]',
        ),
    ] = None,
    show: Annotated[
        Show,
        typer.Option(
            '--show',
            help='measured: in place of the printed value, where there is one; both: the printed '
            'one in parentheses beside it.',
        ),
    ] = Show.BOTH,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            '--rows',
            help="Only these: printed names ('Swin-T') or systems, comma-separated or repeated.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            '--columns', help='Only these, such as params_m,top1; comma-separated or repeated.'
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            '--with',
            help='Show more columns: layer_flops_g and total_flops_g, which are all in one '
            'convention, and images_per_s and peak_memory_mib as `make benchmark` measured them; '
            'comma-separated or repeated.',
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            '--add',
            help='A row of your own: an evaluation record by its file, stem or key, released '
            'weights by their name, with Ours= before it to name the row; parameters and FLOPs are '
            'counted. Or a CSV with the columns of one table (model, params_m, ..., and block for '
            'the MAFormer to stand behind), or with those of results/tableN.csv. Repeat for more.',
        ),
    ] = None,
    marks: Annotated[
        bool,
        typer.Option(
            '--marks/--no-marks', help='Mark what is measured, deviating, cited, and which FLOPs.'
        ),
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            '--output',
            help='Folder for tableN.md, tableN.tex and a tables.tex that compiles those; without, '
            'standard output.',
        ),
    ] = None,
    results: options.Results = RESULTS,
) -> None:
    """Write the paper's tables in Markdown or LaTeX, with measured values.

    Rows of your own can be added.
    """

    numbers = table_numbers(tables)
    found = load_results(results, numbers)
    measured_speeds = speeds.load_speeds(results)
    lines = {number: layout.lines(found, number, measured_speeds) for number in numbers}
    if show is Show.PRINTED:
        lines = {
            n: [line for line in of_table if not line.variant] for n, of_table in lines.items()
        }
    for what in add or []:
        lines = added_rows.add(lines, what, results / EVALUATIONS.name, measured_speeds)
    lines = markup.select_rows(lines, split_names(rows))
    chosen = markup.select_columns(numbers, split_names(columns), split_names(beside))
    wanted = any(name.endswith(tuple(layout.MEASURED)) for name in split_names(beside))
    if wanted and not measured_speeds:
        raise UserError(
            f'{results / speeds.FILE} does not exist: write it with `make benchmark` on the device '
            'whose speed is to be shown.'
        )
    systems = {c.system for of_table in lines.values() for x in of_table for c in x.cells.values()}
    shown = [layout.speed_of(name, measured_speeds) for name in systems] if wanted else []
    shown = [speed for speed in shown if speed is not None]
    note = speeds.conditions(sorted(shown, key=lambda s: s.size)) if shown else ''
    style = markup.Style(show.value, marks, note)
    formats = [format] if format else [Markup.MARKDOWN] if output is None else list(Markup)
    ways = {Markup.MARKDOWN: (markup.markdown, 'md'), Markup.LATEX: (markup.latex, 'tex')}
    texts = {
        f'table{number}.{ways[way][1]}': ways[way][0](lines[number], chosen[number], style)
        for way in formats
        for number in numbers
        if lines[number] and chosen[number]
    }
    if not texts:
        raise UserError('no table has both these rows and these columns: choose others.')
    if output is None:
        print('\n'.join(texts.values()), end='')
        return
    check_writable(output)
    for name, text in texts.items():
        write_atomically(output / name, text)
    written = [str(output / name) for name in texts]
    if Markup.LATEX in formats:
        together = sorted(path.stem for path in output.glob('table[1-7].tex'))
        write_atomically(output / 'tables.tex', markup.document(together))
        written.append(str(output / 'tables.tex'))
    print(f'Written: {", ".join(written)}.')
