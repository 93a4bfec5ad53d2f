"""Cells and records with everything that is known about them, as text and as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce.base.wording import extent
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import Found, address
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import Verdict
from reproduce.weights.registry import Public, load_public


def render(found: Found) -> str:
    """Return cells and records as text, a block each."""
    blocks = [_cell(cell, found) for cell in found.cells]
    blocks += [_evaluation(path, e) for path, e in found.evaluations.items()]
    return '\n\n'.join(blocks)


def as_dict(found: Found) -> dict[str, Any]:
    """Return cells and records as plain data."""
    return {
        'cells': [
            {
                **cell.model_dump(mode='json'),
                'repeat': repeat(cell),
                'to_measure': to_measure(cell),
                'public_weights': public.url if (public := _public(cell)) else None,
            }
            for cell in found.cells
        ],
        'evaluations': [
            {
                'file': str(path),
                'config_sha256': e.config_sha256,
                **e.model_dump(mode='json'),
                'references': _references(e),
            }
            for path, e in found.evaluations.items()
        ],
    }


def repeat(cell: Cell) -> str:
    """Return the command that measures parameters or FLOPs again; '' for other cells."""
    if not cell.column.metric.is_complexity or cell.verdict is Verdict.CITED:
        return ''
    return f'python -m reproduce table {cell.table} --models {cell.system}'


def to_measure(cell: Cell) -> list[str]:
    """Return the commands that measure an accuracy; none for one that was, and for other cells."""
    if cell.verdict is not Verdict.NOT_RUN:
        return []
    fetch = f'python -m reproduce checkpoints {cell.system} --checkpoints /weights --download'
    run = (
        f'python -m reproduce table {cell.table} --models {cell.system} --data /data '
        '--checkpoints /weights'
    )
    return [fetch, run] if _public(cell) else [run]


def _public(cell: Cell) -> Public | None:
    """Return the public weights that a cell that was not measured can be measured with."""
    if cell.verdict is not Verdict.NOT_RUN:
        return None
    return next((entry for entry in load_public() if entry.system == cell.system), None)


def _weights(cell: Cell) -> str:
    """Return which weights there are for a cell that was not measured; '' for others."""
    if cell.verdict is not Verdict.NOT_RUN:
        return ''
    if (public := _public(cell)) is None:
        return f'none are public; it takes /weights/{cell.system}.safetensors of your own'
    other = f'; {public.protocol}' if public.protocol else ''
    return f'{public.url} ({public.licence}{other})'


def _cell(cell: Cell, found: Found) -> str:
    convention = f' ({cell.convention} FLOPs)' if cell.convention else ''
    paper = cell.paper and f'{cell.paper} ± {cell.tolerance:.4g}'
    difference = ''
    if cell.difference is not None:
        difference = f' ({cell.difference:+.4g} against the paper)'
    lines = {
        'row': f'{cell.model}{convention}',
        'paper': paper,
        'resolvable': '' if cell.resolvable is None else f'{cell.resolvable:.2f}',
        'variant': cell.variant and f'{cell.variant}; the paper prints the row, not this variant',
        'reference': cell.reference,
        'published': _published(cell),
        'measured': '' if cell.measured is None else f'{cell.measured:.6f}{difference}',
        'verdict': cell.verdict,
        'against the reference': cell.reference_verdict,
        'reason': cell.reason,
        'layer FLOPs': _giga(cell.layer_flops_g),
        'total FLOPs': _giga(cell.total_flops_g),
        'record': cell.record,
        'repeat': repeat(cell),
        'weights': _weights(cell),
        'to measure it': ' && '.join(to_measure(cell)),
        'note': _outdated(cell, found),
    }
    return _block(address(cell), lines)


def _published(cell: Cell) -> str:
    against = f'{cell.published} against the paper; ' if cell.published else ''
    return f'{against}{cell.reference_source}' if cell.reference_source else ''


def _giga(flops: float | None) -> str:
    return '' if flops is None else f'{flops:.6f} G'


def _outdated(cell: Cell, found: Found) -> str:
    latest = found.latest.get(cell.key)
    if latest is None or not latest.data.complete:
        return ''
    value = latest.metrics[cell.column.metric.name]
    # A record that was measured again keeps its name; the tables have six decimals.
    same = cell.measured is not None and abs(cell.measured - value) < 1e-6
    if same and cell.record == latest.stem:
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
        'set by hand': ', '.join(name for name in e.overridden if name not in e.from_weights),
        'said by the weights': ', '.join(e.from_weights),
        'metrics': ', '.join(f'{name} {text}' for name, text in metrics.items()),
        'warnings': ' '.join(e.warnings),
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
        'attestation': e.attestation.short if e.attestation else 'none',
    }
    return _block(str(path), lines)


def _references(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return what the released weights score on these images, by metric, and the verdict on it."""
    check = check_reference(evaluation)
    return {
        metric: {
            'value': check.value(metric),
            'verdict': verdict,
            'source': check.reference.source,
        }
        for metric, verdict in check.verdicts.items()
    }


def _block(title: str, lines: Mapping[str, str]) -> str:
    shown = {name: text for name, text in lines.items() if text}
    width = max(map(len, shown))
    return '\n'.join([title, *(f'  {name:{width}}  {text}' for name, text in shown.items())])
