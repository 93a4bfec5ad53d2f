"""The runs of a study, each in a process of its own, and all of them resumable.

The work folder holds

    data/, labels/          of a study that draws its images, and whose annotator labels them
    annotator/              the annotator's training
    runs/VARIANT/SEED/      a training each, its log, the evaluation's record, and result.json
    study.toml, *.csv       what has been measured so far (see `outcomes`)

Runs are taken seed by seed, so that a study that is ended early has whole pairs.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets import shapes
from datasets.imagenet import load
from reproduce.ablation.outcomes import CurveLine, Outcomes, RunLine, TimeLine, VariantLine
from reproduce.ablation.single_run import RESULT, Execution
from reproduce.ablation.study import Study
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, read_toml, write_atomically
from reproduce.base.processes import join
from reproduce.complexity import flops as complexity
from reproduce.train.output_folder import claimed
from reproduce.train.recipes import recipe_for


def plan_execution(
    study: Study,
    work: Path,
    data: Path | None = None,
    labels: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Execution:
    """Return how a study is run, by options of which None takes the default.

    Raises:
        UserError: if one is missing, or does not fit the study.
    """
    if (study.drawn is None) == (data is None):
        needs = 'needs data: name its folder with' if data is None else 'draws its images: omit'
        raise UserError(f'the study {study.name} {needs} --data. {study.data}'.strip())
    needs_labels = study.annotator is None and any(v.token_labeling for v in study.variant)
    if needs_labels != (labels is not None):
        needs = 'needs label maps: name their folder with' if needs_labels else 'needs no'
        raise UserError(f'the study {study.name} {needs} --labels.')
    if seeds is not None and seeds > len(study.seeds):
        raise UserError(
            f'--seeds must be at most {len(study.seeds)}, the number that was fixed before the '
            f'study {study.name} was run, got {seeds}: for more, write a study with new seeds.'
        )
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
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
        # On CPUs the other cores have runs of their own.
        workers=workers if workers is not None else 4 if device == 'cuda' else 0,
    )


def execute(execution: Execution, output: Path) -> Outcomes:
    """Train and evaluate what is not yet done, and write what was measured into `output`.

    Raises:
        UserError: if something does not fit, or a run failed; what other runs have measured is in
            the work folder.
    """
    check_writable(output)
    study, work = execution.study, execution.work
    with join('cpu') as group, claimed(work, group):
        _check_earlier(study, work / 'study.toml')
        if study.drawn is not None and not (work / 'data').exists():
            unfinished = work / 'data.unfinished'
            shutil.rmtree(unfinished, ignore_errors=True)
            shapes.write(unfinished, study.drawn.train, study.drawn.val)
            unfinished.rename(work / 'data')
        train, val = load(execution.data, 'train', study.train_images), load(execution.data, 'val')
        variants = measure_variants(study, len(val.classes))
        for run in collect(execution, variants).runs:
            if (run.train_data, run.val_data) != (train.fingerprint, val.fingerprint):
                raise UserError(
                    f'the run {run.variant}, seed {run.seed}, was of other images than '
                    f'{execution.data} holds: continue with the same data, or name another folder '
                    'with --work.'
                )
        write_atomically(work / 'execution.json', execution.model_dump_json(indent=2) + '\n')
        if study.annotator:
            for _, error in _run_all(execution, {work / 'annotator': ('annotator',)}):
                if error:
                    raise UserError(f'the annotator could not be trained: {error}')
        runs = {
            execution.folder(variant, seed): (variant.name, str(seed))
            for seed in study.seeds[: execution.seeds]
            for variant in study.variant
        }
        failed = []
        for folder, error in _run_all(execution, runs):
            name = ', seed '.join(runs[folder])
            if error:
                failed.append(f'{name}: {error}')
                _print(f'failed: {failed[-1]}')
                continue
            collect(execution, variants).save(work)
            top1 = json.loads((folder / RESULT).read_text())['run']['top1']
            _print(f'{name}: top-1 {top1:.2f} %')
        if failed:
            raise UserError(
                f'{len(failed)} runs of the study {study.name} failed, the first of them '
                f'{failed[0]} What the others measured is in {work}: fix the cause and repeat the '
                'command.'
            )
        outcomes = collect(execution, variants)
        outcomes.save(output)
        return outcomes


def collect(execution: Execution, variants: tuple[VariantLine, ...]) -> Outcomes:
    """Return what has been measured so far."""
    study, runs, curves, times = execution.study, [], [], []
    for variant in study.variant:
        for seed in study.seeds:
            path = execution.folder(variant, seed) / RESULT
            if path.is_file():
                found = json.loads(path.read_text())
                key = {'variant': variant.name, 'seed': seed}
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
                f'the variant {variant.name} cannot be built with {network}: {error}'.splitlines()[
                    0
                ]
            ) from error
        counts = {name: getattr(counted, name) for name in ('params', 'layer_flops', 'total_flops')}
        found.append(VariantLine(variant=variant.name, says=variant.says, **counts))
    return tuple(found)


def _check_earlier(study: Study, path: Path) -> None:
    """Check that the runs in the work folder, if any, are of this study; write it down."""
    if path.exists():
        before, now = read_toml(path, Study).identity, study.identity
        if differ := [name for name in now if now[name] != before.get(name)]:
            raise UserError(
                f'{path.parent} has the runs of a study with another {differ[0]}: name another '
                'folder with --work, or remove it.'
            )
    write_atomically(path, study.to_toml())


def _run_all(execution: Execution, runs: dict[Path, tuple[str, ...]]) -> Iterator[tuple[Path, str]]:
    """Carry out the runs that have no result yet; yield the folder and the error of each, or ''.

    Args:
        runs: the arguments of `single_run` after the work folder, by the folder of the run.
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
        command = ['-m', 'reproduce.ablation.single_run', execution.work, *runs[folder]]
        with (folder / 'output.log').open('ab') as log:
            done = subprocess.run(
                [sys.executable, *command], stdout=log, stderr=log, env=environment
            )
        places.put(place)
        lines = (folder / 'output.log').read_text(errors='replace').strip().splitlines()
        return (lines or ['no output.'])[-1].removeprefix('error: ') if done.returncode else ''

    pending = [folder for folder in runs if not (folder / RESULT).is_file()]
    _print(f'{len(pending)} of {len(runs)} runs of the study {execution.study.name} are to be done')
    with ThreadPoolExecutor(execution.jobs) as pool:
        folders = {pool.submit(run, folder): folder for folder in pending}
        try:
            for future in as_completed(folders):
                yield folders[future], future.result()
        finally:  # also on Ctrl-C, which reaches the runs, too
            pool.shutdown(cancel_futures=True)


def _print(line: str) -> None:
    print(f'[{time.strftime("%H:%M:%S")}] {line}', file=sys.stderr, flush=True)
