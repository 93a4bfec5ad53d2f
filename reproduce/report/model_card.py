"""The model card of exported weights; its metadata state the metrics as the Hub reads them."""

import json
import shlex
from collections.abc import Sequence

import timm
import torch.nn as nn
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment
from timm.models import model_entrypoint

from reproduce.evaluate.apart import evaluate_command
from reproduce.evaluate.records import Evaluation
from reproduce.report import exchange
from reproduce.tasks import TASKS

_CARD = """---
{{ metadata }}
---

# {{ e.model }}

{{ kind }}. The numbers below were measured with these very weights by the benchmark suite of
[MAFormer](https://arxiv.org/abs/2209.01620), and `record.json` is the record of it.

{{ table }}

Measured on {{ images }}, {{ e.precision }}, on {{ e.provenance.date[:10] }}, with timm {{ timm }}
and torch {{ torch }}.
{%- if by_hand %} Set by hand: {{ by_hand | join(', ') }}.{% endif %}
{%- for warning in e.warnings %} Warning: {{ warning }}.{% endfor %}

| preprocessing | |
| --- | --- |
{%- for name, value in e.preprocessing.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}

## Use

```python
import timm
{%- if ours %}
import maformer  # registers the network with timm
{%- endif %}

model = timm.create_model('local-dir:FOLDER', pretrained=True)  # or 'hf-hub:USER/NAME'
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```
{% if ours %}
The package `maformer` comes with the suite: `pip install .` in its checkout.
{% endif %}
{%- for format in formats %}
`{{ format.file }}`, for {{ sizes }}, normalised: {{ format.description }}
{% endfor %}
## Measured again

    {{ command }}

The evaluated file was `{{ e.checkpoint.file }}`, SHA-256 `{{ e.checkpoint.sha256 }}`.
{%- if digest %}
`model.safetensors` holds the same parameters under timm's names, SHA-256 `{{ digest }}`.
{%- else %}
`model.safetensors` is that file.
{%- endif %}
{%- if e.attestation %} The attestation of the record is `{{ e.attestation.sha256 }}`.{% endif %}

{% if licence -%}
The weights' licence is {{ licence }}.
{%- else -%}
The licence of the weights was not stated when they were exported.
{%- endif %}
"""

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
        formats: the exchange formats that lie beside them.
    """
    ours = model_entrypoint(evaluation.model.partition('.')[0]).__module__.startswith('model.')
    tags = ['image-classification', 'timm', *(['maformer', 'arxiv:2209.01620'] if ours else [])]
    metadata = ModelCardData(
        license=licence and licence.lower(),
        library_name='timm',
        pipeline_tag='image-classification',
        tags=tags,
        model_name=evaluation.model,
        eval_results=_results(evaluation),
    )
    rows = ['| metric | value | 95 % interval |', '| --- | --- | --- |']
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals.get(name, (None, None))
        interval = '' if low is None else f'{low:.2f} to {high:.2f}'
        rows.append(f'| {_HEADINGS[name]} | {value:.2f} | {interval} |')
    parameters = sum(p.numel() for p in network.parameters())
    arguments = evaluation.arguments
    built = f' with {json.dumps(arguments)}' if arguments else ''
    template = Environment(keep_trailing_newline=True).from_string(_CARD)  # Markdown: no escaping
    return template.render(
        e=evaluation,
        metadata=metadata.to_yaml(),
        kind=f'{type(network).__name__}{built}, {parameters / 1e6:.2f} M parameters, '
        f'{network.num_classes} classes',
        table='\n'.join(rows),
        images=_images(evaluation),
        timm=evaluation.provenance.versions.get('timm', timm.__version__),
        torch=evaluation.provenance.versions.get('torch', '(not recorded)'),
        ours=ours,
        command=_command(evaluation),
        by_hand=_by_hand(evaluation),
        digest=digest,
        licence=licence,
        formats=[exchange.FORMATS[name] for name in formats],
        sizes=exchange.input_sizes(network, tuple(evaluation.preprocessing['input_size'][1:])),
    )


def _results(evaluation: Evaluation) -> list[EvalResult]:
    """Return the metrics as the Hub's `model-index` takes them, in percent."""
    data = evaluation.data
    complete = data.complete
    return [
        EvalResult(
            task_type='image-classification',
            task_name='Image classification',
            dataset_type='imagenet-1k' if complete else 'custom',
            dataset_name='ImageNet-1K' if complete else _images(evaluation),
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


def _by_hand(evaluation: Evaluation) -> list[str]:
    """Return what of the preprocessing neither timm's config nor the file of the weights says."""
    return sorted(set(evaluation.overridden) - set(evaluation.from_weights))


def _command(evaluation: Evaluation) -> str:
    """Return the command that evaluates the same weights in the same way."""
    stated = evaluation.preprocessing | {'img_size': evaluation.preprocessing['input_size'][-1]}
    command = evaluate_command(
        'imagenet',
        evaluation.model,
        'model.safetensors',
        'DATA',
        evaluation.arguments,
        # What timm's config or the file of the weights says is not repeated. The preprocessing has
        # no value for use_train_size, which is a flag.
        {name: stated.get(name, True) for name in _by_hand(evaluation)},
    )
    if evaluation.precision != 'fp32':
        command += ['--amp', evaluation.precision]
    return shlex.join(['python', '-m', *command])
