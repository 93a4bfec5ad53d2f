"""`python -m reproduce ablation`: the paper's claims about its design, tested by training."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from reproduce.base.files import write_atomically
from reproduce.base.folders import ABLATIONS
from reproduce.base.job_options import Device


def ablation(
    study: Annotated[
        str, Argument(help='micro, small, medium or paper, or a TOML file of your own.')
    ] = 'micro',
    data: Annotated[Path | None, Option(help='Folder of the images; micro draws its own.')] = None,
    labels: Annotated[
        Path | None,
        Option(
            help='Folder of label maps, or an archive of it, for a study that trains no annotator.'
        ),
    ] = None,
    seeds: Annotated[
        int | None, Option(min=1, help="Run only the first of the study's seeds.  [default: all]")
    ] = None,
    earlier: Annotated[
        Path | None,
        Option(help='Folder of outcomes of the same study, whose runs are not repeated.'),
    ] = None,
    jobs: Annotated[
        int | None,
        Option(min=1, help='Runs at a time.  [default: one a GPU, or as many as the cores allow]'),
    ] = None,
    device: Device = None,
    dry_run: Annotated[
        bool,
        Option('--dry-run', help='Print what it would train and could resolve, and train nothing.'),
    ] = False,
    work: Annotated[
        Path | None, Option(help='Folder of the trainings.  [default: work_dirs/ablations/STUDY]')
    ] = None,
    output: Annotated[
        Path | None,
        Option(help='Folder of the CSVs and tables.  [default: results/ablations/STUDY]'),
    ] = None,
) -> None:
    """Train variants of the design side by side, and judge the paper's claims about it.

    Each variant is trained with several seeds, evaluated as everything else is, and compared in
    pairs. A study that was interrupted continues with the same command.
    """
    # Imported here, so that `--help` does not wait for torch.
    from datasets import imagenet, shapes
    from datasets.classes import NUM_CLASSES
    from reproduce.ablation import execution, rendering
    from reproduce.ablation.study import load_study

    chosen = load_study(study)
    if dry_run:
        own = shapes.CLASSES if chosen.drawn else data and imagenet.load(data).classes
        variants = execution.measure_variants(chosen, len(own) if own else NUM_CLASSES)
        print(rendering.plan(chosen, variants, seeds or len(chosen.seeds)))
        return
    work = work or Path('work_dirs/ablations') / chosen.name
    output = output or ABLATIONS / chosen.name
    planned = execution.plan_execution(chosen, work, data, labels, seeds, jobs, device)
    outcomes = execution.execute(planned, output, earlier)
    text = rendering.markdown(outcomes)
    write_atomically(output / 'claims.md', text)
    write_atomically(output / 'claims.tex', rendering.latex(outcomes))
    print(f'{text}\nWritten: {output}')
