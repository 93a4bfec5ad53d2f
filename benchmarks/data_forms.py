"""What each form of ImageNet costs to read: images/s, start-up, and memory of a worker.

The same small JPEGs in class folders, one tar, one zip, WebDataset shards and parquet files, read
in the order of a permutation, or of a shuffle buffer, by the loader that trainings use. They were
just written and lie in the page cache: what is compared is what each form costs beside the disk.
Each form is measured in processes of its own, in the first of which there is no index yet.

Last, an index of as many files as ImageNet has, which is loaded and looked up.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from tabulate import tabulate

from datasets.member_index import Member, load_index

CLASSES, DISTINCT = 1000, 500
SHARD, ROW_GROUP = 10_000, 100  # images; the Hub's parquet files have row groups of 100
ENTRIES = 1_281_167
BUFFER = 1000
FORMS = ('folders', 'tar', 'zip', 'webdataset', 'parquet', 'parquet, buffer')


def drawn(images: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield WordNet id, name and content of each image, in a random order of the classes."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(DISTINCT):
        file = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(file, 'JPEG', quality=90)
        contents.append(file.getvalue())
    labels = np.arange(images) % CLASSES
    for number, label in enumerate(rng.permutation(labels)):
        wnid = f'n{label + 1:08d}'
        yield wnid, f'{wnid}_{number}.JPEG', contents[number % DISTINCT]


def write(form: str, root: Path, images: int) -> None:
    """Write the images as the training split of a form."""
    root.mkdir(parents=True)
    if form == 'folders':
        for wnid, name, content in drawn(images):
            folder = root / 'train' / wnid
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    elif form == 'tar':
        with tarfile.open(root / 'imagenet.tar', 'w') as file:
            for wnid, name, content in drawn(images):
                _add(file, f'train/{wnid}/{name}', content)
    elif form == 'zip':
        with zipfile.ZipFile(root / 'imagenet.zip', 'w') as file:
            for wnid, name, content in drawn(images):
                file.writestr(f'train/{wnid}/{name}', content)
    elif form == 'webdataset':
        _write_shards(root, images)
    else:
        _write_parquet(root, images)


def _add(file: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    file.addfile(entry, io.BytesIO(content))


def _write_shards(root: Path, images: int) -> None:
    file = None
    for number, (wnid, name, content) in enumerate(drawn(images)):
        if number % SHARD == 0:
            if file is not None:
                file.close()
            file = tarfile.open(root / f'imagenet1k-train-{number // SHARD:04d}.tar', 'w')  # noqa: SIM115
        key = name.removesuffix('.JPEG')
        _add(file, f'{key}.jpg', content)
        _add(file, f'{key}.cls', str(int(wnid[1:]) - 1).encode())
    file.close()


def _write_parquet(root: Path, images: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    rows = list(drawn(images))
    shards = -(-len(rows) // SHARD)
    for shard in range(shards):
        part = rows[shard * SHARD : (shard + 1) * SHARD]
        cells = [
            {'bytes': c, 'path': f'{name.removesuffix(".JPEG")}_{wnid}.JPEG'}
            for wnid, name, c in part
        ]
        table = pa.table({'image': cells, 'label': [int(wnid[1:]) - 1 for wnid, *_ in part]})
        path = root / f'train-{shard:05d}-of-{shards:05d}.parquet'
        pq.write_table(table, path, row_group_size=ROW_GROUP)


def measure(root: Path, seconds: float, workers: int, buffer: int) -> dict[str, float]:
    """Return the cost of finding the training images in `root`, and of reading them.

    Args:
        seconds: reading is timed for so long.
        workers: processes that read.
        buffer: of a shuffle buffer; 0 for a permutation.
    """
    from datasets import imagenet
    from datasets.wordnet_ids import imagenet_classes

    imagenet_classes()  # imports timm
    imported = time.perf_counter()
    data = imagenet.load(root, 'train')
    found = time.perf_counter()

    from reproduce.base.loading import Loader
    from reproduce.train.images import TrainingBatches
    from reproduce.train.shuffle_buffer import shards_of

    images = _Decoded(data)
    shards = shards_of(data, buffer) if buffer else None
    if buffer:
        data.samples.keep(buffer)
    batches = TrainingBatches(len(images), 100, 0, 1, 0, shards=shards, buffer=buffer)
    loader = Loader(images, batch_sampler=batches, num_workers=workers)
    count, started = 0, None
    for count, _ in enumerate(loader):
        # Each worker has come to read, and the files that it opens first are open.
        if count == 4 * workers:
            started = time.perf_counter()
        if started and time.perf_counter() - started > seconds:
            break
    if started is None or count == 4 * workers:
        raise SystemExit('too few images for the time: give more --images or fewer --seconds')
    speed = (count - 4 * workers) * 100 / (time.perf_counter() - started)
    return {
        'find': found - imported,
        'speed': speed,
        'mib': images.memory(),
    }


class _Decoded:
    """The images as a data set of torch, decoded and reduced to a number."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.pss, self.read = tempfile.mkdtemp(), 0

    def __len__(self) -> int:
        return len(self.data.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> int:
        from datasets.imagenet import open_image

        path, label = self.data.samples[key[1]]
        open_image(path)
        self.read += 1
        if self.read % 500 == 1:
            Path(self.pss, str(os.getpid())).write_text(str(_pss()))
        return label

    def memory(self) -> float:
        """Return the proportional set size of a worker in MiB, the largest that was seen."""
        return max(float(path.read_text()) for path in Path(self.pss).iterdir()) / 1024


def _pss(kind: str = 'Pss') -> int:
    """Return the memory of this process in KiB, shared pages divided by those that share them."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'{kind}:'))


def large_index(root: Path) -> dict[str, float]:
    """Return what an index of ImageNet's size takes to load, to look up in, and in memory."""
    archive = root / 'archive'
    if not archive.exists():
        archive.write_bytes(b'an index holds for a size and a time of change')

    def members() -> Iterator[Member]:
        for i in range(ENTRIES):
            wnid = f'n{i % CLASSES + 1:08d}'
            yield Member(f'train/{wnid}/{wnid}_{i}.JPEG', 1000 * i, 900, 900)

    begin, before = time.perf_counter(), _pss()
    index = load_index(archive, [archive], members)
    loaded = time.perf_counter()
    names = {index.name(i) for i in range(0, ENTRIES, 7)}
    index.locations(np.arange(ENTRIES))
    done = time.perf_counter()
    assert len(names) == -(-ENTRIES // 7)
    return {'seconds': loaded - begin, 'read': done - loaded, 'mib': (_pss() - before) / 1024}


def in_process(*arguments: object) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, '-m', 'benchmarks.data_forms', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


app = typer.Typer(add_completion=False)


@app.command()
def main(
    images: Annotated[int, typer.Option(help='How many are drawn.')] = 100_000,
    seconds: Annotated[float, typer.Option(help='Reading is timed for so long.')] = 10.0,
    workers: Annotated[int, typer.Option(help='Processes that read.')] = 2,
    folder: Annotated[Path | None, typer.Option(help='Where to write, to time its disk.')] = None,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
    buffer: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Time the forms that a data set can be in, and an index of ImageNet's size."""
    if only is not None:
        of_index = only == 'index'
        found = large_index(folder) if of_index else measure(folder, seconds, workers, buffer)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        rows = []
        for form in FORMS:
            written = form.partition(',')[0]
            root = Path(place) / written
            if not root.exists():
                write(form, root, images)
            options = ('--only', form, '--folder', root, '--workers', workers)
            cold = in_process(*options, '--seconds', 0.1)
            buffer = 0 if written == form else BUFFER
            warm = in_process(*options, '--seconds', seconds, '--buffer', buffer)
            # Where the same files were read before, the index is there.
            first = cold['find'] if written == form else None
            rows.append([form, first, warm['find'], warm['speed'], warm['mib']])
            print(f'{form}: {warm["speed"]:,.0f} images/s', file=sys.stderr)
        (index := Path(place) / 'index').mkdir()
        built, loaded = (in_process('--only', 'index', '--folder', index) for _ in range(2))
    heads = ['form', 'find, cold (s)', 'find, warm (s)', 'images/s', 'MiB a worker']
    print(tabulate(rows, heads, 'github', floatfmt=('', '.1f', '.1f', ',.0f', '.0f')))
    print(
        f'\nAn index of {ENTRIES:,} files: built in {built["seconds"]:.1f} s, loaded in '
        f'{loaded["seconds"]:.2f} s; with every seventh name and every place read, in '
        f'{loaded["read"]:.1f} s, the process takes {loaded["mib"]:.0f} MiB more.'
    )


if __name__ == '__main__':
    app()
