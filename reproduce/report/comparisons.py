"""Comparisons that were kept, `results/comparisons/*.json`, as `compare --save` writes them."""

from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from reproduce.base.errors import UserError
from reproduce.base.files import first_error

FOLDER = 'comparisons'


class ComparedSystem(BaseModel):
    """One of the systems that were compared."""

    name: str


class ComparedMetric(BaseModel):
    """A metric of both systems in percent, and the second less the first with its 95 % interval."""

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float
    significant: bool


class SavedComparison(BaseModel):
    """Two systems on the same images."""

    first: ComparedSystem
    second: ComparedSystem
    metrics: dict[str, ComparedMetric]


class SavedMatrix(BaseModel):
    """Several systems on the same images, each two compared."""

    pairs: list[SavedComparison]


_ADAPTER = TypeAdapter(SavedMatrix | SavedComparison)


def load_comparisons(results: Path) -> list[SavedComparison]:
    """Return the comparisons kept under `results`, by file name; none where there is no folder.

    Raises:
        UserError: if a file cannot be read, or is none that `compare --save` wrote.
    """
    found: list[SavedComparison] = []
    for path in sorted((results / FOLDER).glob('*.json')):
        try:
            kept = _ADAPTER.validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f'{path} cannot be read: {error.strerror}.') from None
        except ValidationError as error:
            raise UserError(
                f'{path} is no comparison ({": ".join(first_error(error))}): write it with '
                f'`python -m reproduce compare ... --save {path}`, or take it out of the folder.'
            ) from None
        found += kept.pairs if isinstance(kept, SavedMatrix) else [kept]
    return found
