"""`python -m reproduce tables`, `figures` and `report`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reproduce.errors import UserError
from reproduce.options import RESULTS

REPORT = RESULTS / 'report.html'


class Format(StrEnum):
    """What a table is written in."""

    MARKDOWN = 'markdown'
    LATEX = 'latex'


class Show(StrEnum):
    """Which value a cell shows."""

    MEASURED = 'measured'
    PRINTED = 'printed'
    BOTH = 'both'


Results = Annotated[
    Path, typer.Option('--results', help='Folder with table1.csv ... table7.csv and evaluations/.')
]


def tables_command(
    tables: Annotated[
        list[int] | None, typer.Argument(help='Tables of the paper, 1-7; all if none is named.')
    ] = None,
    format: Annotated[
        Format | None,
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
    add: Annotated[
        list[Path] | None,
        typer.Option(
            '--add',
            help='CSV with rows of your own: the columns of one table (model, params_m, ..., and '
            'block for the MAFormer to stand behind), or those of results/tableN.csv. Repeat for '
            'more.',
        ),
    ] = None,
    marks: Annotated[
        bool, typer.Option('--marks/--no-marks', help='Mark what is measured, deviating, cited.')
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            '--output',
            help='Folder for tableN.md, tableN.tex and a tables.tex that compiles those; without, '
            'standard output.',
        ),
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Set the paper's tables in Markdown and LaTeX, with measured values and rows of your own."""
    from reproduce.cells import load_results
    from reproduce.files import check_writable, write_atomically
    from reproduce.paper import table_numbers
    from reproduce.report import layout
    from reproduce.report import tables as setting

    numbers = table_numbers(tables)
    found = load_results(results, numbers)
    lines = {number: layout.lines(found, number) for number in numbers}
    if show is Show.PRINTED:
        lines = {
            n: [line for line in of_table if not line.variant] for n, of_table in lines.items()
        }
    for path in add or []:
        lines = setting.add(lines, path)
    lines = setting.select_rows(lines, _names(rows))
    chosen = setting.select_columns(numbers, _names(columns))
    style = setting.Style(show.value, marks)
    formats = [format] if format else [Format.MARKDOWN] if output is None else list(Format)
    ways = {Format.MARKDOWN: (setting.markdown, 'md'), Format.LATEX: (setting.latex, 'tex')}
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
    if Format.LATEX in formats:
        together = sorted(path.stem for path in output.glob('table[1-7].tex'))
        write_atomically(output / 'tables.tex', setting.document(together))
        written.append(str(output / 'tables.tex'))
    print(f'Written: {", ".join(written)}.')


def figures_command(
    output: Annotated[
        Path, typer.Option('--output', help='Folder for the figures, each as PDF and PNG.')
    ] = RESULTS / 'figures',
    results: Results = RESULTS,
) -> None:
    """Draw accuracy over cost, the deviations from the paper, and results by class."""
    import io

    from reproduce.cells import load_results
    from reproduce.files import check_writable, write_atomically
    from reproduce.records import load_all
    from reproduce.report import figures

    check_writable(output)
    drawn = figures.figures(load_results(results), load_all(results / 'evaluations'))
    for name, (_, figure) in drawn.items():
        for format in ('pdf', 'png'):
            content = io.BytesIO()
            figures.save(figure, content, format)
            write_atomically(output / f'{name}.{format}', content.getvalue())
    print(f'Written: {len(drawn)} figures, each as PDF and PNG, in {output}.')


def report_command(
    output: Annotated[Path, typer.Option('--output', help='The HTML file to write.')] = REPORT,
    results: Results = RESULTS,
) -> None:
    """Write one self-contained HTML page with all tables, figures and where each number is from.

    What the audit finds is on it where all seven tables are.
    """
    from reproduce.audit.run import audit
    from reproduce.cells import load_results
    from reproduce.files import check_writable, write_atomically
    from reproduce.paper import METRICS
    from reproduce.records import load_all
    from reproduce.report import page

    check_writable(output.parent)
    found = load_results(results)
    findings = audit(results).findings if {cell.table for cell in found} == set(METRICS) else ()
    write_atomically(output, page.render(found, load_all(results / 'evaluations'), findings))
    print(f'The report: {output}')


def _names(entries: list[str] | None) -> list[str]:
    return [name.strip() for entry in entries or [] for name in entry.split(',') if name.strip()]
