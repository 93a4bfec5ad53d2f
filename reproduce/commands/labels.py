"""`python -m reproduce labels`: the label maps of token labeling."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from reproduce.base.job_options import Amp, Device, Workers
from reproduce.base.processes import start_again
from reproduce.commands import options


def labels(
    model: Annotated[str, Argument(help='The annotator: any timm model.')],
    data: options.Data,
    output: Annotated[Path, Option(help='Folder for the maps, CLASS/NAME.pt.')],
    checkpoint: Annotated[
        Path | None, Option(help="The annotator's weights.  [default: timm's pretrained]")
    ] = None,
    img_size: Annotated[
        int | None,
        Option(
            min=1,
            help='Side of the images in pixels.  [default: what the file of the weights says, or '
            "the model's]",
        ),
    ] = None,
    batch_size: Annotated[int, Option(min=1, help='Images a batch, in each process.')] = 32,
    processes: options.Processes = 1,
    workers: Workers = None,
    amp: Amp = 'off',
    device: Device = None,
) -> None:
    """Write the dense label maps of token labeling for every training image."""
    start_again(processes)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.train.label_maps import make_labels

    where = (model, data, output, checkpoint)
    made = make_labels(*where, img_size, batch_size, workers, device, amp)
    if made is not None:
        written, earlier = made
        there = f'; {earlier:,} were there already' if earlier else ''
        print(f'Written: {written:,} label maps in {output}{there}.')
