"""`python -m reproduce tables`: the tables in Markdown and LaTeX."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, write_atomically
from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.commands import options
from reproduce.commands.options import split_names
from reproduce.judge.cells import load_results
from reproduce.paper import table_numbers
from reproduce.report import layout, markup, own_rows

_WRITE = {'markdown': (markup.markdown, 'md'), 'latex': (markup.latex, 'tex')}


def tables(
    tables: options.Tables = None,
    format: Annotated[
        Literal['markdown', 'latex'] | None,
        Option(help='markdown or latex (booktabs).  [default: markdown; both with --output]'),
    ] = None,
    show: Annotated[
        Literal['measured', 'printed', 'both'],
        Option(
            help='measured: in place of the printed value, where there is one; both: the printed '
            'one follows in parentheses.'
        ),
    ] = 'both',
    rows: Annotated[
        list[str] | None,
        Option(
            help="Only these: printed names ('Swin-T') or systems, comma-separated or repeated."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        Option(
            help='Only these, such as params_m,total_flops_g,top1; comma-separated or repeated.'
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        Option(
            help='A row of your own: an evaluation record by its file, stem or key, with Ours= '
            'before it to name the row; parameters and FLOPs are counted. Or a CSV with columns of '
            "one table (model, params_m, ..., and block for the paper's model at the end of whose "
            'block the row is put). Repeat for more.'
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            help='Folder for tableN.md, tableN.tex and a tables.tex that compiles those; without, '
            'standard output.'
        ),
    ] = None,
    results: options.Results = RESULTS,
) -> None:
    """Write the paper's tables in Markdown or LaTeX, with measured values and rows of your own."""
    numbers = table_numbers(tables)
    lines = layout.all_lines(load_results(results, numbers))
    if show == 'printed':
        lines = {n: [x for x in of_table if not x.variant] for n, of_table in lines.items()}
    for what in add or []:
        lines = own_rows.add(lines, what, results / EVALUATIONS.name)
    built = [
        layout.shown_table(of_table, show, split_names(rows), split_names(columns))
        for of_table in lines.values()
    ]
    formats = [format] if format or output is None else list(_WRITE)
    texts = {
        f'table{table.number}.{suffix}': write(table)
        for write, suffix in (_WRITE[name or 'markdown'] for name in formats)
        for table in built
        if table.rows and table.columns
    }
    if not texts:
        raise UserError('no table has both these rows and these columns: choose others.')
    if output is None:
        print('\n'.join(texts.values()), end='')
        return
    check_writable(output)
    if format != 'markdown':
        names = {path.stem for path in output.glob('table[0-9]*.tex')}
        names |= {Path(name).stem for name in texts if name.endswith('.tex')}
        texts['tables.tex'] = markup.document(sorted(names))
    for name, text in texts.items():
        write_atomically(output / name, text)
    print(f'Written: {", ".join(str(output / name) for name in texts)}.')
