"""Comparisons that were kept: `results/comparisons/*.json`, as `compare --save` writes them."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from reproduce.base.errors import UserError
from reproduce.base.files import first_error


class ComparedMetric(BaseModel):
    """A metric of both systems in percent, and the second less the first with its 95 % interval."""

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float
    significant: bool


class SavedComparison(BaseModel):
    """Two systems on the same images; each has a `name`."""

    first: dict[str, Any]
    second: dict[str, Any]
    metrics: dict[str, ComparedMetric]


class SavedMatrix(BaseModel):
    """Several systems on the same images, compared in pairs."""

    pairs: list[SavedComparison]


def load_comparisons(results: Path) -> list[SavedComparison]:
    """Return the comparisons under `results`, by file name; none where there is no folder.

    Raises:
        UserError: if a file cannot be read, or was not written by `compare --save`.
    """
    adapter = TypeAdapter(SavedMatrix | SavedComparison)
    found: list[SavedComparison] = []
    for path in sorted(results.glob('comparisons/*.json')):
        try:
            kept = adapter.validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f'{path} cannot be read: {error.strerror}.') from None
        except ValidationError as error:
            raise UserError(
                f'{path} is no comparison ({": ".join(first_error(error))}): write it with '
                f'`python -m reproduce compare ... --save {path}`, or remove it.'
            ) from None
        found += kept.pairs if isinstance(kept, SavedMatrix) else [kept]
    return found
