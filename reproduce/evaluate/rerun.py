"""Some images of a record predicted again, to find predictions that no model made."""

import random
from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.base.processes import join
from reproduce.base.quiet import quiet_libraries
from reproduce.evaluate import records
from reproduce.evaluate.attestation import CheckedPart, State, differing_metrics
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job, inference


def rerun(path: Path, checkpoint: Path, data: Path, images: int, seed: int) -> CheckedPart:
    """Score the predictions of a record again, and predict `images` of its images, drawn at random.

    Raises:
        UserError: if the record is not in fp32.
    """
    e = records.load(path)
    task, kept, n = TASKS[e.task], path.parent / e.predictions, e.data.images
    if e.precision != 'fp32':
        raise UserError(f'{path} is in {e.precision}: --rerun takes records in fp32.')
    preprocessing = e.preprocessing if 'preprocessing' in task.kind.options else {}
    multi_scale = 'ms_miou' in e.metrics
    what = e.task, e.model, str(checkpoint), data, e.arguments, preprocessing
    job = Job(*what, multi_scale=multi_scale, limit=n)
    with join() as group, quiet_libraries():
        prepared = task.prepare(job, group.device)
        wrong = differing_metrics(e, task.score_file(kept, prepared.data).metrics)
        chosen = sorted(random.Random(seed).sample(range(n), min(images, n)))
        with inference(group.device, None):
            # In the batch of the evaluation, where its padding changes what is predicted.
            size = e.provenance.batch_size if task.kind.padded_batches else 1
            again = {}
            for i in chosen:
                batch = list(range(n))[i - i % size :][:size]
                images_of = prepared.collate([prepared.images[j][0] for j in batch])
                again[i] = prepared.predict(batch, images_of)[i % size]
        differ = task.differing(kept, prepared.data, again)
    chance = f'1 - (1 - p)^{len(chosen)}, {1 - 0.99 ** len(chosen):.1%} for p = 1 %'
    reason = (
        f'{len(chosen):,} of {n:,} images, seed {seed}; a forged share p is found with {chance}'
    )
    if differ:
        first = prepared.data.names[differ[0]]
        reason = f'{len(differ):,} of {len(chosen):,} images, seed {seed}, first {first}'
    state = State.DIFFERS if wrong or differ else State.HOLDS
    return CheckedPart('rerun', state, wrong or reason)
