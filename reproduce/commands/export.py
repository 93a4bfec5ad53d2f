"""`python -m reproduce export`: a measured classifier as a folder for timm and the Hub."""

from pathlib import Path
from typing import Annotated

from typer import Option

from reproduce.base.folders import EVALUATIONS
from reproduce.commands import options
from reproduce.evaluate.attestation import check_attested
from reproduce.judge.lookup import find_record


def export(
    record: options.Record,
    output: Annotated[Path, Option(help='A new folder.')],
    checkpoint: Annotated[
        str | None,
        Option(
            help='The weights: a file, or a folder with SYSTEM.safetensors.  [default: the '
            'released ones that were measured]'
        ),
    ] = None,
    licence: Annotated[
        str | None,
        Option(help="The weights' licence, such as Apache-2.0.  [default: that of released ones]"),
    ] = None,
    evaluations: options.Evaluations = EVALUATIONS,
) -> None:
    """Write a measured classifier as a folder that timm loads and the Hub takes.

    It holds the weights as safetensors, timm's config, a model card with the measured metrics, and
    the record. The folder appears once timm has loaded it and computed the same outputs.
    """
    path, evaluation = find_record(record, evaluations)
    check_attested(path, required=True)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.report.model_folder import export

    files = export(path, evaluation, output, checkpoint, licence)
    print(f"Load it: timm.create_model('local-dir:{output}', pretrained=True)")
    print(f'Written: {output}, with {", ".join(files)}.')
