"""The records of the released weights, of all tasks, and what other formats keep of them: all."""

import base64
import hashlib
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import record
from huggingface_hub import parse_eval_result_entries

from reproduce.base.errors import UserError
from reproduce.base.folders import RELEASED
from reproduce.base.versions import CHECKOUT
from reproduce.evaluate import records
from reproduce.report import formats

KEPT = {path: records.load(path) for path in sorted((CHECKOUT / RELEASED).glob('*.json'))}
OPTIONS = {
    'every-eval-ever': ('--evaluator', 'Me'),
    'eval-results': ('--dataset', 'me/shapes'),
    'in-toto': ('--evaluator', 'https://example.org'),
}


def check(content, name):
    """Validate against a schema of tests/schemas."""
    path = Path(__file__).parent / f'schemas/{name}.schema.json'
    jsonschema.validate(content, json.loads(path.read_text()))


@pytest.mark.parametrize('path', KEPT, ids=lambda path: path.stem)
def test_every_metric_and_interval_is_in_each_format(run, path, tmp_path):
    e, written = KEPT[path], {}
    for format, options in OPTIONS.items():
        output = tmp_path / 'new' / format
        assert run('export', path, '--format', format, '--output', output, *options)[0] == 0
        written[format] = output.read_text()
    log = json.loads(written['every-eval-ever'])
    check(log, 'every_eval_ever')
    named = log['evaluation_results'][0]['source_data']['dataset_name']
    assert named == f'{e.task}-incomplete-{e.data.fingerprint}'
    found = {
        r['metric_config']['metric_name']: r['score_details'] for r in log['evaluation_results']
    }
    assert {name: of['score'] for name, of in found.items()} == e.metrics
    ends = {name: of['uncertainty']['confidence_interval'] for name, of in found.items()}
    assert {name: (of['lower'], of['upper']) for name, of in ends.items()} == e.intervals
    details = log['source_metadata']['additional_details']
    assert {k: json.loads(v) for k, v in details.items() if k != 'file'} == e.model_dump(
        mode='json'
    )
    entries = parse_eval_result_entries(yaml.safe_load(written['eval-results']))
    assert {entry.task_id: entry.value for entry in entries} == e.metrics
    ends = {
        n.task_id: re.search(r' interval (\S+) to (\S+); a subset of ', n.notes) for n in entries
    }
    assert {name: tuple(map(float, of.groups())) for name, of in ends.items()} == e.intervals
    statement = json.loads(written['in-toto'])
    check(statement, 'eval_result')
    claims = statement['predicate']['claims']
    for comparator, end in (('>=', 0), ('<=', 1)):
        of = {c['metric']: float(c['threshold']) for c in claims if c['comparator'] == comparator}
        assert of == {name: interval[end] for name, interval in e.intervals.items()}
    (evidence,) = statement['predicate']['evidence']
    content = base64.b64decode(evidence['content'])
    assert content == path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == evidence['digest']['sha256']
    private = {'model': {'alg': 'sha256', 'value': 'ab', 'salted': True}}
    for change in ({'sampleSize': '120'}, {'evaluator': {}}, {'commitments': private}):
        with pytest.raises(jsonschema.ValidationError):
            check(statement | {'predicate': statement['predicate'] | change}, 'eval_result')


def test_a_part_of_the_data_is_no_result_of_the_benchmark():
    path, older = next(iter(KEPT)), record('deit_small', 79.9)
    assert 'id: ILSVRC/imagenet-1k' in formats.eval_results(path, older)
    for e in (record('deit_small', 79.9, complete=False), *KEPT.values()):
        with pytest.raises(UserError, match='name one that has with --dataset'):
            formats.eval_results(path, e)
    with pytest.raises(UserError, match='no hash of the images'):
        formats.in_toto(path, older, 'https://example.org')


@pytest.mark.parametrize('format', OPTIONS)
def test_what_cannot_be_exported_says_what_to_do(run, format, tmp_path):
    kept, changed, output = next(iter(KEPT)), tmp_path / 'changed.json', tmp_path / 'output'
    changed.write_text(json.dumps(json.loads(kept.read_text()) | {'metrics': {'box_ap': 99.9}}))
    for path, options, sentence in (
        (changed, OPTIONS[format], 'does not match its attestation'),
        (kept, ('--licence', 'MIT'), f'--format {format} takes no --licence'),
        (kept, (*OPTIONS[format], '--output', changed), 'is there already'),
    ):
        code, out, err = run('export', path, '--format', format, '--output', output, *options)
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert sentence in err
    assert not output.exists()
