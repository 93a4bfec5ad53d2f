"""The notebook of the documentation, executed as it is."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from reproduce.weights.registry import load_manifest

DOCS = Path(__file__).parents[2] / 'docs'


def test_the_notebook_ends_with_the_row_of_the_released_checkpoint():
    notebook = nbformat.read(DOCS / 'checkpoint-to-latex.ipynb', 4)
    kept = notebook.cells[-1].outputs[0].text
    NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(DOCS)}}).execute()
    row = notebook.cells[-1].outputs[0].text
    (reference,) = next(e for e in load_manifest() if e.name == 'maformer_micro_shapes').reference
    assert row.startswith('Ours') and f'& {reference.metrics["top1"]:.1f}' in row
    assert row == kept
