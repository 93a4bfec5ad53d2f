"""`python -m reproduce verify`: a record against its attestation."""

import random
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from reproduce.base.errors import UserError
from reproduce.base.folders import EVALUATIONS
from reproduce.base.terminal import TextTable
from reproduce.commands import options
from reproduce.evaluate.attestation import State
from reproduce.evaluate.attestation import verify as verify_record
from reproduce.judge.lookup import find_record
from reproduce.weights import store


def verify(
    record: options.Record,
    checkpoint: Annotated[
        str | None,
        Option(help='The weights, to check them, too: as for `evaluate`, a file or a name.'),
    ] = None,
    data: Annotated[Path | None, Option(help="The data set's folder, to check it, too.")] = None,
    rerun: Annotated[
        int | None, Option(min=1, help='Predict as many images again, and compare the predictions.')
    ] = None,
    seed: Annotated[int | None, Option(help='Of the choice of these images.')] = None,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Check a record against its attestation: which part of it differs, if one does.

    Code, weights or data other than those given here are named, and are not an error.

    Exits with 1 if the record, a file of it, or what is predicted again is not what was attested.
    """
    path, evaluation = find_record(record, evaluations)
    weights = None if checkpoint is None else store.find(checkpoint, evaluation.name)
    checked = verify_record(path, weights, data)
    if rerun is not None:
        same = {one.part for one in checked if one.state is State.HOLDS}
        others = {one.part for one in checked if one.state is State.OTHER} & {'bytes'}
        if differ := sorted(others | {'weights', 'data'} - same):  # earlier ones bind no bytes
            raise UserError(
                f'--rerun needs the weights and the data of the record: {" and ".join(differ)} '
                'given by --checkpoint and --data are others, or none are given.'
            )
        # Imported here, because it waits for torch.
        from reproduce.evaluate.rerun import rerun as predict_again

        seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        checked.append(predict_again(path, weights, data, rerun, seed))
    code = int(any(one.state is State.DIFFERS for one in checked))
    result = {
        'record': str(path),
        'attestation': evaluation.attestation.sha256,
        'parts': [one._asdict() for one in checked],
        'exit_code': code,
    }
    options.show(format, result, str(path), TextTable([], checked))
    raise typer.Exit(code)
