"""A measured result becomes the reference of its weights in a manifest of checkpoints."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.paper import METRICS
from reproduce.tasks import TASKS
from reproduce.weights import registry, store
from reproduce.weights.registry import Released


def accept(
    record: Path,
    reason: str,
    manifest: Path = registry.MANIFEST,
    name: str | None = None,
    licence: str = '',
    weights: str | None = None,
) -> dict[str, Any]:
    """Write what the evaluation in `record` measured into `manifest`, as a reference.

    Comments and order of the file stay; it is replaced whole or not at all.

    Args:
        reason: why the new value is right; it goes into the reference's source.
        name: the entry; None takes the one with these weights.
        licence, weights: of an entry to add, named `name`: its licence, and the file or URL of its
            weights. With `weights` of None no entry is added.

    Returns:
        the entry's name, the manifest, the number of images, what is missing to the complete set
        (`subset`, '' if nothing is), the source, and the old and new value of each metric.

    Raises:
        UserError: if the evaluation is not of the entry's weights, or not in fp32.
    """
    manifest = manifest.resolve()  # a link to a manifest stays one
    evaluation = records.load(record)
    if evaluation.precision != 'fp32':
        raise UserError(
            f'{evaluation.stem} was measured in {evaluation.precision}, the gate measures in fp32: '
            'evaluate again without --amp.'
        )
    known = registry.load_manifest(manifest) if manifest.exists() or weights is None else ()
    if weights is None:
        name = _entry_of(evaluation, known, manifest, name)
    elif name in {entry.name for entry in known}:
        raise UserError(f'{manifest} has the checkpoint {name} already: give another --name.')
    try:
        document = tomlkit.parse(manifest.read_text() if manifest.exists() else '')
        entries = document.setdefault('checkpoint', tomlkit.aot())
        if weights is not None:
            entries.append(_new_entry(evaluation, name, licence, weights, manifest))
        entry = next(entry for entry in entries if entry['name'] == name)
        checked = Released.model_validate(entry.unwrap())
        if weights is not None and checked.file is not None:
            store.obtain(checked, manifest)
        place, old = _place(checked, evaluation)
        references = entry.setdefault('reference', tomlkit.aot())
        if place == len(references):
            references.append(_new_reference(evaluation))
        reference, new = references[place], evaluation.metrics
        metrics = old or {metric: None for metric in reference['metrics']}
        reference['metrics'].update({metric: new[metric] for metric in metrics})
        reference['source'] = _source(evaluation, reason)
        Released.model_validate(entry.unwrap())
    except ValidationError as error:
        raise UserError(f'{manifest} cannot hold this: {error.errors()[0]["msg"]}.') from None
    except (OSError, TOMLKitError) as error:
        raise UserError(f'{manifest} cannot be edited: {error}.') from None
    write_atomically(manifest, tomlkit.dumps(document))
    registry.load_manifest.cache_clear()
    return {
        'name': name,
        'manifest': str(manifest),
        'images': evaluation.data.images,
        'subset': _subset(evaluation),
        'source': reference['source'],
        'changes': {m: {'old': value, 'new': new[m]} for m, value in metrics.items()},
    }


def _entry_of(
    evaluation: Evaluation, known: tuple[Released, ...], manifest: Path, name: str | None
) -> str:
    """Return the name of the entry with the weights of the evaluation; `name`, if it is that."""
    sha256 = evaluation.checkpoint.sha256
    fitting = [e.name for e in known if e.sha256 == sha256 and name in (None, e.name)]
    if len(fitting) == 1:
        return fitting[0]
    found = f'entries {", ".join(fitting)}: choose one with --name' if fitting else 'no entry'
    named = f' {name}' if name else ''
    raise UserError(
        f'{manifest} has {found}{named} with the weights of the record, '
        f'{evaluation.checkpoint.file}, SHA-256 {sha256[:16]}...; to add one, give --name, '
        '--licence and --weights.'
    )


def _new_entry(
    evaluation: Evaluation, name: str, licence: str, weights: str, manifest: Path
) -> dict[str, Any]:
    """Return the entry of weights that are new to the manifest."""
    where = {'url': weights}
    if '://' not in weights:
        where = {'file': os.path.relpath(Path(weights).resolve(), manifest.parent)}
    preprocessing = {}
    if 'preprocessing' in TASKS[evaluation.task].kind.options:
        # What replaced the model's own, under the names of the options.
        size = evaluation.preprocessing['input_size'][-1]
        values = {**evaluation.preprocessing, 'img_size': size, 'use_train_size': True}
        replaced = sorted({*evaluation.overridden, *evaluation.from_weights})
        preprocessing = {option: values[option] for option in replaced}
    entry = {
        'name': name,
        'task': evaluation.task,
        'model': evaluation.model,
        'arguments': _inline(evaluation.arguments),
        'preprocessing': _inline(preprocessing),
        'multi_scale': 'ms_miou' in evaluation.metrics,
        **where,
        'sha256': evaluation.checkpoint.sha256,
        'licence': licence,
    }
    return {key: value for key, value in entry.items() if value or key == 'name'}


def _place(entry: Released, evaluation: Evaluation) -> tuple[int, dict[str, float]]:
    """Return the place of the reference on these images in an entry, and its metrics."""
    for place, known in enumerate(entry.reference):
        if known.holds_for(evaluation.data.fingerprint, evaluation.data.complete):
            if missing := sorted(known.metrics.keys() - evaluation.metrics.keys()):
                raise UserError(
                    f'the record has no {", ".join(missing)}, which the reference has: evaluate '
                    'it, too, or take it out of the manifest.'
                )
            return place, known.metrics
    return len(entry.reference), {}


def _new_reference(evaluation: Evaluation) -> dict[str, Any]:
    data = evaluation.data
    metrics = _inline({m: value for m, value in evaluation.metrics.items() if m in METRICS})
    which = {} if data.complete else {'fingerprint': data.fingerprint}
    embedded = {'data': 'shapes'} if _is_embedded(evaluation) else {}
    return {**embedded, **which, 'images': data.images, 'metrics': metrics}


def _inline(content: dict[str, Any]) -> InlineTable:
    table = tomlkit.inline_table()
    table.update(content)
    return table


def _is_embedded(evaluation: Evaluation) -> bool:
    """Return whether the images are the embedded data, as the gate draws them."""
    references = (r for entry in registry.load_manifest() for r in entry.reference)
    return evaluation.data.fingerprint in {r.fingerprint for r in references if r.data == 'shapes'}


def _subset(evaluation: Evaluation) -> str:
    """Return what is missing to the complete set; '' if nothing is."""
    data = evaluation.data
    complete = data.complete or _is_embedded(evaluation)
    return '' if complete else '; '.join(data.problems) or 'not the complete set'


def _source(evaluation: Evaluation, reason: str) -> str:
    """Return a sentence with reason, date, record, versions and command."""
    subset, p = _subset(evaluation), evaluation.provenance
    warning = f'ON A SUBSET OF {evaluation.data.images:,} IMAGES ({subset}): ' if subset else ''
    versions = ''.join(f', {n} {p.versions[n]}' for n in ('torch', 'timm') if n in p.versions)
    return (
        f'{warning}{reason.strip().rstrip(".")}; accepted {datetime.now(UTC):%Y-%m-%d} from '
        f'{evaluation.stem}: {evaluation.origin}{versions}, `{p.command}`'
    )
