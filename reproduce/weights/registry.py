"""The register of released and of public weights, and what each scores.

`manifest.toml` is the manifest of this project's released weights: where each file is, its
SHA-256, its licence, and what it scores according to whoever released it. `published.toml` has the
same of the public weights of other systems, which `systems/*.toml` name; that of a paper's folder
has further ones.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from reproduce.base.errors import UserError
from reproduce.base.files import read_toml
from reproduce.paper import FOLDER
from reproduce.systems import System, load_systems
from reproduce.tasks import TASKS, known_task

MANIFEST = Path(__file__).parent / 'manifest.toml'
PUBLISHED = Path(__file__).parent / 'published.toml'


class Reference(BaseModel, extra='forbid', frozen=True):
    """What released weights score, in percent, according to whoever released them.

    Attributes:
        data: 'full' for the task's own data set, 'shapes' for the embedded data.
        fingerprint: of the images it was measured on; required unless they are the whole set.
        source: who measured it.
        protocol: how the training or the evaluation differs from that of the paper's row.
    """

    data: Literal['full', 'shapes'] = 'full'
    fingerprint: str = ''
    images: int
    metrics: dict[str, float]
    source: str
    protocol: str = ''

    def holds_for(self, fingerprint: str, complete: bool) -> bool:
        """Return whether it is about these images: the whole set, or those of its fingerprint."""
        return self.fingerprint == fingerprint if self.fingerprint else complete


class Released(BaseModel, extra='forbid', frozen=True):
    """Released weights: one entry of the manifest.

    Attributes:
        model, arguments: the timm model and its constructor arguments, or an OpenMMLab config and
            the values that replace some of it.
        preprocessing: what replaces a timm model's own: img_size, crop_pct, ...
        file, url: the file, relative to the manifest, or where it is downloaded from.
        by_hand: whether the URL is a page or a server for which a browser or an account is needed.
        protocol: how their training or evaluation differs from that of the paper's row.
    """

    name: str
    task: Annotated[str, AfterValidator(known_task)] = 'imagenet'
    model: str
    arguments: dict[str, Any] = {}
    preprocessing: dict[str, Any] = {}
    multi_scale: bool = False
    file: str | None = None
    url: str | None = None
    by_hand: bool = False
    sha256: Annotated[str, Field(pattern='^[0-9a-f]{64}$')]
    licence: str
    reference: list[Reference] = []
    protocol: str = ''

    @model_validator(mode='after')
    def _check(self) -> 'Released':
        if (self.file is None) == (self.url is None):
            raise ValueError(f'{self.name} needs either file or url')
        complete = TASKS[self.task].images
        for reference in self.reference:
            is_complete = (reference.data, reference.images) == ('full', complete)
            if not (is_complete or reference.fingerprint):
                raise ValueError(
                    f"a reference of {self.name} on less than all of {self.task}'s images needs a "
                    'fingerprint'
                )
        return self

    @property
    def filename(self) -> str:
        """The name of the downloaded file."""
        return f'{self.sha256[:8]}-{self.url.rpartition("/")[2]}'

    def reference_on(self, fingerprint: str, complete: bool) -> Reference | None:
        """Return what the weights score on these images, if that is published."""
        fitting = (r for r in self.reference if r.holds_for(fingerprint, complete))
        return next(fitting, None)


class Public(Released, frozen=True):
    """Public weights of a system of the paper's tables; its name is that of the weights.

    `sha256` has the digits of the file's hash that its publisher's URL has. Where it has none, the
    file is identified by the receipt of its download.
    """

    system: str
    sha256: Annotated[str, Field(pattern='^([0-9a-f]{8})?$')] = ''

    @property
    def filename(self) -> str:
        torchs = self.by_hand or self.url.endswith('.tar')  # such as model.pth.tar
        return f'{self.system}{".pth" if torchs else Path(self.url).suffix}'


class _Manifest(BaseModel, extra='forbid', frozen=True):
    checkpoint: list[Released] = []


@cache
def load_manifest(path: Path = MANIFEST) -> tuple[Released, ...]:
    """Return the released checkpoints."""
    return tuple(read_toml(path, _Manifest).checkpoint)


@cache
def load_published() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what is published about `weights`, by name, and as `results`, by system."""
    found: dict[str, dict[str, dict[str, Any]]] = {'weights': {}, 'results': {}}
    for path in (PUBLISHED, FOLDER / PUBLISHED.name):
        if path.is_file():
            for part, entries in read_toml(
                path, dict[Literal['weights', 'results'], dict[str, dict[str, Any]]]
            ).items():
                found[part] |= entries
    return found


@cache
def load_public() -> tuple[Public, ...]:
    """Return the public weights of the paper's systems, in the order of the systems."""
    return tuple(_public(system) for system in load_systems() if system.weights is not None)


def _public(system: System) -> Public:
    published = load_published()['weights'].get(system.weights)
    if published is None:
        raise UserError(
            f'{system.name}: no published.toml has {system.weights}; add where the weights are.'
        )
    return Public(
        name=system.weights,
        system=system.name,
        task=system.task,
        model=system.name,
        # Only the UPerNet rows have a multi-scale column, and it costs twelve times the time.
        multi_scale='ms_miou' in system.accuracies,
        reference=[_reference(system, published, system.protocol)],
        protocol=system.protocol,
        **{key: published[key] for key in published.keys() - {'metrics', 'source'}},
    )


def _reference(system: System, published: dict[str, Any], protocol: str) -> Reference:
    values = {'metrics': published['metrics'], 'source': published['source']}
    return Reference(images=TASKS[system.task].images, protocol=protocol, **values)


def reference_of(system: System) -> Reference | None:
    """Return what is published about a system, if anything is.

    What its authors trained is closer to the paper's row than public weights of others.
    """
    if (result := load_published()['results'].get(system.name)) is not None:
        return _reference(system, result, result.get('protocol', ''))
    return None if system.weights is None else _public(system).reference[0]


def registered() -> tuple[Released, ...]:
    """Return the manifest's checkpoints, and the public ones."""
    return (*load_manifest(), *load_public())


def released(sha256: str, name: str = '') -> Released | None:
    """Return the released weights with this SHA-256, if there are any.

    Weights whose publisher gives no hash are identified by `name`, see `store.released_name`.
    """
    for entry in registered():
        if sha256.startswith(entry.sha256) if entry.sha256 else entry.name == name:
            return entry
    return None
