"""Where results are kept unless an option names another folder."""

from pathlib import Path

RESULTS = Path('results')
ABLATIONS = RESULTS / 'ablations'
EVALUATIONS = RESULTS / 'evaluations'
# The parameters and FLOPs that were counted; a run that finds them does not count again.
COUNTS = RESULTS / 'counts.csv'
