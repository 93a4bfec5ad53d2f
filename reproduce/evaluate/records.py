"""Evaluation records: what was measured on which images with which weights, how, when, where.

One JSON file for each measurement, under `results/evaluations/`, next to the predictions that it
was computed from. Measuring the same again replaces the record.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from reproduce.base.files import check_writable, naming_file, write_atomically
from reproduce.base.folders import EVALUATIONS
from reproduce.base.versions import CHECKOUT, libraries, sources_sha256
from reproduce.tasks import TASKS, known_task

if TYPE_CHECKING:
    import torch

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_FileName = Annotated[str, Field(pattern=r'^[^/\x00]*$')]


class Checkpoint(BaseModel, extra='forbid', frozen=True):
    """The weights: the name and the SHA-256 of their file, and their name if they are released."""

    file: str
    sha256: str
    released: str = ''


class Data(BaseModel, extra='forbid', frozen=True):
    """The images: their number and fingerprint, and why they are not the complete set."""

    split: str
    images: int
    classes: int
    fingerprint: str
    complete: bool
    problems: tuple[str, ...] = ()
    sha256: str = ''  # over the SHA-256 of every file that was read; see `Split.hashes`


class Provenance(BaseModel, extra='forbid', frozen=True):
    """Who measured, with what, when."""

    date: Annotated[str, Field(pattern=r'^\d{4}-\d\d-\d\dT')]  # in ISO 8601, UTC
    command: str
    device: str
    processes: int
    batch_size: int
    seconds: float  # of the run over the images, without start-up
    versions: dict[str, str]
    commit: str = ''  # with '-dirty' if files were changed since; '' without Git
    sources: str = ''  # see `sources_sha256`
    threads: int | None = None  # of each process; they decide the last digits
    compiled: bool = False  # by `torch.compile`
    deterministic: bool = False
    resumed: int = 0  # images that earlier runs had predicted, before they were interrupted


class Attestation(BaseModel, extra='forbid', frozen=True):
    """The SHA-256 over `parts`, the hashes of the record's fields and files; see `attestation`."""

    sha256: str
    parts: dict[str, str]

    @property
    def short(self) -> str:
        """The first digits, as Git shortens a commit."""
        return self.sha256[:12]


class Evaluation(BaseModel, extra='forbid', frozen=True):
    """One measurement. Fields with a default are missing in records of earlier versions."""

    task: Annotated[str, AfterValidator(known_task)]
    system: str | None  # of the paper's tables, if it is one
    model: str  # of timm, or an OpenMMLab config
    arguments: dict[str, Any]  # of the constructor, or values that replace some of the config's
    checkpoint: Checkpoint
    data: Data
    precision: str  # 'fp32', 'fp16' or 'bf16'
    # Of a classifier input_size, crop_pct, crop_mode, interpolation, mean, std; of an OpenMMLab
    # model its test pipeline, and a hash over that and the model's config.
    preprocessing: dict[str, Any]
    # Which of these, or of the rest of the model's config, were set by hand; and img_size where it
    # is not the model's own.
    overridden: tuple[str, ...]
    from_weights: tuple[str, ...] = ()  # which of these the file of the weights states
    metrics: Annotated[dict[str, Percent], Field(min_length=1)]
    intervals: dict[str, tuple[Percent, Percent]] = {}  # of 95 %
    per_class: dict[str, dict[str, Percent]] = {}
    warnings: tuple[str, ...] = ()
    provenance: Provenance
    # The names of the files of predictions and of what was counted on each image; their suffixes
    # before the record is saved.
    predictions: _FileName = ''
    statistics: _FileName = ''
    attestation: Attestation | None = None

    @property
    def key(self) -> str:
        """What was measured, in 12 hex digits: everything but the numbers and the provenance."""
        names = ('task', 'system', 'model', 'arguments', 'precision', 'preprocessing')
        what = self.model_dump(mode='json', include=set(names))
        what['checkpoint'] = self.checkpoint.sha256
        what['data'] = self.data.fingerprint
        if TASKS[self.task].kind.padded_batches:
            what['batch_size'] = self.provenance.batch_size
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def set_by_hand(self) -> tuple[str, ...]:
        """What was `overridden` and is not stated by the file of the weights."""
        return tuple(name for name in self.overridden if name not in self.from_weights)

    @property
    def origin(self) -> str:
        """When, with which weights and on what it was measured."""
        return (
            f'{self.checkpoint.file} ({self.checkpoint.sha256[:8]}), {self.data.images:,} images, '
            f'{self.precision} on {self.provenance.device}, {self.provenance.date[:10]}'
        )

    @property
    def name(self) -> str:
        """The system, or else timm's name of the model or the config's without its ending."""
        return self.system or Path(self.model.rpartition('::')[2]).name.removesuffix('.py')

    @property
    def stem(self) -> str:
        """The name of the record's files."""
        return f'{self.name}-{self.key}'


def provenance(device: 'torch.device', **facts: Any) -> Provenance:
    """Return the provenance of what this process is measuring now, with further `facts`."""
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec='seconds'),
        command=shlex.join(['python', '-m', 'reproduce', *sys.argv[1:]]),
        device=device_name(device),
        versions=libraries(),
        commit=commit_of_checkout(),
        sources=sources_sha256(),
        **facts,
    )


def commit_of_checkout() -> str:
    """Return the commit of this project, as in `Provenance`."""

    def git(*arguments: str) -> str:
        command = ['git', '--no-optional-locks', *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    if not (CHECKOUT / '.git').exists():
        return ''  # it may be in another repository
    try:
        # Results are what an evaluation writes: they do not change what it measures.
        changed = git('status', '--porcelain', '--', '.', ':!results')
        return git('rev-parse', 'HEAD') + ('-dirty' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return ''


def device_name(device: 'torch.device') -> str:
    """Return the name of the GPU or the processor."""
    if device.type == 'cuda':
        import torch  # imported here, so that commands that only read records do not wait for it

        return torch.cuda.get_device_name(device)
    found = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    return found[1] if found else platform.machine()


def in_one_line(metrics: Mapping[str, float]) -> str:
    """Return the metrics with all their digits, separated by commas."""
    return ', '.join(f'{name} {value} %' for name, value in metrics.items())


def save(
    evaluation: Evaluation,
    predictions: bytes,
    folder: Path = EVALUATIONS,
    statistics: bytes | None = None,
) -> Path:
    """Write the record and its files, each whole or not at all; return the record's path.

    Args:
        statistics: what was counted on each image, as `KeptImages.to_bytes` returns it.

    Raises:
        UserError: if they cannot be written.
    """
    check_writable(folder)
    names = {}
    for field, content in (('predictions', predictions), ('statistics', statistics)):
        if content is not None:
            names[field] = f'{evaluation.stem}{getattr(evaluation, field)}'
            write_atomically(folder / names[field], content)
    # The record last: it never names a file that does not exist.
    path = folder / f'{evaluation.stem}.json'
    record = evaluation.model_copy(update=names).model_dump(mode='json')
    write_atomically(path, json.dumps(record, indent=2) + os.linesep)
    return path


def load_all(folder: Path = EVALUATIONS) -> list[Evaluation]:
    """Return all records in `folder`, by name; none if it does not exist.

    Raises:
        UserError: if one is malformed.
    """
    return [load(path) for path in sorted(folder.glob('*.json'))]


def load(path: Path) -> Evaluation:
    """Return the record in the file `path`.

    Raises:
        UserError: if it is malformed.
    """
    with naming_file(path):
        return Evaluation.model_validate_json(path.read_bytes())


def latest(
    records: Iterable[Evaluation], system: str, metric: str, complete: bool = True
) -> Evaluation | None:
    """Return the latest evaluation of `system` that has `metric`, with its own preprocessing.

    Of the same weights, an evaluation in fp32 takes precedence over one in lower precision.

    Args:
        complete: on the complete validation set, or on a part of it.
    """
    fitting = [
        record
        for record in records
        if record.system == system
        and metric in record.metrics
        and record.data.complete is complete
        and not record.overridden
    ]
    newest = max(fitting, key=lambda r: r.provenance.date, default=None)
    same = [r for r in fitting if r.checkpoint.sha256 == newest.checkpoint.sha256]
    return max(same, key=lambda r: (r.precision == 'fp32', r.provenance.date), default=None)
