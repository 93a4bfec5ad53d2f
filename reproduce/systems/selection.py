"""Rows of the paper's tables and the systems that stand for them, chosen by number and by name."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from reproduce.base.errors import UserError, first_line
from reproduce.paper import Row, load_table, table_numbers
from reproduce.systems import System, load_systems


def rows_and_systems(tables: Sequence[int] | None) -> tuple[list[Row], list[System]]:
    """Return the rows of the named tables, or of all, and the systems that stand for them.

    Raises:
        UserError: if the paper has no such table.
    """
    rows = [row for number in table_numbers(tables) for row in load_table(number)]
    return rows, [s for s in load_systems() if any(s.stands_for(row) for row in rows)]


def named(name: str) -> System:
    """Return the system of the tables, the OpenMMLab config or the timm model called `name`.

    Raises:
        UserError: if there is no such system or model, or a system is only cited.
    """
    systems = {system.name: system for system in load_systems()}
    if name in systems:
        system = systems[name]
    elif name.endswith('.py') or '::' in name:
        system = System(name=name, rows=[], config=name, flops='total')
    else:
        from reproduce.systems import timm_names  # imports torch

        timm_names.check(name)
        system = System(name=name, rows=[], model=name)
    if system.cited is not None:
        raise UserError(f'{name} cannot be built, only cited: {system.cited}.')
    return system


def factory(name: str) -> Callable[[], Any] | None:
    """Return the function that makes the network MODULE:FACTORY; None if `name` is not of one.

    Raises:
        UserError: if it cannot be imported.
    """
    module, colon, function = name.replace('::', '').partition(':')
    try:
        return getattr(import_module(module), function) if colon else None
    except Exception as error:  # whatever a module raises
        raise UserError(f'{name}: {first_line(error)}. Is its folder in PYTHONPATH?') from error


def select(
    rows: Sequence[Row], systems: Sequence[System], names: Sequence[str] | None
) -> tuple[Sequence[Row], Sequence[System]]:
    """Return the rows and systems that `names` names, by printed name, system or timm model.

    Args:
        names: each may hold several names, separated by commas; without any, all are returned.

    Raises:
        UserError: if a name is that of no row and no system.
    """
    if not names:
        return rows, systems
    chosen = []
    for name in (name.strip() for entry in names for name in entry.split(',')):
        found = [
            (row, system)
            for row in rows
            for system in systems
            if system.stands_for(row) and name in (row.model, system.name, system.model)
        ]
        if not found:
            raise UserError(f"no row or system of these tables is called '{name}'.")
        chosen += found
    printed = {(row.table, row.model) for row, _ in chosen}
    named = {system.name for _, system in chosen}
    return (
        [row for row in rows if (row.table, row.model) in printed],
        [system for system in systems if system.name in named],
    )
