"""The model card of exported weights; its metadata state the metrics as the Hub reads them."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import timm
import torch.nn as nn
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment
from timm.models import model_entrypoint

from reproduce.evaluate.apart import evaluate_command
from reproduce.evaluate.records import Evaluation
from reproduce.report import exchange
from reproduce.tasks import TASKS

_HEADINGS = {'top1': 'Top-1 accuracy (%)', 'top5': 'Top-5 accuracy (%)'}


def model_card(
    evaluation: Evaluation,
    network: nn.Module,
    licence: str | None,
    digest: str | None,
    formats: Sequence[str],
) -> str:
    """Return the README.md of exported weights.

    Args:
        network: the classifier that was exported.
        licence: of the weights; None where it is not known.
        digest: SHA-256 of the exported weights; None where their file is the evaluated one.
        formats: the exchange formats that are written beside them.
    """
    e = evaluation
    ours = model_entrypoint(e.model.partition('.')[0]).__module__.startswith('model.')
    tags = ['image-classification', 'timm', *(['maformer', 'arxiv:2209.01620'] if ours else [])]
    metadata = ModelCardData(
        license=licence and licence.lower(),
        library_name='timm',
        pipeline_tag='image-classification',
        tags=tags,
        model_name=e.model,
        eval_results=results(e),
    )
    arguments = f' with {json.dumps(e.arguments)}' if e.arguments else ''
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    # What neither timm's config nor the file of the weights says of the preprocessing.
    by_hand = sorted(set(e.overridden) - set(e.from_weights))
    stated = e.preprocessing | {'img_size': e.preprocessing['input_size'][-1]}
    command = evaluate_command(
        *('imagenet', e.model, 'model.safetensors', 'DATA', e.arguments),
        {name: stated.get(name, True) for name in by_hand},  # use_train_size is a flag
    )
    precision = [] if e.precision == 'fp32' else ['--amp', e.precision]
    template = Path(__file__).with_name('model_card.md.j2').read_text()
    return (
        Environment(keep_trailing_newline=True)
        .from_string(template)
        .render(
            e=e,
            metadata=metadata.to_yaml(),
            kind=f'{type(network).__name__}{arguments}, {parameters:.2f} M parameters, '
            f'{network.num_classes} classes',
            headings=_HEADINGS,
            images=_images(e),
            timm=e.provenance.versions.get('timm', timm.__version__),
            torch=e.provenance.versions.get('torch', '(not recorded)'),
            ours=ours,
            command=shlex.join(['python', '-m', *command, *precision]),
            by_hand=by_hand,
            digest=digest,
            licence=licence,
            formats=[exchange.FORMATS[name] for name in formats],
            sizes=exchange.input_sizes(network, tuple(e.preprocessing['input_size'][1:])),
        )
    )


def results(evaluation: Evaluation) -> list[EvalResult]:
    """Return the metrics as the Hub's `model-index` takes them, in percent."""
    data = evaluation.data
    return [
        EvalResult(
            task_type='image-classification',
            task_name='Image classification',
            dataset_type='imagenet-1k' if data.complete else 'custom',
            dataset_name='ImageNet-1K' if data.complete else _images(evaluation),
            dataset_split='validation' if data.split == 'val' else data.split,
            dataset_args={'images': data.images, 'fingerprint': data.fingerprint},
            metric_type='accuracy',
            metric_name=_HEADINGS[name],
            metric_value=value,
        )
        for name, value in evaluation.metrics.items()
    ]


def _images(evaluation: Evaluation) -> str:
    data = evaluation.data
    if data.complete:
        return TASKS[evaluation.task].validation_set
    return f'{data.images:,} images of {data.classes} classes, not the ImageNet-1K validation set'
