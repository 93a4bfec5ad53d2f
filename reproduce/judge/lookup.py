"""Cells of the written tables and evaluation records, by whatever name a reader has for them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import COLUMNS
from reproduce.judge.verdict import COMPLEXITY_METRICS, Verdict, judge_reference
from reproduce.paper import METRICS, load_tolerances, read_csv, unprefixed
from reproduce.weights import registry
from reproduce.wording import extent

_TABLE = re.compile(r'(?:table|t)?_?(\d+)')


@dataclass(frozen=True)
class Shown:
    """What was found.

    Attributes:
        cells: lines of `results/tableN.csv`, by column.
        evaluations: the records that they come from, or the one that was asked for, by file.
    """

    cells: list[dict[str, str]]
    evaluations: dict[Path, Evaluation]

    def as_dict(self) -> dict[str, Any]:
        return {
            'cells': [{**cell, 'repeat': repeat(cell)} for cell in self.cells],
            'evaluations': [
                {
                    'file': str(path),
                    'config_sha256': e.config_sha256,
                    **e.model_dump(mode='json'),
                    'references': _references(e),
                }
                for path, e in self.evaluations.items()
            ],
        }


def find(words: Sequence[str], tables: Path, folder: Path) -> Shown:
    """What `words` names: a record, by its file, its stem or its hash, or cells.

    Cells are named by any of table, row or system, and metric, in any order, with slashes or spaces
    between them: 'table4/swin_tiny_patch4_window7_224/top1', '4 Swin-T top1', 'Swin-T'. A part of a
    name is enough where none is the whole of it.

    Args:
        tables: the folder of the tables' CSVs.
        folder: that of the records.

    Raises:
        UserError: if nothing is called so, naming what is nearest, or a file is damaged.
    """
    kept = {folder / f'{e.stem}.json': e for e in records.load_all(folder)}
    cells = _written(tables)
    if (record := _record(words, kept)) is not None:
        path, evaluation = record
        of_it = [c for c in cells if (behind := _behind(c, kept)) is not None and behind == path]
        return Shown(of_it, {path: evaluation})
    if not cells:
        raise UserError(f'{tables} has no tables: write them with `python -m reproduce table`.')
    chosen = _named(words, cells, [e.stem for e in kept.values()])
    behind = {path: kept[path] for c in chosen if (path := _behind(c, kept)) is not None}
    return Shown(chosen, behind)


def address(cell: Mapping[str, str]) -> str:
    """The one name of a cell: 'table5/SYSTEM/METRIC'."""
    return f'table{cell["table"]}/{cell["system"]}/{cell["metric"]}'


def repeat(cell: Mapping[str, str]) -> str:
    """The command that measures parameters or FLOPs again; '' for other cells."""
    if unprefixed(cell['metric']) not in COMPLEXITY_METRICS or cell['verdict'] == Verdict.CITED:
        return ''
    return f'python -m reproduce table {cell["table"]} --models {cell["system"]}'


def _written(folder: Path) -> list[dict[str, str]]:
    paths = [folder / f'table{number}.csv' for number in METRICS]
    return [cell for path in paths if path.is_file() for _, cell in read_csv(path, set(COLUMNS))]


def _record(words: Sequence[str], kept: dict[Path, Evaluation]) -> tuple[Path, Evaluation] | None:
    if len(words) != 1:
        return None
    path = Path(words[0])
    if path.suffix == '.json' and path.is_file():
        return path, records.load(path)
    for known, evaluation in kept.items():
        if f'{path.name}.'.startswith(f'{evaluation.stem}.') or words[0] == evaluation.key:
            return known, evaluation
    return None


def _named(
    words: Sequence[str], cells: list[dict[str, str]], stems: list[str]
) -> list[dict[str, str]]:
    """Those of `cells` that fit every part of `words`; `stems` are of the records."""
    for part in '/'.join(words).split('/'):
        name = _plain(part)
        fitting = [c for c in cells if name in {_plain(n) for n in _names(c)}] or [
            c
            for c in cells
            if name and any(f'_{name}' in f'_{_plain(c[key])}' for key in ('model', 'system'))
        ]
        if not fitting:
            known = {n.lower(): n for n in [*(n for c in cells for n in _names(c)), *stems]}
            near = [known[n] for n in get_close_matches(part.lower(), known, n=4, cutoff=0.3)]
            raise UserError(
                f"no cell or record is called '{'/'.join(words)}': for '{part}', the nearest are "
                f'{", ".join(near or sorted({address(c) for c in cells})[:3])}.'
            )
        cells = fitting
    return cells


def _names(cell: Mapping[str, str]) -> tuple[str, ...]:
    metric = cell['metric']
    return f'table{cell["table"]}', cell['model'], cell['system'], metric, unprefixed(metric)


def _plain(word: str) -> str:
    plain = re.sub(r'[\s\-_.…*]+', '_', word.lower()).strip('_')
    table = _TABLE.fullmatch(plain)
    return f'table_{table[1]}' if table else plain


def _behind(cell: Mapping[str, str], kept: dict[Path, Evaluation]) -> Path | None:
    """The file of the record that a cell comes from, or of one on a part of the data."""
    told = cell['system'], unprefixed(cell['metric'])
    whole = records.latest(kept.values(), *told)
    found = whole or records.latest(kept.values(), *told, complete=False)
    return found and next(path for path, evaluation in kept.items() if evaluation is found)


def render(shown: Shown) -> str:
    """Cells and records as text, a block each."""
    blocks = [_cell(c, shown.evaluations) for c in shown.cells]
    blocks += [_evaluation(path, e) for path, e in shown.evaluations.items()]
    return '\n\n'.join(blocks)


def _cell(cell: Mapping[str, str], evaluations: Mapping[Path, Evaluation]) -> str:
    convention = f' ({cell["convention"]} FLOPs)' if cell['convention'] else ''
    paper = cell['paper'] and f'{cell["paper"]} ± {float(cell["tolerance"]):.4g}'
    difference = cell['difference'] and f' ({float(cell["difference"]):+.4g} against the paper)'
    lines = {
        'row': f'{cell["model"]}{convention}',
        'paper': paper,
        'reference': cell['reference'],
        'measured': cell['measured'] and f'{cell["measured"]}{difference}',
        'verdict': cell['verdict'],
        'against the reference': cell['reference_verdict'],
        'reason': cell['reason'],
        'layer FLOPs': cell['layer_flops_g'] and f'{cell["layer_flops_g"]} G',
        'total FLOPs': cell['total_flops_g'] and f'{cell["total_flops_g"]} G',
        'repeat': repeat(cell),
        'note': _outdated(cell, evaluations),
    }
    return _block(address(cell), lines)


def _outdated(cell: Mapping[str, str], evaluations: Mapping[Path, Evaluation]) -> str:
    metric = unprefixed(cell['metric'])
    path = _behind(cell, dict(evaluations))
    if path is None or not evaluations[path].data.complete:
        return ''
    value = evaluations[path].metrics[metric]
    # The tables have six decimals.
    if cell['measured'] and abs(float(cell['measured']) - value) < 1e-6:
        return ''
    return f'the record says {value:.2f}: write the table again'


def _evaluation(path: Path, evaluation: Evaluation) -> str:
    e, p = evaluation, evaluation.provenance
    metrics = {
        name: f'{value:.2f}'
        + (' (95 %: {:.2f} to {:.2f})'.format(*e.intervals[name]) if name in e.intervals else '')
        for name, value in e.metrics.items()
    }
    lines = {
        'task': e.task,
        'model': e.model + ''.join(f' {name}={value}' for name, value in e.arguments.items()),
        'config': f'SHA-256 {e.config_sha256}',
        'checkpoint': f'{e.checkpoint.file}, SHA-256 {e.checkpoint.sha256}',
        'data': f'{e.data.split}, {extent(e.data.images, e.data.complete, e.data.problems)}, '
        f'{e.data.classes} classes, fingerprint {e.data.fingerprint}',
        'preprocessing': ', '.join(f'{k}={v}' for k, v in e.preprocessing.items()),
        'set by hand': ', '.join(e.overridden),
        'metrics': ', '.join(f'{name} {told}' for name, told in metrics.items()),
        **{
            f'reference {metric}': f'{r["value"]:.2f}, {r["verdict"]}: {r["source"]}'
            for metric, r in _references(e).items()
        },
        'date': p.date,
        'command': p.command,
        'commit': p.commit or 'not recorded',
        'device': f'{p.processes} x {p.device}, {e.precision}, batches of {p.batch_size}, '
        f'{p.seconds:.1f} s',
        'versions': ', '.join(f'{name} {version}' for name, version in p.versions.items()),
        'predictions': str(path.parent / e.predictions),
    }
    return _block(str(path), lines)


def _references(e: Evaluation) -> dict[str, dict[str, Any]]:
    """What the released weights score on these images, by metric, and the verdict on it."""
    found = registry.reference(e.checkpoint.sha256, e.data.fingerprint, e.data.complete)
    tolerance = load_tolerances()['reference']
    return {
        metric: {
            'value': value,
            'verdict': judge_reference(e.metrics[metric], value, e.data.images, tolerance),
            'source': found.source,
        }
        for metric, value in (found.metrics if found else {}).items()
        if metric in e.metrics
    }


def _block(title: str, lines: Mapping[str, str]) -> str:
    told = {name: text for name, text in lines.items() if text}
    width = max(map(len, told))
    return '\n'.join([title, *(f'  {name:{width}}  {text}' for name, text in told.items())])
