"""A rehearsal: the machine, the data, and a few steps of each training, one after the other."""

import fnmatch
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path

from reproduce.base.errors import OutOfMemory, UserError
from reproduce.base.files import check_writable
from reproduce.base.loading import check_workers
from reproduce.base.processes import in_group
from reproduce.base.wording import nearest
from reproduce.openmmlab.configs import CONFIGS, load_config, task_of
from reproduce.train import drawn_data, isolation
from reproduce.train.checks import (
    Machine,
    ReadinessCheck,
    check_connection,
    examine_data,
    examine_machine,
)
from reproduce.train.classifier_trial import rehearsed, try_recipe
from reproduce.train.config_trial import try_config
from reproduce.train.recipes import RECIPES, Recipe
from reproduce.train.trial import GIB, Trial, TrialOptions, TrialSettings

# A config's batch of one process is 2 or 4 images; this many of them are drawn for each step.
_MOST_IMAGES_OF_A_CONFIG = 8


@dataclass(frozen=True)
class Training:
    """Something that `train` trains.

    Attributes:
        name: of the recipe or of the config file.
        task: 'imagenet', 'coco' or 'ade20k'.
        recipe: None for a config.
    """

    name: str
    task: str
    recipe: Recipe | None = None


@dataclass(frozen=True, kw_only=True)
class RehearsalRequest(TrialOptions):
    """What is to be rehearsed, and how.

    Attributes:
        names: of recipes and configs, or patterns of them; none for all.
        data: the folder of the data sets; None for drawn data.
        labels: the folder of the label maps of token labeling.
        output: the folder that the trainings would write into.
        processes: None takes one for each GPU.
    """

    names: Sequence[str] = ()
    data: Path | None = None
    labels: Path | None = None
    output: Path = Path()
    processes: int | None = None


@dataclass(frozen=True)
class RehearsalRow:
    """What a rehearsal found about one training.

    Attributes:
        name: of the training.
        trial: what was measured; None where it did not come to that.
        fits: whether memory holds it; None where it did not come to that.
        reasons: why it will not run as it is; empty if it passes.
        advice: what to change.
    """

    name: str
    trial: Trial | None = None
    fits: bool | None = None
    reasons: tuple[str, ...] = ()
    advice: str = ''

    @property
    def passes(self) -> bool:
        """Whether the training will run."""
        return not self.reasons


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        request: what was asked for.
        machine: what the trainings would run on.
        checks: of the data and of the disk.
        rows: the trainings that were rehearsed.
        planned: the number of those that were to be.
    """

    request: RehearsalRequest
    machine: Machine
    checks: tuple[ReadinessCheck, ...]
    rows: tuple[RehearsalRow, ...]
    planned: int

    @property
    def passes(self) -> bool:
        """Whether all is well."""
        checks = (*self.machine.checks, *self.checks)
        return all(row.passes for row in self.rows) and all(c.state != 'fails' for c in checks)


def select(names: Sequence[str]) -> list[Training]:
    """Return the trainings of these names, or that match these patterns; all if there is none.

    All are the recipes, and the configs of MAFormer at full size. Any other config can be named.

    Raises:
        UserError: if there is none of a name.
    """
    files = sorted(path.name for path in CONFIGS.glob('*maformer*.py') if 'shapes' not in path.name)
    known = [*RECIPES, *files]
    chosen: list[str] = []
    for name in names or known:
        found = fnmatch.filter(known, name)
        if not found and not name.endswith('.py'):
            near = ', '.join(nearest(name, known))
            raise UserError(
                f"there is no recipe or config '{name}': did you mean {near or 'a pattern, maf*'}?"
            )
        chosen += found or [name]
    return [_of_name(name) for name in dict.fromkeys(chosen)]


def _of_name(name: str) -> Training:
    if name in RECIPES:
        return Training(name, 'imagenet', RECIPES[name])
    return Training(name, task_of(load_config(name)))


def rehearse(
    request: RehearsalRequest,
    say: Callable[[str], None] = lambda line: None,
    keep: Callable[[Rehearsal], None] = lambda found: None,
) -> Rehearsal:
    """Rehearse the trainings of a request, each in a process of its own.

    Args:
        say: called with a line before each part.
        keep: called with what was found so far, after each training.

    Raises:
        UserError: if the request does not go together, or nothing can be written into its output
            folder. What is wrong with a training is in its row.
    """
    _check(request)
    trainings = select(request.names)
    with _workplace(request.output) as place:
        say('looking at the machine')
        machine = isolation.call(
            examine_machine, request.device, request.processes, log=place / 'log.txt'
        )
        if machine.processes > 1 and all(check.state != 'fails' for check in machine.checks):
            connection = _connection(machine, place / 'log.txt')
            machine = replace(machine, checks=(*machine.checks, connection))
        request = replace(request, device=machine.kind)
        data, labels = request.data, request.labels
        if data is None:
            say('drawing data')
            data = place / 'drawn'
            labels = _draw(data, trainings, request, machine.processes)
        checks, images = [], {}
        for task in dict.fromkeys(training.task for training in trainings):
            say(f'looking at the data of {task}')
            recipe = next((t.recipe for t in trainings if _is_labeled(t)), None)
            arguments = (task, data, recipe and labels, recipe)
            try:
                images[task], more = isolation.call(examine_data, *arguments, log=place / 'log.txt')
                checks += more
            except UserError as error:
                checks.append(ReadinessCheck(f'data of {task}', str(error), 'fails'))
        if request.data is None:
            images = {task: import_module(f'datasets.{task}').NUM_IMAGES for task in images}
        rows = []

        def found() -> Rehearsal:
            disk = _check_disk(request.output, rows)
            return Rehearsal(request, machine, (*checks, disk), tuple(rows), len(trainings))

        settings = TrialSettings(
            data=data,
            labels=labels,
            images={},
            output=place / 'training',
            **{option.name: getattr(request, option.name) for option in fields(TrialOptions)},
        )
        for number, training in enumerate(trainings, 1):
            say(f'{number}/{len(trainings)} {training.name}')
            if training.task in images:
                its_own = replace(settings, images=images[training.task])
                row = _try(training, its_own, machine.processes, place / 'log.txt')
            else:
                reason = f'there is no data of {training.task}'
                row = RehearsalRow(training.name, reasons=(reason,))
            rows.append(row)
            say(f'    {in_short(row)}')
            keep(found())
    return found()


def _connection(machine: Machine, log: Path) -> ReadinessCheck:
    try:
        return isolation.call(check_connection, machine.kind, log=log, processes=machine.processes)
    except UserError as error:
        advice = 'fix this before anything runs on several processes.'
        return ReadinessCheck('connection of processes', str(error), 'fails', advice)


def _check(request: RehearsalRequest) -> None:
    if in_group():
        raise UserError(
            'a rehearsal starts its processes itself: start it once, without torchrun, and '
            'give --processes.'
        )
    for option, value in (
        ('--steps', request.steps),
        ('--batch-size', request.batch_size),
        ('--accumulation', request.accumulation),
        ('--processes', request.processes),
    ):
        if value is not None and value < 1:
            raise UserError(f'{option} {value} is out of range: give 1 or more.')
    check_workers(request.workers)
    if request.data is not None and not request.data.is_dir():
        raise UserError(f'{request.data} is not a folder: name the one that holds the data sets.')
    if request.labels is not None and request.data is None:
        raise UserError('--labels are of the images in --data: name that folder too.')


def in_short(row: RehearsalRow) -> str:
    """Return what was found about a training, in half a line."""
    if not row.passes:
        return f'fails: {row.reasons[0]}'
    trial = row.trial
    return f'passes: {trial.peak_bytes / GIB:.1f} GiB, {trial.images_per_s:.3g} images/s'


@contextmanager
def _workplace(output: Path) -> Iterator[Path]:
    """Make a folder in `output`, where the trainings would write; it is removed at the end."""
    check_writable(output)
    place = Path(tempfile.mkdtemp(prefix='rehearsal-', dir=output)).absolute()
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield place
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(place, ignore_errors=True)


def _is_labeled(training: Training) -> bool:
    return training.recipe is not None and training.recipe.token_labeling


def _draw(
    root: Path, trainings: Sequence[Training], request: RehearsalRequest, processes: int
) -> Path | None:
    """Draw data that last for the steps of all trainings; return the folder of the label maps."""
    batches = [rehearsed(t.recipe, request, processes).batch_size for t in trainings if t.recipe]
    of_config = processes * (request.batch_size or _MOST_IMAGES_OF_A_CONFIG)
    # Beyond the steps there is one that is compared, and one in twenty images has no object.
    images = {'imagenet': max(batches, default=0), 'coco': of_config, 'ade20k': of_config}
    images = {task: (request.steps + 3) * batch for task, batch in images.items()}
    labels = any(map(_is_labeled, trainings))
    isolation.call(drawn_data.write, root, images, labels, log=root.with_name('log.txt'))
    return root / 'labels' if labels else None


def _try(training: Training, settings: TrialSettings, processes: int, log: Path) -> RehearsalRow:
    """Try a training; whatever goes wrong is in the row."""
    settings.output.mkdir()
    try:
        what = training.name if training.recipe is None else training.recipe
        function = try_config if training.recipe is None else try_recipe
        trial = isolation.call(function, what, settings, log=log, processes=processes)
    except OutOfMemory as error:
        return RehearsalRow(
            training.name, None, False, (str(error),), _save_memory(training, settings)
        )
    except UserError as error:
        return RehearsalRow(training.name, None, None, (str(error),))
    finally:
        shutil.rmtree(settings.output, ignore_errors=True)
    reasons = trial.faults()
    free = shutil.disk_usage(settings.output.parent).free
    if trial.disk_bytes > free:
        reasons.append(f'it writes {trial.disk_bytes / GIB:.1f} GiB, and {free / GIB:.1f} are free')
    advice = ''
    if trial.limited_by == 'loader':
        advice = (
            f'the workers read {trial.loader_images_per_s:.0f} images/s and '
            f'{trial.computed_images_per_s:.0f} could be computed: more --workers, or a faster disk'
        )
    return RehearsalRow(training.name, trial, True, tuple(reasons), advice)


def _save_memory(training: Training, settings: TrialSettings) -> str:
    """Return what to change of a training that memory does not hold."""
    ways = [] if settings.grad_checkpointing else ['--grad-checkpointing']
    if training.recipe is not None:
        ways.append(f'--accumulation {2 * settings.accumulation}')
    if settings.batch_size is None or settings.batch_size > 1:
        fewer = 1 if settings.batch_size is None else settings.batch_size // 2
        ways.append(f'fewer images a process (--batch-size {fewer})')
    return ', or '.join([*ways, 'a device with more memory'])


def _check_disk(output: Path, rows: Sequence[RehearsalRow]) -> ReadinessCheck:
    free = shutil.disk_usage(output).free
    found = f'{free / GIB:.1f} GiB free in {output.absolute()}'
    trials = [row.trial for row in rows if row.trial is not None]
    if trials:
        largest = max(trial.disk_bytes for trial in trials)
        found += f'; the largest of these trainings writes {largest / GIB:.1f} GiB'
    return ReadinessCheck('disk', found)
