"""A measured result becomes the reference of its weights in a manifest of checkpoints."""

import getpass
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.paper import METRICS
from reproduce.statistics import kept
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
    keep_counts: bool = False,
) -> dict[str, Any]:
    """Write what the evaluation in `record` measured into `manifest`, as a reference.

    Comments and order of the file stay; it is replaced whole or not at all.

    Args:
        reason: why the new value is right; it goes into the reference's source.
        name: the entry; None takes the one with these weights.
        licence, weights: of an entry to add, named `name`: its licence, and the file or URL of its
            weights. With `weights` of None no entry is added.
        keep_counts: whether to keep the counts of each image next to the manifest, too.

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
    if keep_counts and not evaluation.statistics:
        raise UserError(
            f'{evaluation.stem} has no counts of each image, as an earlier version wrote it: '
            'evaluate again, or leave out --keep-counts.'
        )
    known = registry.load_manifest(manifest) if manifest.exists() or weights is None else ()
    if weights is None:
        name = _entry_of(evaluation, known, manifest, name)
    elif name in {entry.name for entry in known}:
        raise UserError(f'{manifest} has the checkpoint {name} already: give another --name.')
    source = _source(evaluation, reason)
    try:
        document = tomlkit.parse(manifest.read_text() if manifest.exists() else '')
        entries = document.setdefault('checkpoint', tomlkit.aot())
        if weights is not None:
            entries.append(_new_entry(evaluation, name, licence, weights, manifest))
        entry = next(entry for entry in entries if entry['name'] == name)
        checked = Released.model_validate(entry.unwrap())
        if weights is not None and checked.file is not None:
            store.obtain(checked, manifest)
        changes, reference = _change(entry, evaluation, source)
        reference.pop('statistics', None)  # of the earlier value
        if keep_counts:
            counts = (record.parent / evaluation.statistics).read_bytes()
            reference['statistics'] = f'{name}-{evaluation.data.fingerprint}{kept.SUFFIX}'
        Released.model_validate(entry.unwrap())
    except ValidationError as error:
        raise UserError(f'{manifest} cannot hold this: {error.errors()[0]["msg"]}.') from None
    except (OSError, TOMLKitError) as error:
        raise UserError(f'{manifest} cannot be edited: {error}.') from None
    if keep_counts:
        write_atomically(manifest.parent / reference['statistics'], counts)
    write_atomically(manifest, tomlkit.dumps(document))
    registry.load_manifest.cache_clear()
    return {
        'name': name,
        'manifest': str(manifest),
        'images': evaluation.data.images,
        'subset': _subset(evaluation),
        'source': source,
        'changes': changes,
    }


def _entry_of(
    evaluation: Evaluation, known: tuple[Released, ...], manifest: Path, name: str | None
) -> str:
    """Return the name of the entry with the weights of the evaluation; `name`, if it is that.

    Raises:
        UserError: if there is none, or several.
    """
    weights = evaluation.checkpoint
    fitting = [
        entry.name
        for entry in known
        if entry.sha256 == weights.sha256 and name in (None, entry.name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = f'the weights of the record, {weights.file}, SHA-256 {weights.sha256[:16]}...'
    if fitting:
        raise UserError(f'{manifest} has {what}, as {", ".join(fitting)}: choose one with --name.')
    entry = 'no entry' if name is None else f'no entry {name}'
    raise UserError(
        f'{manifest} has {entry} with {what}: to add one, give --name, --licence and --weights.'
    )


def _new_entry(
    evaluation: Evaluation, name: str, licence: str, weights: str, manifest: Path
) -> dict[str, Any]:
    """Return the entry of weights that are new to the manifest."""
    where = {'url': weights}
    if '://' not in weights:
        where = {'file': os.path.relpath(Path(weights).resolve(), manifest.parent)}
    entry = {
        'name': name,
        'task': evaluation.task,
        'model': evaluation.model,
        'arguments': _inline(evaluation.arguments),
        'preprocessing': _inline(_overrides(evaluation)),
        'multi_scale': 'ms_miou' in evaluation.metrics,
        **where,
        'sha256': evaluation.checkpoint.sha256,
        'licence': licence,
    }
    return {key: value for key, value in entry.items() if value or key == 'name'}


def _overrides(evaluation: Evaluation) -> dict[str, Any]:
    """Return what replaced the model's own preprocessing, under the names of the options."""
    if 'preprocessing' not in TASKS[evaluation.task].options:
        return {}
    size = evaluation.preprocessing['input_size'][-1]
    values = {**evaluation.preprocessing, 'img_size': size, 'use_train_size': True}
    replaced = {*evaluation.overridden, *evaluation.from_weights}
    return {name: values[name] for name in sorted(replaced)}


def _change(
    entry: Table, evaluation: Evaluation, source: str
) -> tuple[dict[str, dict[str, float | None]], Table | InlineTable]:
    """Put the reference into an entry; return each metric's value before and now, and it."""
    data, metrics = evaluation.data, evaluation.metrics
    references = entry.setdefault('reference', tomlkit.aot())
    for place, known in enumerate(Released.model_validate(entry.unwrap()).reference):
        if not known.holds_for(data.fingerprint, data.complete):
            continue
        if missing := known.metrics.keys() - metrics.keys():
            raise UserError(
                f'the record has no {", ".join(sorted(missing))}, which the reference has: '
                'evaluate it, too, or take it out of the manifest.'
            )
        for metric in known.metrics:
            references[place]['metrics'][metric] = metrics[metric]
        references[place]['source'] = source
        changes = {m: {'old': old, 'new': metrics[m]} for m, old in known.metrics.items()}
        return changes, references[place]
    chosen = {m: v for m, v in metrics.items() if m in METRICS}
    which = {} if data.complete else {'fingerprint': data.fingerprint}
    if _is_embedded(evaluation):
        which = {'data': 'shapes', **which}
    references.append(
        {**which, 'images': data.images, 'metrics': _inline(chosen), 'source': source}
    )
    return {metric: {'old': None, 'new': value} for metric, value in chosen.items()}, references[-1]


def _is_embedded(evaluation: Evaluation) -> bool:
    """Return whether the images are the embedded data, as the gate draws them."""
    return any(
        reference.data == 'shapes' and reference.fingerprint == evaluation.data.fingerprint
        for entry in registry.load_manifest()
        for reference in entry.reference
    )


def _subset(evaluation: Evaluation) -> str:
    data = evaluation.data
    if data.complete or _is_embedded(evaluation):
        return ''
    return '; '.join(data.problems) or 'not the complete set'


def _inline(content: Mapping[str, Any]) -> InlineTable:
    table = tomlkit.inline_table()
    table.update(content)
    return table


def _source(evaluation: Evaluation, reason: str) -> str:
    """Return a sentence with reason, user, date, record and versions."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        user = f'user {os.getuid()}'
    p = evaluation.provenance
    versions = [f'{name} {p.versions[name]}' for name in ('torch', 'timm') if name in p.versions]
    parts = [
        f'{reason.strip().rstrip(".")}; accepted by {user}',
        f'{datetime.now(UTC):%Y-%m-%d}',
        f'from {evaluation.stem}: {evaluation.origin}',
        *versions,
        *([f'commit {p.commit}'] if p.commit else []),
        f'`{p.command}`',
    ]
    subset = _subset(evaluation)
    warning = f'ON A SUBSET OF {evaluation.data.images:,} IMAGES ({subset}): ' if subset else ''
    return warning + ', '.join(parts)
