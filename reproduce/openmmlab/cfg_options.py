"""KEY=VALUE entries, as OpenMMLab's own tools take them to change a config."""

from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config, DictAction

from reproduce.base.errors import UserError


def parse(entries: Iterable[str], option: str = '--cfg-options') -> dict[str, Any]:
    """Return the values of KEY=VALUE entries, as OpenMMLab's own tools read them.

    A value is a number, True, False, None, a list (1,2 or [1,2]), a tuple ((1,2)), or else text. A
    later one counts where two have the same key.

    Raises:
        UserError: if an entry of `option` is not KEY=VALUE, or its brackets do not match.
    """
    parser = ArgumentParser()
    parser.add_argument('--values', nargs='+', action=DictAction)
    values: dict[str, Any] = {}
    for entry in entries:
        try:
            # With `=`, so that no key is taken for an option.
            values |= parser.parse_args([f'--values={entry}']).values
        except (ValueError, AssertionError) as error:  # no `=`, or brackets that do not match
            raise UserError(f"{option} '{entry}' is not KEY=VALUE: {error}.") from error
    return values


def merge(config: Config, values: Mapping[str, Any]) -> None:
    """Replace values of `config`, named by their keys with dots between them.

    The values may have been read back from JSON or TOML, which have no tuples: a list of numbers is
    taken for a tuple, as sizes and scales are in OpenMMLab.

    Raises:
        UserError: if the config has no place for one.
    """
    for key, value in values.items():
        try:
            config.merge_from_dict({key: _tupled(value)})
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f'{config.filename} has no place for {key}={value}: {error}.'
            ) from error


def _tupled(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    items = [_tupled(item) for item in value]
    numbers = all(isinstance(item, int | float) for item in items)
    return tuple(items) if items and numbers else items
