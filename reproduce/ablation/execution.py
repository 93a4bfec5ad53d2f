"""The runs of a study, side by side, each in a process of its own, and all of them resumable.

The work folder holds

    data/, labels/          of a study that draws its images, and whose annotator labels them
    annotator/              the annotator's training
    runs/VARIANT/SEED/      a training each, its log, the evaluation's record, and result.json
    study.toml, *.csv       what has been measured so far (see `outcomes`)

Runs are taken seed by seed, so that a study that is ended early has whole pairs.
"""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets import shapes
from datasets.imagenet import ImageNet, load
from reproduce.ablation import single_run
from reproduce.ablation.outcomes import CurveLine, Outcomes, RunLine, TimeLine, VariantLine
from reproduce.ablation.single_run import RESULT, SingleRun
from reproduce.ablation.study import Design, Study
from reproduce.base import launcher
from reproduce.base.data_loader import check_workers
from reproduce.base.distributed import join
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, read_toml, write_atomically
from reproduce.complexity import flops as complexity
from reproduce.train.output_folder import claimed
from reproduce.train.recipes import Recipe, recipe_for
from reproduce.train.stopping import StopRequests, TrainingStopped

_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Execution:
    """A study, and where it takes place.

    Attributes:
        work: the folder of trainings and of what has been measured so far.
        data: the folder of the data set; None for a study that draws its own.
        labels: the folder of the label maps; None where the study has an annotator.
        jobs: so many runs at a time; None takes one a GPU, or as many as the cores allow.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.
        workers: processes that read images, for each run; None takes none on CPUs, where the other
            cores have runs of their own, and four on GPUs.
    """

    study: Study
    work: Path
    data: Path | None = None
    labels: Path | None = None
    jobs: int | None = None
    device: str | None = None
    workers: int | None = None

    @property
    def kind(self) -> str:
        """The kind of device that is used."""
        return self.device or ('cuda' if torch.cuda.is_available() else 'cpu')

    @property
    def places(self) -> int:
        """The number of runs at a time."""
        if self.jobs is not None:
            return self.jobs
        if self.kind == 'cuda':
            return torch.cuda.device_count()
        return max(1, len(os.sched_getaffinity(0)) // self.study.threads)

    def recipe(self, variant: Design, seed: int) -> Recipe:
        """Return what a variant is trained by with a seed of the study.

        All variants begin with the weights of the study's first one where shapes agree.
        """
        study = self.study
        chosen = recipe_for(study.model, variant.token_labeling, study.recipe)
        return chosen.changed(
            **{
                **study.settings,
                **variant.settings,
                'arguments': study.network(variant),
                'initial_arguments': study.network(study.variant[0]),
                'seed': seed + variant.seed_offset,
            }
        )


def check(execution: Execution) -> None:
    """Hold the options of a study against each other, before anything is read or written.

    Raises:
        UserError: if one is missing, or does not fit the study.
    """
    study = execution.study
    if execution.jobs is not None and execution.jobs < 1:
        raise UserError(f'--jobs {execution.jobs} runs nothing: give 1 or more.')
    check_workers(execution.workers)
    if launcher.in_group():
        raise UserError(
            'a study starts its runs itself: call it without torchrun or srun, and give --jobs.'
        )
    if study.drawn is not None and execution.data is not None:
        raise UserError(f'the study {study.name} draws its own images: leave out --data.')
    if study.drawn is None and execution.data is None:
        raise UserError(
            f'the study {study.name} needs data: name its folder with --data. {study.data}'.strip()
        )
    if study.annotator is not None and execution.labels is not None:
        raise UserError(
            f'the annotator of the study {study.name} makes the label maps: leave out --labels.'
        )
    if study.annotator is None and study.labels_tokens and execution.labels is None:
        raise UserError(
            f'the study {study.name} trains with token labeling: name the folder of the '
            "annotator's label maps with --labels; 'python -m reproduce labels' makes them."
        )


def execute(execution: Execution, output: Path) -> Outcomes:
    """Train and evaluate what is not yet done, and write what was measured into `output`.

    Raises:
        UserError: if something is missing or does not fit, or a run failed; what other runs have
            measured is in the work folder.
        TrainingStopped: if SIGTERM or SIGUSR1 asked for it.
    """
    check(execution)
    check_writable(output)
    with join('cpu') as group, claimed(execution.work, group), StopRequests(group) as stop:
        return _Study(execution, output, stop).run()


class _Study:
    """A study while its runs are carried out."""

    def __init__(self, execution: Execution, output: Path, stop: StopRequests) -> None:
        self.execution, self.output, self.stop = execution, output, stop
        self.study, self.work = execution.study, execution.work.absolute()
        self.begun = time.monotonic()
        # Runs are forked from a process that has imported what they need and computed nothing.
        self.server = multiprocessing.get_context('forkserver')
        self.server.set_forkserver_preload([single_run.__name__])
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            os.environ[name] = str(self.study.threads)

    def run(self) -> Outcomes:
        self._check_work()
        self.data = self._data()
        train = load(self.data, 'train', self.study.train_images)
        val = load(self.data, 'val')
        self.variants = measure_variants(self.execution, len(val.classes))
        pending = self._pending(train, val)
        self._say(
            f'{self.study.name}: {len(self.study.variant)} variants x {len(self.study.seeds)} '
            f'seeds, {len(pending)} runs to do, {self.execution.places} at a time; '
            f'{len(train.samples):,} training and {len(val.samples):,} validation images'
        )
        failed = []
        labels = self._labels() if pending else None
        first = time.monotonic()
        done = 0
        for folder, status in self._side_by_side(pending, labels):
            name = f'{folder.parent.name}, seed {folder.name}'
            if status:
                failed.append((name, folder))
                self._say(f'failed: {name}: {_last_line(folder)}')
                continue
            done += 1
            left = (time.monotonic() - first) / done * (len(pending) - done - len(failed))
            top1 = json.loads((folder / RESULT).read_text())['run']['top1']
            self.outcomes().save(self.work)
            self._say(
                f'{done + len(failed)} of {len(pending)}: {name}: top-1 {top1:.2f} %, about '
                f'{left / 60:.0f} min left'
            )
        if failed:
            name, folder = failed[0]
            raise UserError(
                f'{len(failed)} runs of the study {self.study.name} failed, the first of them '
                f'{name}: {_last_line(folder)} What the others measured is in {self.work}; mend '
                'the cause and repeat the command.'
            )
        outcomes = self.outcomes()
        outcomes.save(self.work)
        outcomes.save(self.output)
        return outcomes

    def outcomes(self) -> Outcomes:
        """Return what has been measured so far."""
        runs, curves, times = [], [], []
        for variant in self.study.variant:
            for seed in self.study.seeds:
                path = self._folder(variant, seed) / RESULT
                if not path.is_file():
                    continue
                found = json.loads(path.read_text())
                key = {'variant': variant.name, 'seed': seed}
                runs.append(RunLine(**key, **found['run']))
                curves += [CurveLine(**key, **row) for row in found['curve']]
                times.append(TimeLine(**key, **found['time']))
        return Outcomes(self.study, tuple(runs), tuple(curves), self.variants, tuple(times))

    def _check_work(self) -> None:
        """Hold the study against the one whose runs the work folder has."""
        path = self.work / 'study.toml'
        if path.exists():
            before, now = read_toml(path, Study).identity, self.study.identity
            if differ := [name for name in now if now[name] != before.get(name)]:
                raise UserError(
                    f'{self.work} has the runs of a study with another {differ[0]}: name another '
                    'folder with --work, or remove it.'
                )
        write_atomically(path, self.study.to_toml())

    def _data(self) -> Path:
        """Return the folder of the data set; draw it first if the study is on drawn images."""
        if self.study.drawn is None:
            return self.execution.data.absolute()
        folder = self.work / 'data'
        if not folder.exists():
            unfinished = self.work / 'data.unfinished'
            shutil.rmtree(unfinished, ignore_errors=True)
            self._say('drawing the images')
            shapes.write(unfinished, self.study.drawn.train, self.study.drawn.val)
            unfinished.rename(folder)
        return folder / 'imagenet'

    def _pending(self, train: ImageNet, val: ImageNet) -> list[tuple[Design, int]]:
        """Return the runs that are still to be done, seed by seed.

        Raises:
            UserError: if those that are done saw other images.
        """
        pending = []
        for seed in self.study.seeds:
            for variant in self.study.variant:
                path = self._folder(variant, seed) / RESULT
                if not path.is_file():
                    pending.append((variant, seed))
                    continue
                run = json.loads(path.read_text())['run']
                if (run['train_data'], run['val_data']) != (train.fingerprint, val.fingerprint):
                    raise UserError(
                        f'{path.parent} was trained or evaluated on other images than {self.data} '
                        'holds: go on with the same data, or name another folder with --work.'
                    )
        return pending

    def _labels(self) -> Path | None:
        """Return the folder of the label maps; train the annotator and make them if need be."""
        annotator = self.study.annotator
        if annotator is None:
            return self.execution.labels and self.execution.labels.absolute()
        folder, labels = self.work / 'annotator', self.work / 'labels'
        if not (folder / RESULT).is_file():
            self._say(f'training the annotator, {annotator.model}')
            recipe = recipe_for(annotator.model, name=self.study.recipe)
            settings = {**self.study.settings, 'img_size': annotator.img_size}
            run = SingleRun(
                recipe=recipe.changed(**{**settings, 'epochs': annotator.epochs}),
                data=self.data,
                makes_labels=labels,
                **self._common(),
            )
            _, status = next(self._carried_out([(folder, run)]))
            if status:
                raise UserError(f'the annotator could not be trained: {_last_line(folder)}')
        return labels

    def _side_by_side(
        self, pending: Sequence[tuple[Design, int]], labels: Path | None
    ) -> Iterator[tuple[Path, int]]:
        runs = [
            (
                self._folder(variant, seed),
                SingleRun(
                    recipe=self.execution.recipe(variant, seed),
                    data=self.data,
                    labels=labels if variant.token_labeling else None,
                    arguments=self.study.network(variant),
                    **self._common(),
                ),
            )
            for variant, seed in pending
        ]
        yield from self._carried_out(runs)

    def _common(self) -> dict[str, object]:
        kind = self.execution.kind
        workers = self.execution.workers
        return {
            'train_images': self.study.train_images,
            'val_images': self.study.val_images,
            'in_memory': self.study.in_memory,
            'workers': (4 if kind == 'cuda' else 0) if workers is None else workers,
            'device': kind,
        }

    def _carried_out(self, runs: Sequence[tuple[Path, SingleRun]]) -> Iterator[tuple[Path, int]]:
        """Yield the folder and the exit status of each run as it ends.

        Raises:
            TrainingStopped: if the study was asked to stop; by then its processes have ended, each
                with a checkpoint.
        """
        waiting = list(runs)[::-1]
        running: dict[int, tuple[Path, BaseProcess]] = {}  # by place
        try:
            while waiting or running:
                for place in range(self.execution.places):
                    if waiting and place not in running:
                        folder, run = waiting.pop()
                        running[place] = folder, self._started(folder, run, place)
                if (number := self.stop.agreed()) is not None:
                    raise TrainingStopped(
                        f'{number.name} ended the study {self.study.name}: go on with the same '
                        'command.'
                    ).by(number)
                time.sleep(_POLL)
                for place, (folder, process) in list(running.items()):
                    if process.exitcode is not None:
                        del running[place]
                        yield folder, process.exitcode
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.join()

    def _started(self, folder: Path, run: SingleRun, place: int) -> BaseProcess:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / 'run.json', run.model_dump_json(indent=2) + '\n')
        gpu = None
        if run.device == 'cuda':
            visible = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(
                map(str, range(torch.cuda.device_count()))
            )
            gpus = visible.split(',')
            gpu = gpus[place % len(gpus)]
        process = self.server.Process(target=single_run.main, args=(run, folder, gpu))
        process.start()
        return process

    def _folder(self, variant: Design, seed: int) -> Path:
        return self.work / 'runs' / variant.name / str(seed)

    def _say(self, line: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - self.begun), 60)
        print(f'[{minutes:3d}:{seconds:02d}] {line}', file=sys.stderr, flush=True)


def measure_variants(execution: Execution, num_classes: int) -> tuple[VariantLine, ...]:
    """Return the parameters and FLOPs of each variant, of one image of the study's size.

    Raises:
        UserError: if one cannot be built.
    """
    study, found = execution.study, []
    for variant in study.variant:
        size = execution.recipe(variant, study.seeds[0]).img_size
        try:
            counted = complexity.count_classifier(
                study.model, size, num_classes=num_classes, **study.network(variant)
            )
        except Exception as error:  # whatever a constructor raises
            raise UserError(
                f'the variant {variant.name} cannot be built with {study.network(variant)}: '
                f'{error}'.splitlines()[0]
            ) from error
        found.append(
            VariantLine(
                variant=variant.name,
                says=variant.says,
                params=counted.params,
                layer_flops=counted.layer_flops,
                total_flops=counted.total_flops,
            )
        )
    return tuple(found)


def _last_line(folder: Path) -> str:
    """Return the last line of a run's output: what it failed of."""
    try:
        lines = (folder / 'output.log').read_text(errors='replace').split('\n')
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), 'it said nothing.')
    return last.removeprefix('error: ')
