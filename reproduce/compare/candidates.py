"""What is compared: records, or files of predictions, with what was counted on each image."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.lookup import find_record
from reproduce.statistics import PerImage
from reproduce.statistics.kept import KeptImages, file_names, read
from reproduce.tasks import TASKS
from reproduce.weights import registry

# What a file of predictions is called, by its task.
_SUFFIXES = {'imagenet': ('.csv.gz', '.csv'), 'coco': ('.json.gz', '.json'), 'ade20k': ('.zip',)}


@dataclass(frozen=True)
class Candidate:
    """One of the systems that are compared.

    Attributes:
        name: what it is called in the results; unique among those compared.
        task: 'imagenet', 'coco' or 'ade20k'.
        fingerprint: of the images.
        images: what was counted on each of them.
        predictions: the file or folder of its predictions.
        attestation: of its record, shortened; '' without one.
    """

    name: str
    task: str
    fingerprint: str
    images: KeptImages
    predictions: Path
    attestation: str = ''

    @property
    def statistics(self) -> PerImage:
        return self.images.statistics


def find_candidates(names: list[str], folder: Path, data: Path | None) -> list[Candidate]:
    """Return what `names` name, all on the same images.

    A name is that of a record (file, stem or key), of a system or of released weights, of which the
    latest record is taken, or of a file of predictions.

    Args:
        folder: of the records.
        data: the folder of the data set, which files of predictions are scored with.

    Raises:
        UserError: if a name is unknown, or two are not of the same images.
    """
    found = [_candidate(name, folder, data) for name in names]
    for other in found[1:]:
        _check_same(found[0], other)
    taken: dict[str, int] = {}
    unique = []
    for one in found:
        taken[one.name] = taken.get(one.name, 0) + 1
        same = taken[one.name]
        unique.append(dataclasses.replace(one, name=f'{one.name} ({same})') if same > 1 else one)
    return unique


def _check_same(first: Candidate, other: Candidate) -> None:
    what = f'{first.name} and {other.name} cannot be compared: '
    if first.task != other.task:
        raise UserError(
            f'{what}one is of {first.task}, the other of {other.task}; name two of one task.'
        )
    if first.fingerprint != other.fingerprint or first.images.images != other.images.images:
        sizes = [f'{c.statistics.images:,} images ({c.fingerprint})' for c in (first, other)]
        raise UserError(
            f'{what}they are not of the same images, {sizes[0]} and {sizes[1]}; evaluate both on '
            'the same data.'
        )


def _candidate(name: str, folder: Path, data: Path | None) -> Candidate:
    path = Path(name)
    task = next((t for t, ends in _SUFFIXES.items() if path.name.endswith(ends)), None)
    if path.is_dir():
        task = 'ade20k'
    if task is not None and path.exists() and not _is_record(path):
        return _of_predictions(path, task, data)
    path, evaluation = _record(name, folder)
    predictions = path.parent / evaluation.predictions
    kept = path.parent / evaluation.statistics
    if evaluation.statistics and kept.is_file():
        images = read(kept)
    else:
        wanted = evaluation.data
        images, found = _scored(predictions, evaluation.task, data, wanted.images, name)
        if found != wanted.fingerprint:
            raise UserError(
                f'{data} has other images ({found}) than {name} was evaluated on '
                f'({wanted.fingerprint}): name the folder of those with --data.'
            )
    return Candidate(
        name=evaluation.stem,
        task=evaluation.task,
        fingerprint=evaluation.data.fingerprint,
        images=images,
        predictions=predictions,
        attestation=evaluation.attestation.short if evaluation.attestation else '',
    )


def _is_record(path: Path) -> bool:
    """Return whether a file is a record, and not one of detections, which is a list."""
    if path.suffix != '.json':
        return False
    with path.open('rb') as file:
        return file.read(1024).lstrip().startswith(b'{')


def _record(name: str, folder: Path) -> tuple[Path, Evaluation]:
    """Return the record of that name, or the latest one of the system or weights of that name."""
    kept = records.load_all(folder)
    weights = {entry.name: entry.sha256 for entry in registry.load_manifest()}.get(name)
    fitting = [e for e in kept if name in (e.system, e.model) or e.checkpoint.sha256 == weights]
    if fitting and not Path(name).is_file():
        latest = max(fitting, key=lambda e: (not e.overridden, e.provenance.date))
        return folder / f'{latest.stem}.json', latest
    return find_record(name, folder)


def _of_predictions(path: Path, task: str, data: Path | None) -> Candidate:
    images, fingerprint = _scored(path, task, data, None, str(path))
    return Candidate(path.name, task, fingerprint, images, path)


def _scored(
    path: Path, task: str, root: Path | None, images: int | None, name: str
) -> tuple[KeptImages, str]:
    """Score a file of predictions; return what was counted on each image, and the fingerprint.

    Args:
        images: how many were predicted; None for all.
        name: what the user called it.
    """
    if root is None:
        raise UserError(
            f'{name} is compared by its predictions, which takes the data set: name its folder '
            'with --data.'
        )
    of = TASKS[task]
    data = of.load_data(root) if images is None else of.load_part(root, images)
    scores = of.score_file(path, data)
    kept = KeptImages(scores.statistics, file_names(data.samples), tuple(data.classes))
    return kept, data.fingerprint
