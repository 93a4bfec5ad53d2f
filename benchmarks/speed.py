"""Images/s and peak memory of the MAFormers, Swin-T and DeiT-S, in one run: `make benchmark`.

Images/s: inference at 224 x 224, fp32 without TF32, eager; the models take turns, so that a slow
moment of the machine hits them all, and the median round counts. Peak memory: what the features of
one 800 x 1280 image add to the process, or to the GPU's memory, each model in a process of its own.
Only ratios within one run mean much. `results/speed.csv` holds the last run, for the tables.
"""

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from tabulate import tabulate

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from reproduce.complexity import measure_system
from reproduce.evaluate.records import device_name
from reproduce.files import check_writable, write_csv
from reproduce.folders import RESULTS
from reproduce.paper import DETECTION_SIZE
from reproduce.report.speeds import FILE, Speed
from reproduce.systems import System

MAFORMERS = ('maformer_small_3383', 'maformer_small', 'maformer_base', 'maformer_large')
SWIN = 'swin_tiny_patch4_window7_224'
DEIT = 'deit_small_patch16_224'


def images_per_second(
    names: list[str], batch_size: int, rounds: int, device: str
) -> dict[str, float]:
    """Return the median images/s of each model over `rounds`, one round of all models at a time."""
    models = {name: timm.create_model(name).eval().to(device) for name in names}
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name in names:
                start = time.perf_counter()
                models[name](images)
                if device == 'cuda':
                    torch.cuda.synchronize()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
    return {name: batch_size / statistics.median(times) for name, times in seconds.items()}


def peak_memory(name: str, device: str) -> float:
    """Return the peak MiB that the features of one 800 x 1280 image add, in a new process."""
    command = [sys.executable, '-m', 'benchmarks.speed', '--device', device, '--only-memory', name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _peak_memory_here(name: str, device: str) -> float:
    # Swin checks the size of its input unless it is given.
    size = {'img_size': DETECTION_SIZE} if name.startswith(('swin', 'deit')) else {}
    network = timm.create_model(name, features_only=True, **size).eval().to(device)
    image = torch.randn(1, 3, *DETECTION_SIZE, device=device)
    before = _peak(device)
    with torch.inference_mode():
        network(image)
    return _peak(device) - before


def _peak(device: str) -> float:
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    # getrusage would report the parent's peak where that was higher.
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024


def main(
    rounds: Annotated[int, typer.Option(help='Timed rounds; the median counts.')] = 7,
    batch_size: Annotated[int, typer.Option(help='Images a batch.')] = 16,
    threads: Annotated[int, typer.Option(help='CPU threads.')] = 2,
    device: Annotated[str, typer.Option(help='cpu or cuda.')] = 'cpu',
    models: Annotated[
        list[str] | None, typer.Option(help='timm models to measure as well; repeat for more.')
    ] = None,
    output: Annotated[
        Path, typer.Option(help=f'Folder for {FILE}, which `tables --with` reads.')
    ] = RESULTS,
    only_memory: Annotated[str, typer.Option(hidden=True)] = '',
) -> None:
    """Compare images/s and peak memory of the MAFormers with Swin-T's and DeiT-S's."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if only_memory:
        print(_peak_memory_here(only_memory, device))
        return
    check_writable(output)
    names = list(dict.fromkeys([*MAFORMERS, SWIN, DEIT, *(models or [])]))
    rates = images_per_second(names, batch_size, rounds, device)
    flops = {n: measure_system(System(name=n, rows=[], model=n)).total_flops / 1e9 for n in names}
    memory = {n: peak_memory(n, device) for n in names}
    rows = [
        [
            n,
            flops[n],
            rates[n],
            rates[n] / rates[SWIN],
            rates[n] * flops[n],
            rates[n] * flops[n] / (rates[DEIT] * flops[DEIT]),
            memory[n],
            memory[n] / memory[SWIN],
        ]
        for n in names
    ]
    heads = ['model', 'G', 'images/s', '/ Swin-T', 'G/s', '/ DeiT-S', 'peak MiB', '/ Swin-T']
    where = device_name(torch.device(device))
    if device == 'cpu':
        where += f', {threads} thread{"s" if threads != 1 else ""}'
    print(
        f'224 x 224, batch {batch_size}, fp32, eager, {where}, medians of {rounds} '
        f'rounds; memory of features at {DETECTION_SIZE[0]} x {DETECTION_SIZE[1]}, batch 1; '
        f'torch {torch.__version__}'
    )
    print(
        tabulate(
            rows, heads, 'simple', floatfmt=('', '.2f', '.1f', '.2f', '.1f', '.2f', '.0f', '.2f')
        )
    )
    lines = [
        Speed(
            model=name,
            images_per_s=round(rates[name], 2),
            peak_memory_mib=round(memory[name], 1),
            device=where,
            precision='fp32',
            batch_size=batch_size,
            torch=torch.__version__,
        )
        for name in names
    ]
    write_csv(output / FILE, Speed, [line.model_dump() for line in lines])
    print(f'Written: {output / FILE}.')


if __name__ == '__main__':
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
