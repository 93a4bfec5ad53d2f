"""Systems compared with each other on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reproduce.base.errors import DataNotFound, UserError
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.lookup import find_record
from reproduce.statistics.kept import KeptImages, file_names, read
from reproduce.statistics.paired import Difference, Paired, paired
from reproduce.statistics.significance import LEVEL, holm
from reproduce.tasks import TASKS
from reproduce.weights import registry

# By the kind of a task: the metrics that say which of two systems is better, and the suffixes of
# files of predictions.
_HEADLINES = {
    'classification': ('top1',),
    'detection': ('box_ap', 'mask_ap'),
    'segmentation': ('miou', 'ms_miou'),
}
_SUFFIXES = {
    'classification': ('.csv.gz', '.csv'),
    'detection': ('.json.gz', '.json'),
    'segmentation': ('.zip',),
}


@dataclass(frozen=True)
class Candidate:
    """One of the systems that are compared.

    Attributes:
        name: what it is called in the results.
        task: the name of its task.
        fingerprint: of the images.
        images: the counts of each image.
        predictions: the file or folder of its predictions.
        attestation: of its record, shortened; '' without one.
    """

    name: str
    task: str
    fingerprint: str
    images: KeptImages
    predictions: Path
    attestation: str = ''

    def as_dict(self) -> dict[str, str]:
        """Return its name, where it is from, and its attestation."""
        return {
            'name': self.name,
            'predictions': str(self.predictions),
            'attestation': self.attestation,
        }


class ImageDifference(NamedTuple):
    """How well two systems predict an image, in percent; `index` is its place in the data set."""

    index: int
    name: str
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same images.

    Attributes:
        paired: their differences in the metrics, and on single classes.
        images: those on which they differ most, the largest difference first.
    """

    first: Candidate
    second: Candidate
    paired: Paired
    images: list[ImageDifference]

    @property
    def headlines(self) -> list[Difference]:
        """The differences that say which is better."""
        names = _HEADLINES[TASKS[self.first.task].kind]
        return [self.paired.metrics[name] for name in names if name in self.paired.metrics]

    @property
    def worse(self) -> bool:
        """Whether the second is significantly worse in one of the headlines."""
        return any(d.significant and d.difference < 0 for d in self.headlines)

    def class_name(self, difference: Difference) -> str:
        return self.first.images.classes[difference.class_index]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            'first': self.first.as_dict(),
            'second': self.second.as_dict(),
            'metrics': {
                name: {**_values(d), 'interval': d.interval, 'significant': d.significant}
                for name, d in self.paired.metrics.items()
            },
            'classes': [
                {'class': self.class_name(d), 'metric': d.metric, **_values(d)}
                for d in self.paired.classes
            ],
            'images': [
                {'image': i.name, 'first': i.first, 'second': i.second} for i in self.images
            ],
            'worse': self.worse,
        }


def _values(d: Difference) -> dict[str, float | None]:
    return {'first': d.first, 'second': d.second, 'difference': d.difference, 'p': d.p}


@dataclass(frozen=True)
class Matrix:
    """Three systems or more, each compared with each other.

    Attributes:
        pairs: the comparison of each two, by their places among the candidates.
        corrected: the p value of each pair and headline, corrected by Holm for their number.
    """

    candidates: Sequence[Candidate]
    pairs: dict[tuple[int, int], Comparison]
    corrected: dict[tuple[int, int, str], float]

    @property
    def worse(self) -> bool:
        """Whether one is significantly worse than the first in one of the headlines."""
        return any(
            i == 0 and p < LEVEL and self.pairs[i, j].paired.metrics[metric].difference < 0
            for (i, j, metric), p in self.corrected.items()
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        pairs = []
        for (i, j), pair in self.pairs.items():
            corrected = {d.metric: self.corrected[i, j, d.metric] for d in pair.headlines}
            pairs.append({**pair.as_dict(), 'corrected_p': corrected})
        systems = [candidate.as_dict() for candidate in self.candidates]
        return {'systems': systems, 'pairs': pairs, 'worse': self.worse}


def compare(first: Candidate, second: Candidate, images: int = 5) -> Comparison:
    """Compare two systems on the same images.

    Args:
        images: how many of those on which they differ most are named.
    """
    one, other = first.images.statistics, second.images.statistics
    scores = np.nan_to_num([one.image_scores(), other.image_scores()])
    apart = np.abs(scores[1] - scores[0])
    most = [
        ImageDifference(int(i), first.images.images[i], *scores[:, i].tolist())
        for i in np.argsort(-apart, kind='stable')[:images]
        if apart[i]
    ]
    return Comparison(first, second, paired(one, other), most)


def matrix(candidates: Sequence[Candidate]) -> Matrix:
    """Compare each of several systems with each other."""
    pairs = {
        (i, j): compare(candidates[i], candidates[j])
        for i, j in combinations(range(len(candidates)), 2)
    }
    tests = {(*place, d.metric): d.p for place, pair in pairs.items() for d in pair.headlines}
    return Matrix(candidates, pairs, dict(zip(tests, holm(list(tests.values())), strict=True)))


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
    found = [_candidate(name, folder, data) for name in names]
    first = found[0]
    for other in found[1:]:
        if (first.task, first.fingerprint) != (other.task, other.fingerprint) or (
            first.images.images != other.images.images
        ):
            of_each = [
                f'{c.name} is of {c.task}, {c.images.statistics.images:,} images ({c.fingerprint})'
                for c in (first, other)
            ]
            raise UserError(
                f'only results on the same images can be compared; {" and ".join(of_each)}: '
                'evaluate both on the same data.'
            )
    return found


def _candidate(name: str, folder: Path, data: Path | None) -> Candidate:
    path = Path(name)
    if (kind := _kind_of_predictions(path)) is not None:
        task, fingerprint, images = _scored(path, kind, data)
        return Candidate(name, task, fingerprint, images, path)
    path, evaluation = _record(name, folder)
    predictions, kept = (path.parent / n for n in (evaluation.predictions, evaluation.statistics))
    if kept.is_file():
        images = read(kept)
    else:
        wanted = evaluation.data
        kind = TASKS[evaluation.task].kind
        _, fingerprint, images = _scored(predictions, kind, data, wanted.images)
        if fingerprint != wanted.fingerprint:
            raise UserError(
                f'{data} has other images ({fingerprint}) than {name} was evaluated on '
                f'({wanted.fingerprint}): name the folder of those with --data.'
            )
    attestation = evaluation.attestation.short if evaluation.attestation else ''
    fingerprint = evaluation.data.fingerprint
    return Candidate(
        evaluation.stem, evaluation.task, fingerprint, images, predictions, attestation
    )


def _kind_of_predictions(path: Path) -> str | None:
    """Return the kind of task that a file or folder of predictions is of; None for anything else.

    A JSON file is a list of detections, or a record, which is an object.
    """
    if path.is_dir():
        return 'segmentation'
    if not path.is_file():
        return None
    if path.suffix == '.json':
        with path.open('rb') as file:
            if file.read(1024).lstrip().startswith(b'{'):
                return None
    return next((kind for kind, ends in _SUFFIXES.items() if path.name.endswith(ends)), None)


def _record(name: str, folder: Path) -> tuple[Path, Evaluation]:
    """Return the record of that name, or the latest one of the system or weights of that name."""
    weights = {entry.name: entry.sha256 for entry in registry.load_manifest()}.get(name)
    fitting = [
        e
        for e in records.load_all(folder)
        if name in (e.system, e.model) or e.checkpoint.sha256 == weights
    ]
    if fitting and not Path(name).is_file():
        latest = max(fitting, key=lambda e: (not e.overridden, e.provenance.date))
        return folder / f'{latest.stem}.json', latest
    return find_record(name, folder)


def _scored(
    path: Path, kind: str, root: Path | None, images: int | None = None
) -> tuple[str, str, KeptImages]:
    """Score a file of predictions; return its task, the images' fingerprint, and the counts.

    Args:
        images: how many were predicted; None for all.
    """
    if root is None:
        raise UserError(
            f'{path} is compared by its predictions, which takes the data set: name its folder '
            'with --data.'
        )
    for task in (task for task in TASKS.values() if task.kind == kind):
        try:
            data = task.load_data(root) if images is None else task.load_part(root, images)
            break
        except DataNotFound as error:
            missing = error
    else:
        raise missing
    scores = task.score_file(path, data)
    kept = KeptImages(scores.statistics, file_names(data.samples), tuple(data.classes))
    return task.name, data.fingerprint, kept
