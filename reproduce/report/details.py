"""All that is known about a cell or a record: what `show` prints, and the page when one clicks."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from reproduce.audit.sources import load_misprints
from reproduce.base.wording import extent
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import Found, address
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import Verdict
from reproduce.paper import load_tolerances
from reproduce.report.layout import off_by
from reproduce.systems import load_systems
from reproduce.weights.registry import Public, load_public


def render(found: Found) -> list[str]:
    """Return cells and records as text, a part for each."""
    parts = []
    for cell in found.cells:
        values = {
            'row': cell.model,
            'paper': cell.paper,
            'measured': '' if cell.measured is None else f'{cell.measured:.6f}',
            'verdict': cell.verdict,
            'reference': cell.reference,
            'against the reference': cell.reference_verdict,
        }
        parts.append((address(cell), values | cell_facts(cell) | {'record': cell.record}))
    for path, e in found.evaluations.items():
        attestation = e.attestation.short if e.attestation else 'none'
        files = {'predictions': str(path.parent / e.predictions), 'attestation': attestation}
        parts.append((str(path), record_facts(e) | files))
    return [_listed(title, facts) for title, facts in parts]


def as_dict(found: Found) -> dict[str, Any]:
    """Return cells and records as plain data."""
    cells = []
    for cell in found.cells:
        public = _public(cell) if to_measure(cell) else None
        commands = {'repeat': repeat(cell), 'to_measure': to_measure(cell)}
        values = cell.model_dump(mode='json')
        cells.append({**values, **commands, 'public_weights': public and public.url})
    return {
        'cells': cells,
        'evaluations': [
            {'file': str(path), **e.model_dump(mode='json'), 'references': _references(e)}
            for path, e in found.evaluations.items()
        ],
    }


def cell_facts(cell: Cell) -> dict[str, str]:
    """Return what is known about a cell besides its values, by name; without empty facts."""
    system = next(system for system in load_systems() if system.name == cell.system)
    flops = ''
    if cell.layer_flops_g is not None and cell.total_flops_g is not None:
        flops = (
            f'{cell.layer_flops_g:.2f} G in convolutions and linear layers, '
            f'{cell.total_flops_g:.2f} G with the products of attention; the printed value counts '
            f'the {"former" if cell.convention == "layer" else "latter"} ({cell.convention})'
        )
    arguments = ', '.join(f'{name}={value}' for name, value in system.arguments.items())
    weights = published = ''
    if cell.verdict is Verdict.NOT_RUN:
        weights = f'none are public; /weights/{cell.system}.safetensors is expected'
        if public := _public(cell):
            protocol = f'; {public.protocol}' if public.protocol else ''
            weights = f'{public.url} ({public.licence}{protocol})'
    if cell.reference:
        against = f', {cell.published.meaning}' if cell.published else ''
        published = f'{cell.reference}{against}: {cell.reference_source}'
    reason = _tolerances()[cell.column.metric.name].reason
    resolvable = f'differences from {cell.resolvable or 0:.2f} on, by the images of the data set'
    facts = {
        'off by': off_by(cell),
        'tolerance': f'± {cell.tolerance:.4g}. {reason}' if cell.tolerance is not None else '',
        'resolvable': resolvable if cell.resolvable is not None else '',
        'reason': cell.reason,
        'FLOPs': flops,
        'misprint': _misprints().get((cell.table, cell.model, cell.metric), ''),
        'published': published,
        'variant': cell.variant and f'{cell.variant}; the paper prints the row, not this variant',
        'system': cell.system,
        'config': system.config or '',
        'timm model': f'{system.model} {arguments}'.strip() if system.model else '',
        'source': system.source,
        'remark': system.note if system.note not in cell.reason else '',
        'weights': weights,
        'to measure it': ' && '.join(to_measure(cell)),
        'repeat': repeat(cell),
    }
    return {name: text for name, text in facts.items() if text}


def record_facts(evaluation: Evaluation) -> dict[str, str]:
    """Return what an evaluation's record says, by name; without empty facts."""
    e, p = evaluation, evaluation.provenance
    metrics = [
        f'{name} {value:.2f}'
        + (' (95 %: {:.2f} to {:.2f})'.format(*e.intervals[name]) if name in e.intervals else '')
        for name, value in e.metrics.items()
    ]
    facts = {
        'task': e.task,
        'model': e.model + ''.join(f' {name}={value}' for name, value in e.arguments.items()),
        'checkpoint': f'{e.checkpoint.file}, SHA-256 {e.checkpoint.sha256}',
        'data': f'{e.data.split}, {extent(e.data.images, e.data.complete, e.data.problems)}, '
        f'{e.data.classes} classes, fingerprint {e.data.fingerprint}',
        'preprocessing': ', '.join(f'{k}={v}' for k, v in e.preprocessing.items()),
        'set by hand': ', '.join(name for name in e.overridden if name not in e.from_weights),
        'set by the weights': ', '.join(e.from_weights),
        'metrics': ', '.join(metrics),
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
    }
    return {name: text for name, text in facts.items() if text}


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
    return next((entry for entry in load_public() if entry.system == cell.system), None)


def _references(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the published values of released weights on these images, by metric."""
    check = check_reference(evaluation)
    return {
        metric: {'value': check.value(metric), 'verdict': v, 'source': check.reference.source}
        for metric, v in check.verdicts.items()
    }


def _listed(title: str, facts: Mapping[str, str]) -> str:
    shown = {name: text for name, text in facts.items() if text}
    width = max(map(len, shown))
    return '\n'.join([title, *(f'  {name:{width}}  {text}' for name, text in shown.items())])


_tolerances = cache(load_tolerances)


@cache
def _misprints() -> dict[tuple[int, str, str], str]:
    return {misprint.key: misprint.reason for misprint in load_misprints()}
