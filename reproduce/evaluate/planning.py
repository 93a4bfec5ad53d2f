"""What the tables would evaluate, before they do: what is there, what it costs, what is missing.

Nothing is evaluated and nothing is written. Costs are those of the forward passes alone.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import timm
import torch
import torch.nn as nn
from tabulate import tabulate
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer
from tqdm import tqdm

from reproduce import complexity
from reproduce.errors import UserError
from reproduce.evaluate import accuracies, records
from reproduce.evaluate.accuracies import Inputs, Request
from reproduce.evaluate.harness import PRECISIONS, Job
from reproduce.evaluate.records import Evaluation
from reproduce.evaluate.unmeasured import NotRun
from reproduce.openmmlab import configs, models
from reproduce.paper import Column, Row
from reproduce.systems import System
from reproduce.tasks import TASKS, imagenet
from reproduce.tasks.ade20k import RATIOS
from reproduce.weights import loading

# The makers' dense peaks, in 1e12 floating-point operations a second: fp32 outside the tensor
# cores, as the evaluation computes it, and in them with sums in fp32.
PEAKS: dict[str, dict[str, float]] = {
    'V100': {'fp32': 15.7, 'fp16': 125.0},
    'T4': {'fp32': 8.1, 'fp16': 65.0},
    'A100': {'fp32': 19.5, 'fp16': 312.0, 'bf16': 312.0},
    'H100': {'fp32': 66.9, 'fp16': 989.4, 'bf16': 989.4},
    'RTX3090': {'fp32': 35.6, 'fp16': 71.0, 'bf16': 71.0},
    'RTX4090': {'fp32': 82.6, 'fp16': 165.2, 'bf16': 165.2},
}
# The part of a peak that such networks are assumed to reach; not measured here. In fp32 the Swin
# paper's images/s of DeiT and Swin on a V100 come to 0.4 to 0.6.
EFFICIENCY = {'fp32': 0.5, 'fp16': 0.2, 'bf16': 0.2}

# Whose speed stands for that of every system on this machine, and the images of a batch of it.
CALIBRATION = 'maformer_small_3383'
_BATCH = {'cpu': 4, 'cuda': 64}

_PART = 'a part, which is not held against the paper'


class CellState(StrEnum):
    """What would become of a cell."""

    COUNT = 'count'  # parameters and FLOPs take neither weights nor data
    EVALUATE = 'evaluate'  # weights and data are there
    RECORD = 'record'  # an earlier evaluation stands
    MISSING = 'missing'  # the reason says what it takes
    CITED = 'cited'  # no implementation here


@dataclass(frozen=True)
class PlannedCell:
    """One number of one row, and what would become of it.

    Attributes:
        reason: a sentence on the evaluation or on what is missing; '' where there is none.
        missing: what keeps the cell from being measured.
    """

    table: int
    model: str
    system: str
    metric: str
    state: CellState
    reason: str = ''
    missing: NotRun | None = None

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        del content['missing']
        return content


@dataclass(frozen=True)
class Devices:
    """What would compute: `count` of them, each with `rate` multiply-adds a second."""

    name: str
    count: int
    rate: float
    basis: str


@dataclass(frozen=True)
class Cost:
    """What the evaluation of a system takes.

    Attributes:
        images: how many.
        size: height and width of one; of one in the form of most where they differ.
        params: the network's.
        flops: multiply-adds of an image in all its views, those in attention included.
        memory: bytes on one device in fp32: parameters, and the intermediates of a batch.
        seconds: of all images on all devices.
    """

    images: int
    size: tuple[int, int]
    params: int
    flops: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """A system: what is found of what it takes, and its cost, where there is one or why not."""

    inputs: Inputs
    cost: Cost | Exception | None

    def as_dict(self) -> dict[str, Any]:
        p = self.inputs
        return {
            'system': p.system.name,
            'task': p.system.task,
            'runs': p.complete,
            'checkpoint': p.checkpoint and str(p.checkpoint),
            'data': p.data and str(p.data.root),
            'complete': p.data and p.data.complete,
            'cost': asdict(self.cost) if isinstance(self.cost, Cost) else None,
            'error': str(self.cost) if isinstance(self.cost, Exception) else None,
        }


@dataclass(frozen=True)
class Plan:
    """The cells in printed order, the systems that are not only cited, and what would compute."""

    cells: list[PlannedCell]
    steps: list[Step]
    device: Devices

    def seconds(self, runs: bool) -> float:
        """Of the systems that would be evaluated, or of those that lack something."""
        return sum(
            step.cost.seconds
            for step in self.steps
            if isinstance(step.cost, Cost) and step.inputs.complete is runs
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            'device': asdict(self.device),
            'cells': [cell.as_dict() for cell in self.cells],
            'systems': [step.as_dict() for step in self.steps],
            'seconds': self.seconds(True),
            'seconds_of_missing': self.seconds(False),
        }


def plan(
    rows: Collection[Row],
    systems: Collection[System],
    request: Request,
    device: str | None = None,
) -> Plan:
    """Return what `accuracies.standing` would evaluate for `rows`, and what it takes.

    Args:
        device: such as '8xV100' or 'A100', of PEAKS; None measures this machine.

    Raises:
        UserError: if the device is unknown or does not compute in the precision, a number is less
            than 1, the folder of the data or of the weights is not what it should be, a record is
            damaged, or a package that a system needs is missing.
    """
    given = {
        '--processes': request.processes,
        '--limit': request.limit,
        '--batch-size': request.batch_size,
    }
    for option, n in given.items():
        if n is not None and n < 1:
            raise UserError(f'{option} {n} leaves nothing to evaluate: give 1 or more.')
    on = named(device, request) if device is not None else calibrated(request)
    inputs = {one.system.name: one for one in accuracies.find_inputs(systems, request)}
    earlier = records.load_all(request.folder)
    cells = [
        _cell(row, system, column, inputs.get(system.name), request, earlier)
        for row in rows
        for system in systems
        if system.stands_for(row)
        for column in system.columns(row.table)
    ]
    costly = {c.system for c in cells if c.state in (CellState.EVALUATE, CellState.MISSING)}
    steps = []
    for one in tqdm(inputs.values(), 'counting', leave=False, disable=None):
        wanted = one.system.name in costly
        steps.append(Step(one, _tried(one, request, on) if wanted else None))
    return Plan(cells, steps, on)


def _cell(
    row: Row,
    system: System,
    column: Column,
    inputs: Inputs | None,
    request: Request,
    earlier: Collection[Evaluation],
) -> PlannedCell:
    cell = partial(PlannedCell, row.table, row.model, system.name, column.name)
    if inputs is None:
        return cell(CellState.CITED, system.cited)
    if column.metric.is_complexity:
        return cell(CellState.COUNT)
    if inputs.complete:
        return cell(CellState.EVALUATE, '' if inputs.data.complete else _PART)
    found = accuracies.on_record(inputs, column.metric.name, request, earlier)
    if isinstance(found, Evaluation):
        return cell(CellState.RECORD, found.origin)
    return cell(CellState.MISSING, found.sentence(system.name), found)


def named(device: str, request: Request) -> Devices:
    """Return the GPUs that `device` names; without a number, one for each process.

    Raises:
        UserError: if they are unknown or do not compute in the precision.
    """
    found = re.fullmatch(r'(?:(\d+) *[x×] *)?(.+)', device.strip(), re.IGNORECASE)
    name = found[2].upper().replace(' ', '') if found else ''
    if name not in PEAKS or found[1] == '0':
        raise UserError(
            f"the device '{device}' is unknown: name one of {', '.join(PEAKS)}, or several as in "
            '8xV100.'
        )
    precision = request.amp or 'fp32'
    if precision not in PEAKS[name]:
        raise UserError(f'the {name} has no {precision}: take --amp fp16, or fp32 throughout.')
    peak, part = PEAKS[name][precision], EFFICIENCY[precision]
    return Devices(
        name=name,
        count=int(found[1] or request.processes),
        rate=peak * 1e12 / 2 * part,  # a multiply-add is two operations
        basis=f'{part:.0%} of its published {peak:g} Tflop/s in {precision}, an assumption',
    )


def calibrated(request: Request) -> Devices:
    """This machine: its GPUs, one a process, or its processor; a second of CALIBRATION tells."""
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    batch, config = _BATCH[device.type], timm.get_pretrained_cfg(CALIBRATION)
    classifier = timm.create_model(CALIBRATION).eval().to(device)
    images = torch.zeros(batch, *config.input_size, device=device)

    def forward() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, PRECISIONS.get(request.amp), enabled=bool(request.amp)),
        ):
            classifier(images)

    timer = Timer('forward()', globals={'forward': forward}, num_threads=torch.get_num_threads())
    seconds = timer.blocked_autorange(min_run_time=1.0).median
    _, flops, _ = _forwarded(
        classifier, lambda m: m(torch.empty(1, *config.input_size, device='meta'))
    )
    return Devices(
        name=records.device_name(device),
        # Processes on a CPU share its cores.
        count=request.processes if device.type == 'cuda' else 1,
        rate=flops * batch / seconds,
        basis=f'measured with {CALIBRATION} in {request.amp or "fp32"}',
    )


def _tried(inputs: Inputs, request: Request, device: Devices) -> Cost | Exception:
    try:
        return cost(inputs, request, device)
    except UserError:
        raise
    except Exception as error:  # whatever a foreign model raises is its own system's
        return error


def cost(inputs: Inputs, request: Request, device: Devices) -> Cost:
    """Return what the evaluation of a system costs on `device`, its weights and data there or not.

    Raises:
        UserError: if a package or a config file that the system needs is missing.
    """
    system, job = inputs.system, accuracies.job(inputs, request)
    if system.model is not None:
        size, params, flops, intermediates = _classifier(system, job)
    else:
        size, params, flops, intermediates = _openmmlab(system, job)
    images = TASKS[system.task].images
    if inputs.data is not None:
        images = len(inputs.data.samples)
    elif request.limit is not None:
        images = min(images, request.limit)
    return Cost(
        images=images,
        size=size,
        params=params,
        flops=flops,
        memory=4 * params + intermediates,
        seconds=images * flops / (device.rate * device.count),
    )


def _classifier(system: System, job: Job) -> tuple[tuple[int, int], int, int, int]:
    _, name, arguments = imagenet.resolve(system.name, {})
    trained = loading.trained_preprocessing(job.checkpoint) if job.checkpoint else {}
    shape = imagenet.preprocessing(name, arguments, trained)['input_size']
    with torch.device('meta'):
        classifier = timm.create_model(name, **arguments)
    # As many at a time as in the evaluation: networks that work in pieces take less than as many
    # times the memory of one.
    images = torch.empty(job.batch_size, *shape, device='meta')
    params, flops, intermediates = _forwarded(classifier, lambda m: m(images))
    return tuple(shape[1:]), params, flops // job.batch_size, intermediates


def _openmmlab(system: System, job: Job) -> tuple[tuple[int, int], int, int, int]:
    config = configs.load_config(system.evaluated_config)
    network, size = models.build(config), models.evaluated_size(config)
    params, flops, intermediates = _forwarded(network, lambda m: models.evaluated_forward(m, size))
    if job.multi_scale:
        largest = max(RATIOS)
        scaled = tuple(int(side * largest) for side in size)
        _, flops_of_largest, intermediates = _forwarded(
            network, lambda m: models.evaluated_forward(m, scaled)
        )
        flops = _of_all_views(flops, flops_of_largest, largest, RATIOS)
    # A batch of a segmenter's is segmented one image after the other.
    together = job.batch_size if TASKS[system.task].padded_batches else 1
    return size, params, flops, intermediates * together


def _of_all_views(first: int, scaled: int, ratio: float, ratios: Collection[float]) -> int:
    """FLOPs of an image at all `ratios` of its sides, each also mirrored, from those at 1 and one.

    Those of layers grow with its pixels, those of attention over the whole of it with their square.
    """
    by_square = (scaled - ratio**2 * first) / (ratio**4 - ratio**2)
    by_pixels = first - by_square
    return round(2 * sum(by_pixels * r**2 + by_square * r**4 for r in ratios))


def _forwarded(model: nn.Module, forward: Callable[[nn.Module], Any]) -> tuple[int, int, int]:
    """Return parameters of `model`; multiply-adds and most bytes at a time of `forward(model)`."""
    live = _Live()

    def watched(model: nn.Module) -> None:
        with live, torch.inference_mode():
            forward(model)

    counted = complexity.measure(model, watched)
    return counted.params, counted.total_flops, live.peak


class _Live(TorchDispatchMode):
    """Follows how many bytes the tensors that operators make hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.storages = {k: v for k, v in self.storages.items() if not v[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                held = StorageWeakRef(storage), storage.nbytes()
                self.storages.setdefault(storage._cdata, held)
        self.peak = max(self.peak, sum(held for _, held in self.storages.values()))
        return result


def render(plan: Plan) -> str:
    """Return the plan as text: the systems to evaluate, what is found and missing, sums."""
    steps = {step.inputs.system.name: step for step in plan.steps}
    groups: dict[tuple[str, CellState, str], list[PlannedCell]] = {}
    missing: dict[NotRun, set[str]] = {}
    for cell in plan.cells:
        if cell.state not in (CellState.COUNT, CellState.CITED):
            groups.setdefault((cell.system, cell.state, cell.reason), []).append(cell)
        if cell.missing is not None:
            missing.setdefault(cell.missing, set()).add(cell.system)
    lines = [
        [name, _names(cells), state, *_costs(steps[name].cost, state)]
        for (name, state, _), cells in groups.items()
    ]
    heads = ['system', 'cells', '', 'images', 'pixels', 'G/image', 'time', 'GiB']
    parts = [tabulate(lines, heads, 'simple', maxcolwidths=[None, 36], disable_numparse=True)]
    parts += [_found(step) for step in plan.steps if step.inputs.complete]
    parts += [
        f'record, {name}: {reason}.' for name, state, reason in groups if state is CellState.RECORD
    ]
    parts += [
        f'missing, {len(systems)} systems: {what.sentence("SYSTEM")}.'
        for what, systems in missing.items()
    ]
    parts += [
        f'error, {step.inputs.system.name}: {step.cost}.'
        for step in plan.steps
        if isinstance(step.cost, Exception)
    ]
    counts = {state: sum(cell.state is state for cell in plan.cells) for state in CellState}
    device = plan.device
    parts += [
        f'{len(plan.cells)} cells: ' + ', '.join(f'{n} {s}' for s, n in counts.items() if n) + '.',
        f'{device.count} x {device.name}, {device.rate / 1e9:,.0f} G multiply-adds/s each '
        f'({device.basis}): {sum(s.inputs.complete for s in plan.steps)} evaluations take '
        f'{duration(plan.seconds(True))}; what is missing would take '
        f'{duration(plan.seconds(False))}. Forward passes only: reading images and, of detectors, '
        'NMS and masks come on top. Memory is in fp32, without what the device itself needs.',
    ]
    return '\n\n'.join(parts)


def _names(cells: Iterable[PlannedCell]) -> str:
    of_table: dict[int, dict[str, None]] = {}
    for cell in cells:
        of_table.setdefault(cell.table, {})[cell.metric] = None
    return '; '.join(f'T{table} {", ".join(names)}' for table, names in of_table.items())


def _costs(cost: Cost | Exception | None, state: CellState) -> list[str]:
    if not isinstance(cost, Cost) or state is CellState.RECORD:
        return [''] * 5
    return [
        f'{cost.images:,}',
        f'{cost.size[0]} x {cost.size[1]}',
        f'{cost.flops / 1e9:,.1f}',
        duration(cost.seconds),
        f'{cost.memory / 2**30:.1f}',
    ]


def _found(step: Step) -> str:
    checkpoint, data = step.inputs.checkpoint, step.inputs.data
    extent = 'complete' if data.complete else _PART
    return (
        f'evaluate, {step.inputs.system.name}: {checkpoint} on {data.root}, '
        f'{len(data.samples):,} images, {extent}.'
    )


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits."""
    units = (('d', 86400), ('h', 3600), ('min', 60), ('s', 1))
    unit, length = next((u for u in units if seconds >= 1.5 * u[1]), units[-1])
    n = seconds / length
    return f'{n:,.0f} {unit}' if n >= 10 or n == 0 else f'{n:.1f} {unit}'
