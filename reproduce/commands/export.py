"""`python -m reproduce export`: a measured result in the formats of timm, the Hub and others."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, write_atomically
from reproduce.base.folders import EVALUATIONS
from reproduce.commands import options
from reproduce.evaluate.attestation import check_attested
from reproduce.judge.lookup import find_record

# The options that each format takes.
_TAKES = {
    'timm': {'checkpoint', 'licence'},
    'every-eval-ever': {'evaluator'},
    'eval-results': {'dataset'},
    'in-toto': {'evaluator'},
}


def export(
    record: options.Record,
    output: Annotated[Path, Option(help='A new folder for timm, else a new file.')],
    format: Annotated[
        Literal['timm', 'every-eval-ever', 'eval-results', 'in-toto'],
        Option(
            help='eval-results is for .eval_results/ of a model on the Hub. in-toto is a statement '
            'of the predicate eval-result, which is a draft; it is not signed.'
        ),
    ] = 'timm',
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
    evaluator: Annotated[
        str | None, Option(help='Who evaluated: a name, for in-toto a URI.')
    ] = None,
    dataset: Annotated[
        str | None,
        Option(help='On the Hub.  [default: ILSVRC/imagenet-1k for all of ImageNet]'),
    ] = None,
    evaluations: options.Evaluations = EVALUATIONS,
) -> None:
    """Write a measured result in a format that other tools read.

    For timm that is a folder with the weights of a classifier as safetensors, timm's config, a
    model card with the measured metrics, and the record. It appears once timm has loaded it and
    computed the same outputs. In the other formats it is a file with each metric and its interval,
    for any task.
    """
    given = {'checkpoint': checkpoint, 'licence': licence}
    given |= {'evaluator': evaluator, 'dataset': dataset}
    given = {name: value for name, value in given.items() if value is not None}
    if extra := given.keys() - _TAKES[format]:
        raise UserError(f'--format {format} takes no --{extra.pop()}: leave it out.')
    path, evaluation = find_record(record, evaluations)
    check_attested(path, required=True)
    # Imported here, so that `--help` does not wait for torch.
    if format == 'timm':
        from reproduce.report import model_folder

        files = model_folder.export(path, evaluation, output, **given)
        print(f"Load it: timm.create_model('local-dir:{output}', pretrained=True)")
        print(f'Written: {output}, with {", ".join(files)}.')
        return
    from reproduce.report.formats import WRITERS

    if output.exists():
        raise UserError(f'{output} is there already: name a new file with --output.')
    text = WRITERS[format](path, evaluation, **given)
    check_writable(output.parent)
    write_atomically(output, text)
    print(f'Written: {output}.')
