"""Records in formats that other tools read, for all tasks; values are in percent, as in the record.

* Every Eval Ever: version 0.3.0 of its schema, https://github.com/evaleval/every_eval_ever
* eval-results: https://huggingface.co/docs/hub/eval-results
* in-toto: version 0.1 of the predicate eval-result, which is a draft,
  https://github.com/in-toto/attestation/pull/575
"""

import base64
import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.base.wording import extent
from reproduce.evaluate.records import Evaluation
from reproduce.statistics.classification_metrics import ImageHits

_HARNESS = 'maformer-reproduction'
# The data sets that their publishers have on the Hub. Of COCO and ADE20K, it has copies.
_ON_HUB = {'imagenet': 'ILSVRC/imagenet-1k'}


def every_eval_ever(record: Path, e: Evaluation, evaluator: str = 'unknown') -> str:
    """Return a record as JSON of the schema of Every Eval Ever.

    Args:
        record: the record's file.
        evaluator: the name of the organization that evaluated.
    """
    run = e.provenance
    time = f'{datetime.fromisoformat(run.date).timestamp():.0f}'
    source = {
        'dataset_name': _data(e),
        'source_type': 'other',
        'additional_details': {'extent': _extent(e), 'fingerprint': e.data.fingerprint},
    }
    scale = {'score_type': 'continuous', 'min_score': 0, 'max_score': 100}
    results = []
    for name, value in e.metrics.items():
        score: dict[str, Any] = {'score': value}
        if name in e.intervals:
            low, high = e.intervals[name]
            method = 'Wilson' if name in ImageHits.NAMES else 'basic bootstrap over images'
            interval = {'lower': low, 'upper': high, 'confidence_level': 0.95, 'method': method}
            score['uncertainty'] = {'confidence_interval': interval, 'num_samples': e.data.images}
        metric = {'metric_id': f'{e.task}.{name}', 'metric_name': name, 'metric_unit': 'percent'}
        results.append(
            {
                'evaluation_name': f'{_data(e)}.{e.data.split}',
                'source_data': source,
                'metric_config': {**metric, 'lower_is_better': name == 'ece', **scale},
                'score_details': score,
            }
        )
    details = {name: json.dumps(value) for name, value in e.model_dump(mode='json').items()}
    log = {
        'schema_version': '0.3.0',
        'evaluation_id': f'{_data(e)}/{e.stem}/{time}',
        'evaluation_timestamp': run.date,
        'retrieved_timestamp': time,
        'source_metadata': {
            'source_type': 'evaluation_run',
            'source_organization_name': evaluator,
            'evaluator_relationship': 'other',
            'additional_details': {'file': record.name, **details},
        },
        'eval_library': {'name': _HARNESS, 'version': run.commit or run.sources or 'unknown'},
        'model_info': {
            'name': e.name,
            'id': e.checkpoint.released or e.model,
            'additional_details': {
                'deployment_type': 'self_deployed',
                'model_availability': 'open_weights' if e.checkpoint.released else 'unknown',
            },
        },
        'evaluation_results': results,
    }
    return json.dumps(log, indent=2)


def eval_results(record: Path, e: Evaluation, dataset: str = '') -> str:
    """Return a record as YAML for the folder `.eval_results` of a model on the Hub.

    Each metric is an entry with the metric's name as its task; its notes have the interval.

    Args:
        record: the record's file.
        dataset: the data set on the Hub that has the images; '' for that of the task.

    Raises:
        UserError: if the task has none there, or the record is of a part of it.
    """
    known = _ON_HUB.get(e.task, '')
    dataset = dataset or known
    if not dataset or (dataset == known and not e.data.complete):
        raise UserError(
            f'{e.stem} is of {e.task}, {_extent(e)}, and no data set of the Hub is known to have '
            'these: name one that has with --dataset, such as USER/NAME.'
        )
    facts = (
        f'{_extent(e)}; {e.precision}; weights {e.checkpoint.sha256}; record {sha256_of(record)}'
    )
    entries = []
    for name, value in e.metrics.items():
        interval = '95 % interval {} to {}; '.format(*e.intervals[name]) * (name in e.intervals)
        notes = f'{name} in percent; {interval}{facts}'
        entries.append(EvalResultEntry(dataset, name, value, date=e.provenance.date, notes=notes))
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def in_toto(record: Path, e: Evaluation, evaluator: str = '') -> str:
    """Return a record as an in-toto statement, not signed, of the draft predicate eval-result.

    It claims that each measured metric is between the ends of its 95 % interval. Its evidence is
    the record itself, with all values.

    Args:
        record: the record's file.
        evaluator: a URI of who evaluated.

    Raises:
        UserError: if the evaluator is no URI, or the record does not bind the bytes of the images.
    """
    if not re.fullmatch(r'[A-Za-z][\w+.-]*:\S+', evaluator):
        raise UserError('in-toto needs a URI of who evaluated, such as --evaluator https://me.org.')
    if not e.data.sha256:
        raise UserError(f'{e.stem} has no hash of the images: evaluate again to get one.')
    run, data = e.provenance, f'{_data(e)}/{e.data.split}'
    claims = []
    for name, value in e.metrics.items():
        low, high = e.intervals.get(name, (value, value))
        for comparator, end, passed in (('>=', low, value >= low), ('<=', high, value <= high)):
            threshold = f'{Decimal(repr(end)):f}'
            claim = {'metric': name, 'comparator': comparator, 'threshold': threshold}
            claims.append(claim | {'passed': passed})
    weights = {'name': e.checkpoint.file, 'digest': {'sha256': e.checkpoint.sha256}}
    evidence = {
        'name': record.name,
        'digest': {'sha256': sha256_of(record)},
        'mediaType': 'application/json',
        'content': base64.b64encode(record.read_bytes()).decode(),
    }
    harness: dict[str, Any] = {'name': _HARNESS, 'version': run.sources}
    if re.fullmatch('[0-9a-f]{40}', run.commit):  # without changes
        harness['digest'] = {'gitCommit': run.commit}
    statement = {
        '_type': 'https://in-toto.io/Statement/v1',
        'subject': [weights],
        'predicateType': 'https://in-toto.io/attestation/eval-result/v0.1',
        'predicate': {
            'evaluator': {'id': evaluator},
            'evaluatedAt': run.date,
            'suite': {'name': data, 'version': e.data.fingerprint},
            'claims': claims,
            'sampleSize': e.data.images,
            'model': weights,
            'dataset': {
                'name': data,
                'digest': {'sha256': e.data.sha256},
                'annotations': {'extent': _extent(e)},
            },
            'assuranceLevel': 'self_attested',
            'subjectProfile': 'public-model',
            'evidence': [evidence],
            'harness': harness,
        },
    }
    return json.dumps(statement, indent=2)


def _data(e: Evaluation) -> str:
    """Return a name of the images, which is that of the benchmark for all of it alone."""
    return e.task if e.data.complete else f'{e.task}-incomplete-{e.data.fingerprint}'


def _extent(e: Evaluation) -> str:
    return extent(e.data.images, e.data.complete, e.data.problems)


WRITERS = {'every-eval-ever': every_eval_ever, 'eval-results': eval_results, 'in-toto': in_toto}
