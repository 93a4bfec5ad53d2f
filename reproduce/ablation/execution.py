"""The runs of a study, each in a process of its own, and all of them resumable.

The work folder holds

    data/, labels/          of a study that draws its images, and whose annotator labels them
    annotator/              the annotator's training
    runs/VARIANT/SEED/      a training each, its log, the evaluation's record, and result.json
    execution.json          the study, and how it is run
    study.toml, *.csv       what has been measured so far (see `outcomes`)

Runs are taken seed by seed, so that a study that is ended early has whole pairs. Each is

    python -m reproduce.ablation.execution WORK VARIANT SEED     (or WORK annotator)
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets import shapes
from datasets.imagenet import load
from reproduce.ablation.outcomes import (
    CurveLine,
    Outcomes,
    RunLine,
    TimeLine,
    VariantLine,
    load_outcomes,
)
from reproduce.ablation.study import Design, Study
from reproduce.base.errors import UserError, first_line
from reproduce.base.files import check_writable, read_toml, write_atomically
from reproduce.base.processes import end_with_parent, join
from reproduce.complexity import measuring as complexity
from reproduce.evaluate import harness
from reproduce.evaluate.apart import evaluate_command
from reproduce.train.classifier import train
from reproduce.train.jobs import TrainingJob
from reproduce.train.label_maps import make_labels
from reproduce.train.output_folder import claimed
from reproduce.train.recipes import Recipe, recipe_for

_RESULT = 'result.json'


class Execution(BaseModel, extra='forbid', frozen=True):
    """A study, and where and how it is run. Paths are absolute."""

    study: Study
    work: Path
    data: Path
    labels: Path | None  # None where no variant needs them
    seeds: int  # the number of the study's seeds that are run
    jobs: int  # the number of runs at a time
    device: Literal['cpu', 'cuda']

    @property
    def workers(self) -> int:
        """Data-loading processes of each run; on CPUs the other cores have runs of their own."""
        return 4 if self.device == 'cuda' else 0

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

    def train(
        self, recipe: Recipe, folder: Path, labels: Path | None = None
    ) -> list[dict[str, float]]:
        """Train into `folder`, or resume an earlier training there; return its log."""
        job = TrainingJob(
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
        return train(job)


def plan_execution(
    study: Study,
    work: Path,
    data: Path | None = None,
    labels: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    device: Literal['cpu', 'cuda'] | None = None,
) -> Execution:
    """Return how a study is run, by options of which None takes the default.

    Raises:
        UserError: if the study needs data and none are named, or draws its own.
    """
    if (study.drawn is None) == (data is None):
        needs = 'needs data: name its folder with' if data is None else 'draws its images: omit'
        raise UserError(f'the study {study.name} {needs} --data. {study.data}'.strip())
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    cores = len(os.sched_getaffinity(0)) // study.threads
    work = work.absolute()
    return Execution(
        study=study,
        work=work,
        data=work / 'data' / 'imagenet' if data is None else data.absolute(),
        labels=labels.absolute() if labels else work / 'labels' if study.annotator else None,
        seeds=seeds or len(study.seeds),
        jobs=jobs or (torch.cuda.device_count() if device == 'cuda' else max(1, cores)),
        device=device,
    )


def execute(execution: Execution, output: Path, earlier: Path | None = None) -> Outcomes:
    """Train and evaluate what is not yet done, and write what was measured into `output`.

    Args:
        earlier: a folder of outcomes of the same study, whose runs are not repeated.

    Raises:
        UserError: if something does not fit, or a run failed; what other runs have measured is in
            the work folder.
    """
    check_writable(output)
    study, work = execution.study, execution.work
    before = load_outcomes(earlier) if earlier else Outcomes(study, (), (), (), ())
    _check_same(study, before.study, f'--earlier {earlier}')
    with join('cpu') as group, claimed(work, group):
        if (work / 'study.toml').exists():
            _check_same(study, read_toml(work / 'study.toml', Study), f'--work {work}')
        write_atomically(work / 'study.toml', study.to_toml())
        if study.drawn is not None and not (work / 'data').exists():
            unfinished = work / 'data.unfinished'
            shutil.rmtree(unfinished, ignore_errors=True)
            shapes.write(unfinished, study.drawn.train, study.drawn.val)
            unfinished.rename(work / 'data')
        train, val = load(execution.data, 'train', study.train_images), load(execution.data, 'val')
        variants = measure_variants(study, len(val.classes))
        for run in _collect(execution, variants, before).runs:
            if (run.train_data, run.val_data) != (train.fingerprint, val.fingerprint):
                raise UserError(
                    f'the run {run.variant}, seed {run.seed}, was of other images than those in '
                    f'{execution.data}: continue with the same data, or name another --work.'
                )
        write_atomically(work / 'execution.json', execution.model_dump_json(indent=2) + '\n')
        if study.annotator:
            for _, error in _run_all(execution, {work / 'annotator': ('annotator',)}):
                if error:
                    raise UserError(f'the annotator could not be trained: {error}')
        done = {(run.variant, run.seed) for run in before.runs}
        runs: dict[Path, tuple[str, ...]] = {
            execution.folder(variant, seed): (variant.name, str(seed))
            for seed in study.seeds[: execution.seeds]
            for variant in study.variant
            if (variant.name, seed) not in done
        }
        failed = []
        for folder, error in _run_all(execution, runs):
            if error:
                failed.append(f'{", seed ".join(runs[folder])}: {error}')
            _collect(execution, variants, before).save(work)
        if failed:
            raise UserError(
                f'{len(failed)} runs failed, first {failed[0]} What the others measured is in '
                f'{work}: fix the cause and repeat the command.'
            )
        outcomes = _collect(execution, variants, before)
        outcomes.save(output)
        return outcomes


def _check_same(study: Study, other: Study, where: str) -> None:
    then = other.identity
    if differ := [name for name, value in study.identity.items() if value != then.get(name)]:
        raise UserError(f'{where} is of a study with another {differ[0]}: name another folder.')


def _collect(execution: Execution, variants: tuple[VariantLine, ...], before: Outcomes) -> Outcomes:
    """Return what has been measured so far, here and before."""
    study = execution.study
    runs, curves, times = list(before.runs), list(before.curves), list(before.times)
    done = {(run.variant, run.seed) for run in runs}
    for variant in study.variant:
        for seed in study.seeds:
            path = execution.folder(variant, seed) / _RESULT
            if (variant.name, seed) not in done and path.is_file():
                found = json.loads(path.read_text())
                key: dict[str, Any] = {'variant': variant.name, 'seed': seed}
                runs.append(RunLine(**key, **found['run']))
                curves += [CurveLine(**key, **row) for row in found['curve']]
                times.append(TimeLine(**key, **found['time']))
    return Outcomes(study, tuple(runs), tuple(curves), variants, tuple(times))


def measure_variants(study: Study, num_classes: int) -> tuple[VariantLine, ...]:
    """Return the parameters and FLOPs of each variant, of one image of the study's size.

    Raises:
        UserError: if one cannot be built.
    """
    size = recipe_for(study.model, name=study.recipe).changed(**study.settings).img_size
    found = []
    for variant in study.variant:
        network = study.network(variant)
        try:
            counted = complexity.count_classifier(
                study.model, size, num_classes=num_classes, **network
            )
        except Exception as error:  # whatever a constructor raises
            raise UserError(
                f'the variant {variant.name} cannot be built with {network}: {first_line(error)}'
            ) from error
        counts = {name: getattr(counted, name) for name in ('params', 'layer_flops', 'total_flops')}
        found.append(VariantLine(variant=variant.name, says=variant.says, **counts))
    return tuple(found)


def _run_all(execution: Execution, runs: dict[Path, tuple[str, ...]]) -> Iterator[tuple[Path, str]]:
    """Carry out the `runs` without a result: the arguments of the process of each, by its folder.

    Yields:
        the folder and the error of each, '' for none.
    """
    gpus = [gpu for gpu in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if gpu]
    gpus = gpus or [str(gpu) for gpu in range(torch.cuda.device_count())]
    places: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(execution.jobs):
        places.put(place)

    def run(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        place = places.get()
        environment = {**os.environ, 'OMP_NUM_THREADS': str(execution.study.threads)}
        if execution.device == 'cuda':
            environment['CUDA_VISIBLE_DEVICES'] = gpus[place % len(gpus)]
        command = [sys.executable, '-m', __spec__.name, str(execution.work), *runs[folder]]
        with (folder / 'output.log').open('ab') as log:
            done = subprocess.run(command, stdout=log, stderr=log, env=environment)
        places.put(place)
        lines = (folder / 'output.log').read_text(errors='replace').strip().splitlines()
        return (lines or ['no output.'])[-1].removeprefix('error: ') if done.returncode else ''

    pending = [folder for folder in runs if not (folder / _RESULT).is_file()]
    with ThreadPoolExecutor(execution.jobs) as pool:
        folders = {pool.submit(run, folder): folder for folder in pending}
        try:
            for number, future in enumerate(as_completed(folders), 1):
                folder, error = folders[future], future.result()
                what = f'{" ".join(runs[folder])} {"failed" if error else "done"}'
                print(f'{what}, {number} of {len(pending)} runs', file=sys.stderr, flush=True)
                yield folder, error
        finally:  # also on Ctrl-C, which reaches the runs, too
            pool.shutdown(cancel_futures=True)


def _train_annotator(execution: Execution) -> None:
    """Train the study's annotator and write the label maps of all training images."""
    study, annotator = execution.study, execution.study.annotator
    settings = {**study.settings, 'img_size': annotator.img_size, 'epochs': annotator.epochs}
    folder = execution.work / 'annotator'
    execution.train(recipe_for(annotator.model, name=study.recipe).changed(**settings), folder)
    make_labels(
        annotator.model,
        execution.data,
        execution.labels,
        folder / 'model.safetensors',
        annotator.img_size,
        workers=execution.workers,
        device=execution.device,
    )
    write_atomically(folder / _RESULT, '{}\n')


def _train_variant(execution: Execution, variant: Design, seed: int) -> None:
    """Train a variant, evaluate it on all validation images, and write the result."""
    folder, recipe = execution.folder(variant, seed), execution.recipe(variant, seed)
    is_resumed, begun = (folder / 'last.pth').exists(), time.process_time()
    history = execution.train(recipe, folder, execution.labels if variant.token_labeling else None)
    cpu_seconds = None if is_resumed else round(time.process_time() - begun, 1)
    what = ('imagenet', recipe.model, str(folder / 'model.safetensors'), execution.data)
    options: dict[str, Any] = {
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
    write_atomically(folder / _RESULT, json.dumps(result, indent=2) + '\n')


def _run(work: str, name: str, seed: str = '') -> None:
    """Carry out the run of a variant, or that of the annotator, in this process."""
    end_with_parent(signal.SIGTERM)  # if the study is killed, its runs save and end
    execution = Execution.model_validate_json((Path(work) / 'execution.json').read_text())
    torch.set_num_threads(execution.study.threads)
    try:
        if name == 'annotator':
            _train_annotator(execution)
        else:
            variant = next(v for v in execution.study.variant if v.name == name)
            _train_variant(execution, variant, int(seed))
    except UserError as error:
        print(f'{error.label}: {error}', file=sys.stderr, flush=True)
        sys.exit(error.status)


if __name__ == '__main__':
    _run(*sys.argv[1:])
