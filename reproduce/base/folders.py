"""The paper that is reproduced, and where its results are kept unless an option names a folder."""

import os
import shlex
from pathlib import Path

from reproduce.base.errors import UserError

PAPERS = Path(__file__).parents[1] / 'paper'
_DEFAULT = 'maformer'
# The environment names a folder of `PAPERS`, or another; processes that are started inherit it.
PAPER_VARIABLE = 'REPRODUCE_PAPER'
PAPER = PAPERS / os.environ.get(PAPER_VARIABLE, _DEFAULT)
if not (PAPER / 'paper.toml').is_file():
    _names = ', '.join(sorted(path.parent.name for path in PAPERS.glob('*/paper.toml')))
    raise UserError(
        f"no paper is called '{os.environ[PAPER_VARIABLE]}': name {_names}, or a folder with a "
        'paper.toml.'
    )

IS_DEFAULT = PAPER == PAPERS / _DEFAULT
# What names the paper after `python -m reproduce`.
PAPER_OPTION = '' if IS_DEFAULT else f' --paper {shlex.quote(os.environ[PAPER_VARIABLE])}'
RESULTS = Path('results') if IS_DEFAULT else Path('results', PAPER.name)
ABLATIONS = RESULTS / 'ablations'
EVALUATIONS = RESULTS / 'evaluations'
# The parameters and FLOPs that were counted, of all papers; a run that finds them does not count
# again.
COUNTS = Path('results/counts.csv')
# The records of the released weights, which are in the repository, of all papers.
RELEASED = Path('results/released')
