"""One run of a study, in a process of its own: train, evaluate, and write the result.

    python -m reproduce.ablation.single_run WORK VARIANT SEED
    python -m reproduce.ablation.single_run WORK annotator

`execution` starts it. WORK/execution.json describes the study; the folder of the run gets what a
training writes, the evaluation's record, and at the end `result.json`.
"""

import json
import signal
import sys
import time
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from reproduce.ablation.study import Design, Study
from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.processes import end_with_parent
from reproduce.evaluate import harness
from reproduce.evaluate.apart import evaluate_command
from reproduce.train.classifier import train
from reproduce.train.jobs import TrainingJob
from reproduce.train.label_maps import make_labels
from reproduce.train.recipes import Recipe, recipe_for

RESULT = 'result.json'


class Execution(BaseModel):
    """A study, and where and how it is run. Paths are absolute.

    Attributes:
        work: the folder of trainings and of what has been measured so far.
        labels: the folder of the label maps; None where no variant needs them.
        seeds: the number of the study's seeds that are run.
        jobs: the number of runs at a time.
        workers: data-loading processes of each run.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    study: Study
    work: Path
    data: Path
    labels: Path | None
    seeds: int
    jobs: int
    device: str
    workers: int

    def recipe(self, variant: Design, seed: int) -> Recipe:
        """Return what a variant is trained by with a seed of the study.

        All variants begin with the weights of the study's first one where shapes agree.
        """
        study = self.study
        chosen = recipe_for(study.model, variant.token_labeling, study.recipe)
        networks = {
            'arguments': study.network(variant),
            'initial_arguments': study.network(study.variant[0]),
        }
        seed += variant.seed_offset
        return chosen.changed(**{**study.settings, **variant.settings, **networks, 'seed': seed})

    def folder(self, variant: Design, seed: int) -> Path:
        """Return the folder of a run."""
        return self.work / 'runs' / variant.name / str(seed)

    def job(self, recipe: Recipe, folder: Path, labels: Path | None = None) -> TrainingJob:
        """Return a training into `folder`, which resumes an earlier one there."""
        return TrainingJob(
            recipe=recipe,
            data=self.data,
            output=folder,
            labels=labels,
            resume=(folder / 'last.pth').exists(),
            workers=self.workers,
            device=self.device,
            train_images=self.study.train_images,
            val_images=self.study.val_images,
            in_memory=self.study.in_memory,
        )


def train_annotator(execution: Execution) -> None:
    """Train the study's annotator and write the label maps of all training images."""
    study, annotator = execution.study, execution.study.annotator
    settings = {**study.settings, 'img_size': annotator.img_size, 'epochs': annotator.epochs}
    recipe = recipe_for(annotator.model, name=study.recipe).changed(**settings)
    folder = execution.work / 'annotator'
    train(execution.job(recipe, folder))
    make_labels(
        annotator.model,
        execution.data,
        execution.labels,
        folder / 'model.safetensors',
        annotator.img_size,
        workers=execution.workers,
        device=execution.device,
    )
    write_atomically(folder / RESULT, '{}\n')


def train_variant(execution: Execution, variant: Design, seed: int) -> None:
    """Train a variant, evaluate it on all validation images, and write the result."""
    folder, recipe = execution.folder(variant, seed), execution.recipe(variant, seed)
    job = execution.job(recipe, folder, execution.labels if variant.token_labeling else None)
    begun = time.process_time()
    history = train(job)
    cpu_seconds = None if job.resume else round(time.process_time() - begun, 1)
    what = ('imagenet', recipe.model, folder / 'model.safetensors', execution.data)
    options = {
        'arguments': execution.study.network(variant),
        'preprocessing': {'img_size': recipe.img_size, 'crop_pct': recipe.test_crops[0]},
    }
    sys.argv = evaluate_command(*what, **options)  # the record has the command that repeats it
    workers, device = execution.workers, execution.device
    outcome = harness.evaluate(harness.Job(*what, **options, workers=workers, device=device))
    evaluation, record = outcome.evaluation, outcome.save(folder / 'evaluation')
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
            'record': record.stem,
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


def main(work: str, name: str, seed: str = '') -> None:
    """Carry out the run of a variant, or that of the annotator."""
    end_with_parent(signal.SIGTERM)  # if the study is killed, its runs save and end
    execution = Execution.model_validate_json((Path(work) / 'execution.json').read_text())
    torch.set_num_threads(execution.study.threads)
    try:
        if name == 'annotator':
            train_annotator(execution)
        else:
            variant = next(v for v in execution.study.variant if v.name == name)
            train_variant(execution, variant, int(seed))
    except UserError as error:
        print(f'{error.label}: {error}', file=sys.stderr, flush=True)
        sys.exit(error.status)


if __name__ == '__main__':
    main(*sys.argv[1:])
