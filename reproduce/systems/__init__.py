"""Every row of every table as a system: how it is built, and what its printed FLOPs count.

One file a task: `imagenet.toml` (Tables 1-4), `coco.toml` (5, 6), `ade20k.toml` (7).
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from reproduce.base.files import read_toml
from reproduce.paper import FRAMEWORKS, TABLES, Column, Row

FOLDER = Path(__file__).parent
FILES = ('imagenet.toml', 'coco.toml', 'ade20k.toml')


class System(BaseModel):
    """A named model in a framework, and the rows of the paper that it stands for.

    Attributes:
        name: unique; timm's model name or the config's stem where the system is built from one.
        rows: the rows it stands for, each by its table and as many columns as name it uniquely.
        framework: what the backbone works in.
        model, arguments, input_size: timm model, its constructor arguments, pixels a side.
        config: OpenMMLab config, a file in `reproduce/configs` or 'mmdet::...', 'mmseg::...'.
        accuracy_config: the config of the released weights, where the printed accuracy is that of
            another one than the printed FLOPs.
        weights: its public weights: 'timm:', 'mmdet:' or 'mmseg:' and what they are called there,
            or 'release:' and its own name.
        protocol: how the training or the evaluation of these differs from the row's.
        cited: why the system cannot be built here, in place of `model` and `config`.
        flops: what the row's printed FLOPs count; None where a cited row does not say. Those of a
            classifier are total unless it says otherwise.
        variant: what distinguishes it from the system that is built as the row is printed.
        source: where the definition comes from.
        note: how the definition is known to differ from the row's.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    name: str
    rows: list[dict[str, str | int]]
    framework: Literal['classifier', 'mask_rcnn', 'cascade_mask_rcnn', 'sem_fpn', 'upernet'] = (
        'classifier'
    )
    model: str | None = None
    arguments: dict[str, Any] = {}
    input_size: int = 224
    config: str | None = None
    accuracy_config: str | None = None
    weights: str | None = None
    protocol: str = ''
    cited: str | None = None
    flops: Literal['layer', 'total'] | None = None
    variant: str = ''
    source: str = ''
    note: str = ''

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


class _File(BaseModel):
    model_config = ConfigDict(extra='forbid')
    system: list[System]


@cache
def load_systems() -> tuple[System, ...]:
    """Return all systems, in the order of the files.

    Raises:
        UserError: if a file is malformed.
    """
    return tuple(system for file in FILES for system in read_toml(FOLDER / file, _File).system)
