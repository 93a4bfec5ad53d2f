"""Files that are checked against a schema when they are read, and replaced whole or not at all."""

import csv
import gzip
import hashlib
import io
import os
import tempfile
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from reproduce.base.errors import UserError, first_line

Schema = TypeVar('Schema')
Line = TypeVar('Line', bound=BaseModel)


# A field of a CSV file with a number or nothing: as it is written, or as its value.
NumberText = Annotated[str, Field(pattern=r'^(-?\d+\.?\d*)?$')]
OptionalNumber = Annotated[
    FiniteFloat | None, BeforeValidator(lambda text: None if text == '' else text)
]


@contextmanager
def naming_file(path: object) -> Iterator[None]:
    """Name a file in what reading, parsing or writing it raises.

    Raises:
        UserError: for an error of the system, of its encoding, or of a parser or schema.
    """
    try:
        yield
    except (OSError, ValueError, csv.Error, EOFError, zlib.error, RecursionError) as error:
        raise UserError(f'{path}: {reason(error)}.') from error


def reason(error: BaseException) -> str:
    """Return what an error says is wrong with a file, in one line."""
    if isinstance(error, ValidationError):
        return ': '.join(filter(None, first_error(error)))
    return getattr(error, 'strerror', None) or first_line(error)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def hash_of(path: str | Path | None) -> str:
    """Return the first digits of the SHA-256 of a file, or 'none' where there is no such file."""
    return sha256_of(Path(path))[:16] if path and Path(path).is_file() else 'none'


def unzipped(content: bytes) -> bytes:
    """Return the content of a gzipped file, or of one that is not gzipped as it is.

    Raises:
        OSError, EOFError, zlib.error: if it is damaged.
    """
    return gzip.decompress(content) if content.startswith(b'\x1f\x8b') else content


def read_csv(path: Path, schema: type[Line]) -> list[tuple[int, Line]]:
    """Return the lines of a CSV file whose columns are the fields of `schema`, in any order.

    Those with a default may be absent.

    Returns:
        each line with its number in the file, counted from 1 for the header.

    Raises:
        UserError: if the file cannot be read, or its header or a line is not as expected.
    """
    with naming_file(path), path.open(newline='') as file:
        reader = csv.DictReader(file, restval=None)
        header = reader.fieldnames or []
        records = [(reader.line_num, record) for record in reader]
    expected = _columns(schema)
    required = {name for name in expected if schema.model_fields[name].is_required()}
    wrong = [name for name in header if name not in expected or header.count(name) > 1]
    if wrong or not required <= set(header):
        missing = ', '.join(name for name in expected if name in required - set(header))
        problem = f"the column '{wrong[0]}' is unknown or double" if wrong else f'without {missing}'
        raise UserError(f'{path}, line 1: {problem}; expected {",".join(expected)}.')
    lines = []
    for number, record in records:
        if None in record or None in record.values():
            raise UserError(f'{path}, line {number}: expected {len(header)} fields.')
        with naming_file(f'{path}, line {number}'):
            lines.append((number, schema.model_validate(record)))
    return lines


def write_csv(path: Path, schema: type[Line], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` as a CSV file whose columns are the fields of `schema`, whole or not at all.

    Raises:
        UserError: if it cannot be written; an earlier file is unchanged then.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(schema), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _columns(schema: type[BaseModel]) -> list[str]:
    return [name for name, field in schema.model_fields.items() if not field.exclude]


def read_toml(path: Path, schema: type[Schema]) -> Schema:
    """Return the content of a TOML file, validated against `schema`.

    Raises:
        UserError: if the file cannot be read or does not fit, naming the first offending entry.
    """
    with naming_file(path):
        return TypeAdapter(schema).validate_python(tomllib.loads(path.read_text()))


def first_error(error: ValidationError) -> tuple[str, str]:
    """Return where the first error of a validation is, as a dotted path, and what it is."""
    first = error.errors()[0]
    message = first['msg'].removeprefix('Value error, ')
    if isinstance(given := first['input'], str | int | float):
        message = message.replace('Input should be', f"'{given}' should be")
    return '.'.join(map(str, first['loc'])), message


def check_writable(folder: Path) -> None:
    """Make `folder` and check that files can be made in it, before hours are spent.

    Raises:
        UserError: if files cannot be made in it.
    """
    with naming_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write `content` to `path`, whose folder exists, whole or not at all.

    A process that is killed meanwhile leaves a `.NAME.XXXXXXXX.unfinished`.

    Raises:
        UserError: if it cannot be written; an earlier file at `path` is unchanged then.
    """
    with naming_file(path):
        handle, temporary = tempfile.mkstemp('.unfinished', f'.{path.name}.', path.parent)
        try:
            with open(handle, 'wb') as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
