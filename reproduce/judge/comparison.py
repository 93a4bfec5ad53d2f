"""Systems compared with each other on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.base.errors import DataNotFound, UserError
from reproduce.judge.lookup import find_record
from reproduce.statistics.detection_metrics import ERROR_RESAMPLES, MatchedDetections
from reproduce.statistics.kept import KeptImages, read
from reproduce.statistics.paired import Difference, paired
from reproduce.statistics.significance import LEVEL, holm
from reproduce.tasks import SEGMENTATION, TASKS, Kind


@dataclass(frozen=True)
class Candidate:
    """One of the systems that are compared."""

    name: str
    task: str
    fingerprint: str  # of the images
    images: KeptImages
    attestation: str = ''  # of its record, shortened

    @property
    def images_key(self) -> tuple[str, str, str, tuple[str, ...]]:
        """What two results on the same images have in common."""
        return self.task, self.images.statistics.KIND, self.fingerprint, self.images.images


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same images."""

    first: Candidate
    second: Candidate
    metrics: dict[str, Difference]
    # The p values of the metrics that say which is better, corrected by Holm for the number of
    # systems that are compared with the first.
    corrected: dict[str, float]
    errors: dict[str, Difference]  # what each kind costs, of detectors

    @property
    def worse(self) -> bool:
        """Whether the second is significantly worse in a metric that says which is better."""
        return any(p < LEVEL and self.metrics[m].difference < 0 for m, p in self.corrected.items())

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        values = ('first', 'second', 'difference', 'interval', 'p', 'significant')

        def differences(of: dict[str, Difference]) -> dict[str, Any]:
            return {name: {value: getattr(d, value) for value in values} for name, d in of.items()}

        return {
            **{
                place: {'name': c.name, 'attestation': c.attestation}
                for place, c in (('first', self.first), ('second', self.second))
            },
            'metrics': differences(self.metrics),
            **({'errors': differences(self.errors)} if self.errors else {}),
            'corrected_p': self.corrected,
            'worse': self.worse,
        }


def compare(candidates: Sequence[Candidate]) -> list[Comparison]:
    """Compare the first of several systems on the same images with each of the others."""
    first, *others = candidates
    pairs = [paired(first.images.statistics, other.images.statistics) for other in others]
    corrected: list[dict[str, float]] = [{} for _ in pairs]
    for name in TASKS[first.task].kind.headlines:
        having = [i for i, pair in enumerate(pairs) if name in pair]
        for i, p in zip(having, holm([pairs[i][name].p for i in having]), strict=True):
            corrected[i][name] = p
    return [
        Comparison(first, other, pair, ps, _errors(first, other))
        for other, pair, ps in zip(others, pairs, corrected, strict=True)
    ]


def _errors(first: Candidate, second: Candidate) -> dict[str, Difference]:
    one, other = first.images.statistics, second.images.statistics
    if not (isinstance(one, MatchedDetections) and isinstance(other, MatchedDetections)):
        return {}
    return paired(one.errors, other.errors, ERROR_RESAMPLES)


def find_candidates(names: Sequence[str], folder: Path, data: Path | None) -> list[Candidate]:
    """Return the candidates of the given names, all on the same images.

    A name is that of a record (file, stem or key), of a system or of released weights, of which the
    latest record is taken, or of a file of predictions.

    Args:
        folder: of the records.
        data: the folder of the data set, with which files of predictions are scored.

    Raises:
        UserError: if a name is unknown, or two are not of the same images.
    """
    first, *others = (_candidate(name, folder, data) for name in names)
    for other in others:
        if first.images_key != other.images_key:
            sizes = [f'{c.images.statistics.images:,} images of {c.task}' for c in (first, other)]
            raise UserError(
                f'only results on the same images can be compared: {first.name} is of {sizes[0]} '
                f'({first.fingerprint}), and {other.name} of {sizes[1]} ({other.fingerprint}).'
            )
    return [first, *others]


def _candidate(name: str, folder: Path, data: Path | None) -> Candidate:
    path = Path(name)
    # A JSON file is a list of detections, or a record, which is an object.
    is_object = path.suffix == '.json' and path.is_file() and path.read_bytes()[:1] == b'{'
    kinds = [task.kind for task in TASKS.values() if path.name.endswith(task.kind.suffixes)]
    if path.is_dir():
        return _scored(path, SEGMENTATION, data)
    if kinds and path.is_file() and not is_object:
        return _scored(path, kinds[0], data)
    path, e = find_record(name, folder)
    attestation = e.attestation.short if e.attestation else ''
    images = read(path.parent / e.statistics)
    return Candidate(e.stem, e.task, e.data.fingerprint, images, attestation)


def _scored(path: Path, kind: Kind, root: Path | None) -> Candidate:
    """Score a file of predictions of whole data sets."""
    if root is None:
        raise UserError(f'{path} needs the data set to be compared: name its folder with --data.')
    for task in (task for task in TASKS.values() if task.kind == kind):
        try:
            data = task.load_data(root)
            break
        except DataNotFound as error:
            missing = error
    else:
        raise missing
    images = KeptImages(task.score_file(path, data).statistics, data.names, data.classes)
    return Candidate(str(path), task.name, data.fingerprint, images)
