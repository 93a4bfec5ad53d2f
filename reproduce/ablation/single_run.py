"""One run of a study, in a process of its own: train, evaluate, and say what came out.

`execution` starts it. The folder gets what a training writes, the evaluation's record, what the
process says (`output.log`), and at the end `result.json`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reproduce.base.distributed import end_with_the_parent
from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.evaluate import harness
from reproduce.evaluate.records import Evaluation, imagenet_command
from reproduce.train.classifier import TrainingJob, train
from reproduce.train.label_maps import make_labels
from reproduce.train.recipes import Recipe

RESULT = 'result.json'


class SingleRun(BaseModel):
    """What one process does.

    Attributes:
        recipe: of the training.
        data: the folder of the data set.
        labels: the folder of the label maps; None without token labeling.
        arguments: constructor arguments of the network, for its evaluation.
        train_images, val_images: as in a `TrainingJob`.
        in_memory, workers: as in a `TrainingJob`.
        device: 'cpu' or 'cuda'.
        makes_labels: the folder that the trained network writes label maps into, in place of being
            evaluated.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    recipe: Recipe
    data: Path
    labels: Path | None = None
    arguments: dict[str, Any] = {}
    train_images: int | None = None
    val_images: int | None = None
    in_memory: bool = False
    workers: int = 0
    device: str = 'cpu'
    makes_labels: Path | None = None


def carry_out(run: SingleRun, folder: Path) -> None:
    """Train into `folder`, going on from where an earlier process was, and use the weights.

    Raises:
        UserError: if something of it is not what it should be.
        TrainingStopped: if SIGTERM asked for it.
    """
    resume = (folder / 'last.pth').exists()
    job = TrainingJob(
        recipe=run.recipe,
        data=run.data,
        output=folder,
        labels=run.labels,
        resume=resume,
        workers=run.workers,
        device=run.device,
        train_images=run.train_images,
        val_images=run.val_images,
        in_memory=run.in_memory,
    )
    begun = time.process_time()
    history = train(job)
    cpu_seconds = None if resume else round(time.process_time() - begun, 1)
    weights = folder / 'model.safetensors'
    if run.makes_labels is not None:
        make_labels(
            run.recipe.model,
            run.data,
            run.makes_labels,
            weights,
            run.recipe.img_size,
            workers=run.workers,
            device=run.device,
        )
        write_atomically(folder / RESULT, '{}\n')
        return
    evaluation, path = _evaluate(run, weights, folder / 'evaluation')
    trained_on = json.loads((folder / 'recipe.json').read_text())
    result = {
        'run': {
            'top1': evaluation.metrics['top1'],
            'top5': evaluation.metrics['top5'],
            'epochs': len(history),
            'train_images': trained_on['data']['train']['images'],
            'train_data': trained_on['data']['train']['fingerprint'],
            'val_images': evaluation.data.images,
            'val_data': evaluation.data.fingerprint,
            'labels': (trained_on['labels'] or {}).get('checkpoint_sha256') or '',
            'weights': evaluation.checkpoint.sha256,
            'record': path.stem,
        },
        'curve': [
            {'epoch': row['epoch'], 'loss': row['loss'], 'top1': row['ema_top1']} for row in history
        ],
        'time': {
            'train_cpu_seconds': cpu_seconds,
            'train_seconds': round(sum(row['seconds'] for row in history), 1),
            'evaluation_seconds': round(evaluation.provenance.seconds, 1),
            'threads': evaluation.provenance.threads,
            'device': evaluation.provenance.device,
            'date': evaluation.provenance.date,
        },
    }
    write_atomically(folder / RESULT, json.dumps(result, indent=2) + '\n')


def _evaluate(run: SingleRun, weights: Path, output: Path) -> tuple[Evaluation, Path]:
    """Evaluate on all validation images, as `evaluate imagenet` does, and keep the record."""
    recipe = run.recipe
    preprocessing = {'img_size': recipe.img_size, 'crop_pct': recipe.test_crops[0]}
    # The record says by which command the evaluation is repeated.
    sys.argv = imagenet_command(
        recipe.model, str(weights), str(run.data), preprocessing, run.arguments
    )
    job = harness.Job(
        task='imagenet',
        model=recipe.model,
        checkpoint=weights,
        data=run.data,
        arguments=run.arguments,
        preprocessing=preprocessing,
        workers=run.workers,
        device=run.device,
    )
    outcome = harness.evaluate(job)
    return outcome.evaluation, outcome.save(output)


def main(run: SingleRun, folder: Path, gpu: str | None) -> None:
    """Carry out `run` in a process that has been started for it.

    Args:
        gpu: the one that it sees, as in CUDA_VISIBLE_DEVICES; None on CPUs.
    """
    # A study that is killed leaves nothing running: each training writes a checkpoint and ends.
    end_with_the_parent(signal.SIGTERM)
    os.setsid()  # an interrupt ends the study, which ends its runs
    if gpu is not None:
        os.environ['CUDA_VISIBLE_DEVICES'] = gpu
    with (folder / 'output.log').open('ab', buffering=0) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        carry_out(run, folder)
    except UserError as error:
        print(f'{error.label}: {error}', file=sys.stderr, flush=True)
        sys.exit(error.status)
