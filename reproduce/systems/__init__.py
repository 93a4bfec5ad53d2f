"""Every row of every table as a system: how it is built, and what its printed FLOPs count.

The files of this folder are the register, with the rows of MAFormer's tables: one file a task. The
folder of another paper has a `systems.toml`, whose entries name a system of the register and what
differs for its rows, or define one.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from reproduce.base.files import naming_file, read_toml
from reproduce.base.folders import IS_DEFAULT
from reproduce.paper import FOLDER as PAPER
from reproduce.paper import FRAMEWORKS, TABLES, Column, Row

FOLDER = Path(__file__).parent
FILES = ('imagenet.toml', 'coco.toml', 'ade20k.toml')


class System(BaseModel, extra='forbid', frozen=True):
    """A named model in a framework, and the rows of the paper that it stands for."""

    name: str  # unique; timm's model name or the config's stem where it is built from one
    # Each by its table and as many columns as name it uniquely.
    rows: list[dict[str, str | int]] = []
    framework: Literal['classifier', 'mask_rcnn', 'cascade_mask_rcnn', 'sem_fpn', 'upernet'] = (
        'classifier'
    )
    model: str | None = None  # of timm
    arguments: dict[str, Any] = {}  # of the constructor of that
    input_size: int = 224  # pixels a side
    config: str | None = None  # a file in `reproduce/configs` or 'mmdet::...', 'mmseg::...'
    # The config of the released weights, where the printed accuracy is that of another one than the
    # printed FLOPs.
    accuracy_config: str | None = None
    # Public weights: 'timm:', 'mmdet:' or 'mmseg:' and what they are called there, or 'release:'
    # and the name of the system.
    weights: str | None = None
    protocol: str = ''  # how the training or the evaluation of these differs from the row's
    cited: str | None = None  # why it cannot be built here, in place of `model` and `config`
    # What the row's printed FLOPs count; None where a cited row does not say. Those of a classifier
    # are total unless it says otherwise.
    flops: Literal['layer', 'total'] | None = None
    variant: str = ''  # what distinguishes it from the system that is built as the row is printed
    source: str = ''  # where the definition comes from
    note: str = ''  # how the definition is known to differ from the row's

    @property
    def convention(self) -> str:
        """'layer', 'total' or '' where unknown."""
        return self.flops or ('total' if self.framework == 'classifier' else '')

    @property
    def task(self) -> str:
        """What the system is evaluated on."""
        return FRAMEWORKS[self.framework].task

    @property
    def evaluated_config(self) -> str | None:
        """The config whose weights the row's accuracy is measured with."""
        return self.accuracy_config or self.config

    def stands_for(self, row: Row) -> bool:
        return any(
            selector['table'] == row.table
            and all(row.description.get(k) == v for k, v in selector.items() if k != 'table')
            for selector in self.rows
        )

    def columns(self, table: int) -> list[Column]:
        """Return the table's columns that this system fills."""
        columns = TABLES[table].columns.values()
        return [column for column in columns if column.framework.name == self.framework]

    @property
    def accuracies(self) -> list[str]:
        """The names of the accuracies that its rows have columns for."""
        tables = sorted({int(selector['table']) for selector in self.rows})
        metrics = [column.metric for table in tables for column in self.columns(table)]
        return list(dict.fromkeys(m.name for m in metrics if not m.is_complexity))


class _File(BaseModel, extra='forbid'):
    system: list[System]


@cache
def load_systems() -> tuple[System, ...]:
    """Return all systems: those of the paper's own file first, then in the order of the files.

    Raises:
        UserError: if a file is malformed.
    """
    register = [system for file in FILES for system in read_toml(FOLDER / file, _File).system]
    if IS_DEFAULT:
        return tuple(register)
    path = PAPER / 'systems.toml'
    others = {system.name: {**dict(system), 'rows': []} for system in register}
    content = read_toml(path, dict[str, list[dict[str, Any]]])
    with naming_file(path):
        entries = [others.pop(e.get('name'), {}) | e for e in content.get('system', ())]
        own = _File.model_validate(content | {'system': entries}).system
    return *own, *map(System.model_validate, others.values())
