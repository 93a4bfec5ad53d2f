"""The evaluation of a model: a loop over batches, whose predictions are scored and kept.

Model, data and metrics are separate. A task says how a `Job` is prepared (`reproduce.tasks.KIND`):
which images the model reads, how it predicts a batch, what scores the predictions and what keeps
them.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from datasets.subset import Split, evenly_spaced
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.base.gpus import check_precision, use_deterministic_algorithms
from reproduce.base.loading import Loader, default_workers
from reproduce.base.processes import Group, join
from reproduce.base.progress import Progress
from reproduce.base.quiet import quiet_libraries
from reproduce.base.versions import code_facts
from reproduce.evaluate import records
from reproduce.evaluate.attestation import attest, content_sha256
from reproduce.evaluate.unfinished import Found, Unfinished
from reproduce.statistics import kept
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job, Prepared, inference
from reproduce.weights import store

# Images whose bytes are compared between ranks: a fingerprint is over names and sizes only.
_COMPARED = 8


@dataclass(frozen=True)
class Outcome:
    """A record, the predictions that its metrics were computed from, and `KeptImages` of them."""

    evaluation: records.Evaluation
    predictions: bytes
    statistics: bytes
    unfinished: Unfinished

    def save(self, folder: Path) -> Path:
        """Write all of it into `folder`; return the record's path.

        Raises:
            UserError: if they cannot be written; what was measured is in its sentence.
        """
        e = self.evaluation
        try:
            path = records.save(e, self.predictions, folder, self.statistics)
        except UserError as error:
            measured = records.in_one_line(e.metrics)
            raise UserError(f'{error} Measured of {e.system or e.model}: {measured}.') from error
        self.unfinished.remove()
        return path


def evaluate(job: Job, folder: Path | None = None, resume: bool = False) -> Outcome | None:
    """Evaluate a model in this process, or in the ranks that it is one of.

    Every image counts exactly once, and an image is in the same batch on any number of processes.

    Args:
        folder: for the record: predictions are kept there until it is saved; None keeps none.
        resume: whether to continue with the predictions that an interrupted run has kept.

    Returns:
        the outcome; None in all ranks but the first.

    Raises:
        UserError: if the checkpoint, the data or an option is not what it should be, or an image
            cannot be read.
    """
    with join(job.device) as group, quiet_libraries():
        return _evaluate(group, job, folder, resume)


def _evaluate(group: Group, job: Job, folder: Path | None, resume: bool) -> Outcome | None:
    check_precision(group.device, job.amp)
    if job.deterministic:
        use_deterministic_algorithms()
    prepared = TASKS[job.task].prepare(job, group.device)
    sha256 = sha256_of(prepared.checkpoint)
    facts = _facts(job, prepared, sha256, group)
    group.check_same(lambda: facts)
    name = Path(prepared.described['system'] or prepared.described['model']).name
    unfinished = Unfinished(group, folder, name, facts, resume)
    start = time.perf_counter()
    found = _predict(prepared, group, job, unfinished)
    if found is None:
        return None
    predicted = [prediction for prediction, _ in found]
    scores = prepared.scorer.score(predicted)
    seconds = time.perf_counter() - start
    data = prepared.data
    hashes = data.hashes([sha256 for _, sha256 in found])
    evaluation = records.Evaluation(
        task=job.task,
        **prepared.described,
        checkpoint=records.Checkpoint(
            file=prepared.checkpoint.name,
            sha256=sha256,
            released=store.released_name(prepared.checkpoint, sha256),
        ),
        data=records.Data(
            split=data.split,
            images=len(data.samples),
            classes=len(data.classes),
            fingerprint=data.fingerprint,
            complete=data.complete,
            problems=data.problems,
            sha256=content_sha256(hashes),
        ),
        precision=job.amp or 'fp32',
        metrics=scores.metrics,
        intervals=scores.intervals,
        per_class=scores.per_class,
        warnings=(*prepared.notes, *scores.warnings),
        predictions=prepared.scorer.suffix,
        statistics=kept.SUFFIX,
        provenance=records.provenance(
            group.device,
            processes=group.size,
            batch_size=job.batch_size,
            seconds=round(seconds, 3),
            threads=torch.get_num_threads(),
            deterministic=job.deterministic,
            resumed=len(unfinished.earlier),
        ),
    )
    predictions = prepared.scorer.write(predicted)
    statistics = kept.KeptImages(scores.statistics, data.names, data.classes, hashes).to_bytes()
    attestation = attest(evaluation, predictions, statistics)
    evaluation = evaluation.model_copy(update={'attestation': attestation})
    return Outcome(evaluation, predictions, statistics, unfinished)


def _facts(job: Job, prepared: Prepared, sha256: str, group: Group) -> dict[str, Any]:
    """Return what decides the numbers of an evaluation, by name."""
    may_differ = ('checkpoint', 'data', 'workers')
    return {
        **code_facts(),
        **{name: value for name, value in vars(job).items() if name not in may_differ},
        **prepared.described,
        'device': group.device.type,
        'weights (SHA-256)': sha256,
        **data_facts(prepared.data),
    }


def data_facts(data: Split) -> dict[str, Any]:
    """Return what ranks have in common if they read the same images, for `Group.check_same`."""
    digest = hashlib.sha256()
    for path, _ in evenly_spaced(data.samples, _COMPARED):
        # An image that cannot be read is reported when its batch is.
        digest.update(path.read_bytes() if path.is_file() else b'')
    return {
        f'number of {data.split} images': len(data.samples),
        f'fingerprint of the {data.split} images': data.fingerprint,
        f'contents of the {data.split} images': digest.hexdigest()[:16],
    }


def _predict(
    prepared: Prepared, group: Group, job: Job, unfinished: Unfinished
) -> list[tuple[Any, str]] | None:
    """Predict every image once that no earlier run has predicted.

    Returns:
        the predictions and the hashes of the files of all images, in their order, in the first
        process; None in the others.
    """
    found, earlier = list[Found](), {index for index, *_ in unfinished.earlier}
    with inference(group.device, job.amp):
        for indices, (batch, hashes) in _batches(prepared, group, job, earlier):
            predicted = prepared.predict(indices, batch)
            found += (of_batch := [*zip(indices, predicted, hashes, strict=True)])
            unfinished.add(of_batch)
    everything = group.gather(found)
    if everything is None:
        return None
    everything = sorted([*unfinished.earlier, *everything], key=itemgetter(0))
    if [index for index, *_ in everything] != list(range(len(prepared.images))):
        raise RuntimeError('an image was not predicted exactly once')
    return [of_image[1:] for of_image in everything]


def _batches(
    prepared: Prepared, group: Group, job: Job, earlier: Collection[int]
) -> Iterator[tuple[list[int], Any]]:
    """Yield the indices of the images of each batch of this process, and the batch with the hashes.

    Batches are cut before they are dealt to the processes, so an image is in the same batch, and
    gets the same prediction, on any number of them. Those of `earlier` images are left out.
    """
    n = len(prepared.images)
    cut = [list(range(i, min(i + job.batch_size, n))) for i in range(0, n, job.batch_size)]
    left = [batch for batch in cut if batch[0] not in earlier]
    mine = left[group.rank :: group.size]
    workers = default_workers() if job.workers is None else job.workers
    loader = Loader(
        prepared.images,
        collate_fn=partial(_with_hashes, prepared.collate),
        batch_sampler=mine,
        num_workers=min(workers, len(mine)),
        pin_memory=group.device.type == 'cuda',
    )
    with Progress(total=n, initial=len(earlier), unit='image', disable=group.rank > 0) as bar:
        for i, (indices, batch) in enumerate(zip(mine, loader, strict=True)):
            yield indices, batch
            # This process is the first, and its i-th batch the first of a round of all.
            bar.update(sum(map(len, left[i * group.size : (i + 1) * group.size])))


def _with_hashes(collate: Callable[[list], Any], items: list[tuple[Any, str]]) -> tuple[Any, tuple]:
    """Return a batch of what the model reads, and the hashes of the images' files."""
    images, hashes = zip(*items, strict=True)
    return collate(list(images)), hashes
