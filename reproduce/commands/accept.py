"""`python -m reproduce accept`: a measured result becomes a reference."""

from typing import Annotated

from typer import Option

from reproduce.base.errors import UserError
from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.commands import options
from reproduce.commands.options import print_json
from reproduce.judge.lookup import find


def accept(
    names: options.Names,
    reason: Annotated[str, Option(help='Why the new value is right. [required]')] = '',
    manifest: options.Manifest = None,
    name: Annotated[
        str | None, Option(help='The entry.  [default: the one with these weights]')
    ] = None,
    licence: Annotated[
        str | None, Option(help='Of weights that get an entry of their own.')
    ] = None,
    weights: Annotated[str | None, Option(help='File or URL of such weights.')] = None,
    results: options.Results = RESULTS,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Make a measured result the reference of its weights for the regression gate.

    With --name, --licence and --weights, it adds weights that the manifest does not have yet.
    """
    if not reason.strip():
        raise UserError('a reference is not replaced without a reason: give --reason.')
    if (licence is None) != (weights is None) or (weights is not None and name is None):
        raise UserError(
            'weights get an entry of their own with all of --name, --licence and --weights: give '
            'the others, too.'
        )
    # Imported here, so that `--help` and a missing option do not wait for torch.
    from reproduce.judge import acceptance
    from reproduce.weights.registry import MANIFEST

    found = find(names, results, evaluations).evaluations
    if len(found) != 1:
        stems = ', '.join(path.stem for path in found) or 'none'
        raise UserError(f"'{' '.join(names)}' has these records: {stems}; name the one to accept.")
    accepted = acceptance.accept(
        *(*found, reason, manifest or MANIFEST, name, licence or '', weights)
    )
    if format == 'json':
        print_json(accepted)
        return
    print(f'{accepted["name"]}, {accepted["images"]:,} images')
    for metric, change in accepted['changes'].items():
        old, new = change['old'], change['new']
        before, by = ('none', '') if old is None else (f'{old:.2f}', f'  ({new - old:+.2f})')
        print(f'{metric}  {before} -> {new:.2f}{by}')
    if accepted['subset']:
        print(
            f'WARNING: a subset of the images ({accepted["subset"]}): the reference holds for '
            f'these {accepted["images"]:,} images only.'
        )
    print(f'Written: {accepted["manifest"]}.')
