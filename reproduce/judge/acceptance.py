"""A measured result becomes the reference of its weights in a manifest of checkpoints."""

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError

from datasets import load, shapes
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of, write_atomically
from reproduce.evaluate.records import Evaluation
from reproduce.paper import METRICS
from reproduce.statistics.kept import SUFFIX, read
from reproduce.tasks import TASKS
from reproduce.weights import registry, store
from reproduce.weights.registry import Released

# The metrics that a reference holds.
_ACCURACIES = {metric.name for metric in METRICS.values() if not metric.is_complexity}


@dataclass(frozen=True)
class NewEntry:
    """What a manifest says of weights and no record does: `weights` is their file or URL."""

    name: str
    licence: str
    weights: str


@dataclass(frozen=True)
class Accepted:
    """What was written: the reference of each metric before, if there was one, and now.

    Attributes:
        subset: what keeps the images from being the complete set; '' if they are.
    """

    name: str
    manifest: str
    images: int
    subset: str
    source: str
    changes: dict[str, tuple[float | None, float]]

    def as_dict(self) -> dict[str, Any]:
        changes = {m: {'old': old, 'new': new} for m, (old, new) in self.changes.items()}
        return asdict(self) | {'changes': changes}


def accept(
    evaluation: Evaluation,
    reason: str,
    manifest: Path = registry.MANIFEST,
    name: str | None = None,
    new: NewEntry | None = None,
    statistics: Path | None = None,
) -> Accepted:
    """Write what `evaluation` measured into `manifest`, as the reference of its weights.

    Comments and order of the file stay; it is replaced whole or not at all.

    Args:
        reason: why the new value is right; it goes into the reference's source.
        name: the entry; None takes the one with these weights.
        new: an entry to add instead.
        statistics: the file of what was counted on each image, to keep beside the manifest.

    Raises:
        UserError: if the evaluation is no sound measurement, or not one that the gate would make of
            the entry: of other weights, another model or preprocessing, in another precision.
    """
    # A link to a manifest stays one.
    manifest = manifest.resolve()
    if not reason.strip():
        raise UserError('a reference is not replaced without a reason: give --reason.')
    _check_sound(evaluation)
    entries = registry.load_manifest(manifest) if manifest.exists() or new is None else ()
    if new is None:
        name = _entry_of(evaluation, entries, manifest, name)
    elif new.name in {entry.name for entry in entries}:
        raise UserError(f'{manifest} has the checkpoint {new.name} already: name another.')
    try:
        document = tomlkit.parse(manifest.read_text() if manifest.exists() else '')
        listed = document.setdefault('checkpoint', tomlkit.aot())
        if new is not None:
            listed.append(_entry(evaluation, new, manifest))
            name = new.name
        content = next(entry for entry in listed if entry['name'] == name)
        _check_same(evaluation, Released.model_validate(content.unwrap()))
        source = _source(evaluation, reason)
        kept = None if statistics is None else _kept_counts(statistics, evaluation, name)
        changes = _change(content, evaluation, manifest, source, kept and kept[0])
        Released.model_validate(content.unwrap())
    except ValidationError as error:
        raise UserError(f'{manifest} cannot hold this: {error.errors()[0]["msg"]}.') from None
    except (OSError, TOMLKitError) as error:
        raise UserError(f'{manifest} cannot be edited: {error}.') from None
    if kept is not None:
        write_atomically(manifest.parent / kept[0], kept[1])
    write_atomically(manifest, tomlkit.dumps(document))
    registry.load_manifest.cache_clear()
    return Accepted(
        name, str(manifest), evaluation.data.images, _subset(evaluation), source, changes
    )


def _check_sound(evaluation: Evaluation) -> None:
    if evaluation.precision != 'fp32':
        raise UserError(
            f'{evaluation.stem} was measured in {evaluation.precision}, the gate measures in fp32: '
            'evaluate again without --amp.'
        )


def _entry_of(
    evaluation: Evaluation, entries: Sequence[Released], manifest: Path, name: str | None
) -> str:
    """Return the name of the one of `entries` that the evaluation is of; `name`, if it is that.

    Raises:
        UserError: if there is none, or several.
    """
    sha256 = evaluation.checkpoint.sha256
    weights = f'{evaluation.checkpoint.file}, SHA-256 {sha256[:16]}...,'
    hashes = {entry.name: entry.sha256 for entry in entries}
    if name is not None and name not in hashes:
        raise UserError(
            f'{manifest} has no checkpoint {name}: to add it, give --licence and --weights.'
        )
    if name is not None and hashes[name] != sha256:
        raise UserError(
            f'the record is of other weights than {name}: {weights} expected '
            f'{hashes[name][:16]}...; give them an entry of their own, with another --name, '
            '--licence and --weights.'
        )
    if name is not None:
        return name
    fitting = [known for known, hashed in hashes.items() if hashed == sha256]
    if not fitting:
        raise UserError(
            f'{manifest} has no entry for the weights of the record, {weights} to add one, give '
            '--name, --licence and --weights.'
        )
    if len(fitting) > 1:
        raise UserError(
            f'{manifest} has these weights as {", ".join(fitting)}: choose one with --name.'
        )
    return fitting[0]


def _entry(evaluation: Evaluation, new: NewEntry, manifest: Path) -> dict[str, Any]:
    """Return the entry of weights that are new to the manifest.

    Raises:
        UserError: if their file is not there or is not the one that was evaluated.
    """
    if '://' in new.weights:
        where = {'url': new.weights}
    else:
        path = Path(new.weights)
        if not path.is_file():
            raise UserError(f'the weights {path} do not exist: name their file or URL.')
        if sha256_of(path) != evaluation.checkpoint.sha256:
            raise UserError(
                f'{path} is not what the record is of, {evaluation.checkpoint.file}: its SHA-256 '
                f'is not {evaluation.checkpoint.sha256[:16]}...; name that one.'
            )
        file = os.path.relpath(path.resolve(), manifest.parent)
        if not store.is_below(file):
            raise UserError(
                f'{path} does not lie below {manifest.parent}, and a manifest names files below '
                'its folder only: put it there, or name a manifest in its folder with --manifest.'
            )
        where = {'file': file}
    entry = {
        'name': new.name,
        'task': evaluation.task,
        'model': evaluation.model,
        'arguments': _inline(evaluation.arguments),
        'preprocessing': _inline(_overrides(evaluation)),
        'multi_scale': 'ms_miou' in evaluation.metrics,
        **where,
        'sha256': evaluation.checkpoint.sha256,
        'licence': new.licence,
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


def _check_same(evaluation: Evaluation, entry: Released) -> None:
    """Check that the gate would measure for `entry` what was measured.

    Raises:
        UserError: naming the first difference.
    """
    pairs = {'task': (evaluation.task, entry.task)}
    if entry.task == evaluation.task:
        identity = TASKS[entry.task].identify(entry.model, entry.arguments, entry.preprocessing)
        pairs |= {k: (getattr(evaluation, k), v) for k, v in identity.items()}
        if expected := identity.get('preprocessing'):
            pairs |= {k: (v, expected.get(k)) for k, v in evaluation.preprocessing.items()}
            del pairs['preprocessing']
    pairs['multi_scale'] = ('ms_miou' in evaluation.metrics, entry.multi_scale)
    for what, (measured, expected) in pairs.items():
        if measured != expected:
            raise UserError(
                f'the record was measured with {what} {measured}, the entry {entry.name} says '
                f'{expected}: evaluate as the entry says, or correct it.'
            )


def _change(
    content: tomlkit.items.Table,
    evaluation: Evaluation,
    manifest: Path,
    source: str,
    statistics: str | None,
) -> dict[str, tuple[float | None, float]]:
    """Put the reference into an entry; returns each metric's value before and now.

    Args:
        statistics: the name of the file of its counts; None where none are kept.
    """
    data = evaluation.data
    references = content.setdefault('reference', tomlkit.aot())
    fitting = (
        (place, known)
        for place, known in enumerate(Released.model_validate(content.unwrap()).reference)
        if known.holds_for(data.fingerprint, data.complete)
    )
    place, known = next(fitting, (None, None))
    if known is None:
        chosen = {m: v for m, v in evaluation.metrics.items() if m in _ACCURACIES}
        references.append(_reference(evaluation, chosen, source))
        if statistics is not None:
            references[-1]['statistics'] = statistics
        return {metric: (None, value) for metric, value in chosen.items()}
    if lacking := known.metrics.keys() - evaluation.metrics.keys():
        raise UserError(
            f'the record has no {", ".join(sorted(lacking))}, which the reference has: evaluate '
            f'it, too, or take it out of {manifest}.'
        )
    for metric in known.metrics:
        references[place]['metrics'][metric] = evaluation.metrics[metric]
    references[place]['source'] = source
    if statistics is not None:
        references[place]['statistics'] = statistics
    else:
        references[place].pop('statistics', None)  # those of the earlier value
    return {m: (old, evaluation.metrics[m]) for m, old in known.metrics.items()}


def _kept_counts(path: Path, evaluation: Evaluation, name: str) -> tuple[str, bytes]:
    """Return the name that a file of counts gets beside the manifest, and its content.

    Raises:
        UserError: if it cannot be read, or is not of the evaluation.
    """
    found = read(path).statistics.of_all_images()
    if any(abs(found.get(k, -1) - v) > 1e-6 for k, v in evaluation.metrics.items()):
        raise UserError(f'{path} does not give the metrics of {evaluation.stem}: evaluate again.')
    return f'{name}-{evaluation.data.fingerprint}{SUFFIX}', path.read_bytes()


def _reference(evaluation: Evaluation, metrics: Mapping[str, float], source: str) -> dict[str, Any]:
    data = evaluation.data
    which = {} if data.complete else {'fingerprint': data.fingerprint}
    if not data.complete and _embedded(evaluation.task) == data.fingerprint:
        which = {'data': 'shapes', **which}
    return {**which, 'images': data.images, 'metrics': _inline(metrics), 'source': source}


def _subset(evaluation: Evaluation) -> str:
    """Return what the images lack to be the complete set; '' if they are it, or the drawn data."""
    data = evaluation.data
    if data.complete or _embedded(evaluation.task) == data.fingerprint:
        return ''
    return '; '.join(data.problems) or 'not the complete set'


@cache
def _embedded(task: str) -> str:
    """Return the fingerprint of the embedded data, as the gate draws them."""
    with TemporaryDirectory() as folder:
        shapes.write(Path(folder), train=0)
        return load(task, Path(folder)).fingerprint


def _inline(content: Mapping[str, Any]) -> tomlkit.items.InlineTable:
    table = tomlkit.inline_table()
    table.update(content)
    return table


def _source(evaluation: Evaluation, reason: str) -> str:
    """Why, who, when, from which record, with what: in words."""
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        who = f'user {os.getuid()}'
    p = evaluation.provenance
    versions = ', '.join(f'{k} {p.versions[k]}' for k in ('torch', 'timm') if k in p.versions)
    subset = _subset(evaluation)
    return (
        (f'ON A SUBSET OF {evaluation.data.images:,} IMAGES ({subset}): ' if subset else '')
        + f'{reason.strip().rstrip(".")}; accepted by {who}, {datetime.now(UTC):%Y-%m-%d}, from '
        f'{evaluation.stem}: {evaluation.origin}'
        + ''.join(f', {part}' for part in (versions, p.commit and f'commit {p.commit}') if part)
        + f', `{p.command}`'
    )


def render(accepted: Accepted) -> str:
    """Return what changed, a line for each metric."""
    width = max(map(len, accepted.changes))
    lines = [
        f'{metric:{width}}  {"none" if old is None else f"{old:.2f}"} -> {new:.2f}'
        + ('' if old is None else f'  ({new - old:+.2f})')
        for metric, (old, new) in accepted.changes.items()
    ]
    head = f'{accepted.name}, {accepted.images:,} images'
    warning = (
        [
            f'WARNING: a subset of the images ({accepted.subset}): the reference holds for these '
            f'{accepted.images:,} images alone, and says nothing about the complete set.'
        ]
        if accepted.subset
        else []
    )
    return '\n'.join([head, *lines, *warning, f'Written: {accepted.manifest}.'])
