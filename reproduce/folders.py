"""Where results are kept unless an option names another folder."""

from pathlib import Path

RESULTS = Path('results')
EVALUATIONS = RESULTS / 'evaluations'
