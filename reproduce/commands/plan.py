"""`python -m reproduce plan`: what the tables would evaluate, what is missing, where to get it."""

from reproduce.base.folders import EVALUATIONS
from reproduce.base.job_options import Limit
from reproduce.commands import options
from reproduce.systems.selection import rows_and_systems, select


def plan(
    tables: options.Tables = None,
    models: options.Models = None,
    data: options.SomeData = None,
    checkpoints: options.Checkpoints = None,
    limit: Limit = None,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Say what `table` with the same options would evaluate, and what is missing for the rest.

    Measures nothing. How long an evaluation takes is what `make benchmark` measures.
    """
    # Imported here, so that `--help` does not wait for it.
    from reproduce.evaluate import planning, records
    from reproduce.evaluate.accuracies import find_inputs

    rows, chosen = select(*rows_and_systems(tables), models)
    inputs = find_inputs(chosen, data, checkpoints, limit)
    cells = planning.plan(rows, chosen, inputs, records.load_all(evaluations))
    result = {'cells': [cell._asdict() for cell in cells]}
    options.show(format, result, *planning.by_table(cells, inputs))
