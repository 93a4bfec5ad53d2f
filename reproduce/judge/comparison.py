"""Systems compared with each other on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reproduce.base.errors import DataNotFound, UserError
from reproduce.evaluate import records
from reproduce.judge.lookup import find_record
from reproduce.statistics.kept import KeptImages, read
from reproduce.statistics.paired import Difference, Paired, paired
from reproduce.statistics.significance import LEVEL, holm
from reproduce.tasks import SEGMENTATION, TASKS, Kind
from reproduce.weights import registry


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

    @property
    def images_key(self) -> tuple[str, str, str, tuple[str, ...]]:
        """What two results on the same images have in common."""
        return self.task, self.images.statistics.KIND, self.fingerprint, self.images.images


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
        corrected: the p values of the metrics that say which is better, corrected by Holm for the
            number of systems that are compared with the first.
    """

    first: Candidate
    second: Candidate
    paired: Paired
    images: list[ImageDifference]
    corrected: dict[str, float]

    @property
    def headlines(self) -> list[Difference]:
        """The differences that say which is better."""
        return [self.paired.metrics[name] for name in self.corrected]

    @property
    def worse(self) -> bool:
        """Whether the second is significantly worse in one of the headlines."""
        return any(
            p < LEVEL and self.paired.metrics[name].difference < 0
            for name, p in self.corrected.items()
        )

    def class_name(self, difference: Difference) -> str:
        return self.first.images.classes[difference.class_index]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        candidates = {
            place: {'name': c.name, 'predictions': str(c.predictions), 'attestation': c.attestation}
            for place, c in (('first', self.first), ('second', self.second))
        }
        values = ('first', 'second', 'difference', 'p')
        metrics = {
            name: {value: getattr(d, value) for value in (*values, 'interval', 'significant')}
            for name, d in self.paired.metrics.items()
        }
        classes = [
            {'class': self.class_name(d), 'metric': d.metric, **{v: getattr(d, v) for v in values}}
            for d in self.paired.classes
        ]
        images = [{'image': i.name, 'first': i.first, 'second': i.second} for i in self.images]
        of_all = {'metrics': metrics, 'classes': classes, 'images': images}
        return {**candidates, **of_all, 'corrected_p': self.corrected, 'worse': self.worse}


def compare(candidates: Sequence[Candidate], images: int = 5) -> list[Comparison]:
    """Compare the first of several systems on the same images with each of the others.

    Args:
        images: how many of those on which two differ most are named.
    """
    first, *others = candidates
    pairs = [paired(first.images.statistics, other.images.statistics) for other in others]
    names = [n for n in TASKS[first.task].kind.headlines if n in pairs[0].metrics]
    corrected = {name: holm([pair.metrics[name].p for pair in pairs]) for name in names}
    return [
        Comparison(
            first,
            other,
            pair,
            _most_different(first, other, images),
            {name: ps[i] for name, ps in corrected.items()},
        )
        for i, (other, pair) in enumerate(zip(others, pairs, strict=True))
    ]


def _most_different(first: Candidate, second: Candidate, n: int) -> list[ImageDifference]:
    systems = (first.images.statistics, second.images.statistics)
    scores = np.nan_to_num([system.image_scores() for system in systems])
    apart = np.abs(scores[1] - scores[0])
    return [
        ImageDifference(int(i), first.images.images[i], *scores[:, i].tolist())
        for i in np.argsort(-apart, kind='stable')[:n]
        if apart[i]
    ]


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
    if (kind := _kind_of_predictions(path)) is not None:
        return _scored(path, kind, data)
    weights = {entry.name: entry.sha256 for entry in registry.load_manifest()}.get(name)
    fitting = [
        e
        for e in records.load_all(folder)
        if name in (e.system, e.model) or e.checkpoint.sha256 == weights
    ]
    if fitting and not path.is_file():
        latest = max(fitting, key=lambda e: (not e.overridden, e.provenance.date))
        path, e = folder / f'{latest.stem}.json', latest
    else:
        path, e = find_record(name, folder)
    attestation = e.attestation.short if e.attestation else ''
    images = read(path.parent / e.statistics)
    predictions = path.parent / e.predictions
    return Candidate(e.stem, e.task, e.data.fingerprint, images, predictions, attestation)


def _kind_of_predictions(path: Path) -> Kind | None:
    """Return the kind of task that a file or folder of predictions is of; None for anything else.

    A JSON file is a list of detections, or a record, which is an object.
    """
    if path.is_dir():
        return SEGMENTATION
    if not path.is_file():
        return None
    if path.suffix == '.json' and path.read_bytes()[:1024].lstrip().startswith(b'{'):
        return None
    kinds = (task.kind for task in TASKS.values())
    return next((kind for kind in kinds if path.name.endswith(kind.suffixes)), None)


def _scored(path: Path, kind: Kind, root: Path | None) -> Candidate:
    """Score a file of predictions of whole data sets."""
    if root is None:
        raise UserError(
            f'{path} is compared by its predictions, which takes the data set: name its folder '
            'with --data.'
        )
    for task in (task for task in TASKS.values() if task.kind == kind):
        try:
            data = task.load_data(root)
            break
        except DataNotFound as error:
            missing = error
    else:
        raise missing
    images = KeptImages.of(task.score_file(path, data).statistics, data)
    return Candidate(str(path), task.name, data.fingerprint, images, path)
