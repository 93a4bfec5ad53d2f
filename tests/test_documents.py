"""README and docs: links lead somewhere, numbers are those of the results, every command runs.

Every line of a fenced `bash` block is a command, which the command's own option parser reads. In
the slow tests they run in a copy of the checkout, on the embedded data and with small networks in
the place of real ones (`SUBSTITUTIONS`). `NOT_HERE` lists those that do not run, with the reason.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import typer
from conftest import weights

from datasets import shapes
from reproduce.openmmlab.configs import load_config
from reproduce.systems import load_systems

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
    *sorted((ROOT / 'docs').rglob('*.md')),
    ROOT / 'reproduce/weights/released/README.md',
]


class Command(NamedTuple):
    """A line of a `bash` block without its comment, and its document."""

    document: Path
    text: str


class Sandbox(NamedTuple):
    """A folder to run commands in, and the stems of its records by a name for each."""

    folder: Path
    stems: dict[str, str]


def commands_of(document: Path) -> Iterator[Command]:
    text = re.sub(r'\\\n\s*', '', document.read_text())
    for block in re.findall(r'^ *```bash\n(.*?)^ *```', text, re.M | re.S):
        for line in block.splitlines():
            command = re.sub(r'(^|\s+)# .*', '', line.strip())
            if command and not command.startswith(('export ', 'source ')):
                yield Command(document, command)


def text_of(command: Command) -> str:
    return command.text


COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]

# Those that do not run in the tests: a pattern of the command, and why.
NOT_HERE = {
    r'^make setup$|^pip install': 'installs packages, which the tests run with',
    r'^make (test|test-slow|test-report)$': 'is what runs this',
    r'v100\.txt|--device cuda': 'needs a GPU',
    r'^sbatch |^srun ': 'needs Slurm',
    r'^docker ': 'needs Docker, and for most a GPU',
    r'^make checkpoints .*CHECKPOINTS=|checkpoints .*--download|--pretrained': 'downloads',
    r'\.mim/tools/train\.py': "trains with OpenMMLab's own loop",
}

LABEL_MAPS = 'ade20k/ADEChallengeData2016/annotations/validation'
# Replacements for the real data, days of training and eight GPUs: (the commands concerned, pattern,
# replacement). SANDBOX is the copy of the checkout.
SUBSTITUTIONS = [
    ('', r'(?<![\w./])/data/cifar10\b', '/data/imagenet'),
    ('', r'(?<![\w./])/(data|weights|maps|tmp)\b', r'SANDBOX/\1'),
    ('', r'(?<![\w./])/runs\b', 'RUNS'),
    ('', r'--nnodes=2 --nproc-per-node=8 .*29400 ', '--standalone --nproc-per-node=2 '),
    ('', r' --processes 8\b| GPUS=8\b', ''),
    (r'datasets\.shapes', r'$', ' --train 40 --val 20'),
    (r'reproduce evaluate', '$', ' --workers 0'),
    (r'evaluate imagenet|export', r'\b(mine|s|deit)\.(safetensors|pth)', 'small.safetensors'),
    (r'verify', r'\bs\.pth', 'small.safetensors'),
    (r'evaluate imagenet|train imagenet', r'\bmaformer_small\b|deit_small\w*', 'maformer_micro'),
    (r'train imagenet', r'--recipe maformer_small_deit', '--recipe maformer_micro'),
    (r'train imagenet', r'(--token-labeling|--recipe)', r'--set epochs=1 --device cpu \1'),
    (r'evaluate coco', r'--config \S+', '--config mask-rcnn_maformer-micro_fpn_shapes.py'),
    (r'evaluate coco', r'\b(mine|r50)\.pth', 'mask_rcnn_maformer_micro_shapes'),
    (r'evaluate ade20k', r'--config \S+', '--config upernet_maformer-micro_shapes.py'),
    (r'evaluate ade20k', r'\bs\.pth', 'upernet_maformer_micro_shapes'),
    (r'train mask-rcnn', r'mask-rcnn_maformer-small\S+', 'mask-rcnn_maformer-micro_fpn_shapes.py'),
    (r'train (\S*mask-rcnn|config)', r'$', ' --cfg-options train_cfg.max_epochs=1'),
    (r'train (fpn|upernet)', r'$', ' --cfg-options train_cfg.max_iters=4'),
    (r'score|compare', r'NAME\.csv\.gz', 'FIRST.csv.gz'),
    (r'score coco', r'RESULTS\.json', 'results/evaluations/BOXES.json.gz'),
    (r'score ade20k', r'FOLDER_OF_PNGS|ADEChall\S+', f'DATA/{LABEL_MAPS}'),
    (
        r'compare',
        r'mine\.json\.gz theirs\.json\.gz',
        ' '.join(f'results/evaluations/{name}.json.gz' for name in ('FEWER', 'BOXES')),
    ),
    ('', r'\bOTHER_RECORD\b', 'SECOND'),
    ('', r'\bRECORD\b', 'FIRST'),
    (r'reproduce rehearse', r" '.*'| --steps \d+| --batch-size \d+", ''),
    (r'^make rehearse|reproduce rehearse', r'$', ' --steps 1 --batch-size 8 maformer_micro'),
    (r'^make ablation|reproduce ablation', r'$', ' --dry-run'),
    (r'^make benchmark', r'$', ' --rounds 1'),
]


def heading_anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    text = re.sub(r'^```.*?^```', '', document.read_text(), flags=re.M | re.S)
    slugs = [
        re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        for heading in re.findall(r'^#+ (.*)$', text, flags=re.M)
    ]
    return {f'{s}-{n}' if (n := slugs[:i].count(s)) else s for i, s in enumerate(slugs)}


def named(document):
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize('document', DOCUMENTS, ids=named)
def test_links_lead_somewhere(document):
    text = re.sub(r'```.*?```|`[^`\n]*`', '', document.read_text(), flags=re.S)
    broken = []
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?:', target):
            continue
        path, _, anchor = target.partition('#')
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (anchor and anchor not in heading_anchors(linked)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize('document', DOCUMENTS, ids=named)
def test_files_that_are_named_exist(document):
    """Of paths in backticks, those into the folders of the checkout."""
    top = '|'.join(('model', 'datasets', 'reproduce', 'docs', 'tests', 'operators', 'benchmarks'))
    written = re.findall(rf'`((?:{top}|\.github|\.ci|requirements)/[^`\s]*)`', document.read_text())
    general = re.compile(r'NAME|tableN')
    assert not [n for n in written if not general.search(n) and not (ROOT / n).exists()]


def test_the_index_lists_every_page():
    pages = {path.name for path in (ROOT / 'docs').glob('*.md')} - {'README.md'}
    assert pages == set(
        re.findall(r'^\* \[(\S+)\]\(\1\)', (ROOT / 'docs/README.md').read_text(), re.M)
    )
    of_site = re.findall(r'^ +- docs/(\S+)$', (ROOT / 'mkdocs.yml').read_text(), re.M)
    assert sorted(of_site) == sorted(pages | {'README.md'})


@pytest.mark.parametrize('document', DOCUMENTS, ids=named)
def test_commands_are_in_blocks_that_are_tested(document):
    text = re.sub(r'^```bash.*?^```', '', document.read_text(), flags=re.M | re.S)
    assert not re.findall(
        r'^ *(?:\.venv/bin/)?(?:python -m|make [a-z-]+$|torchrun -|srun -).*', text, re.M
    )


# The commands, as their option parsers read them.


def module_calls(text: str, folder: Path = ROOT) -> Iterator[tuple[str, list[str]]]:
    """The modules that a line starts by `python -m` or another launcher, and their arguments."""
    words = shlex.split(text)
    if words[0] == 'make':
        for part in recipe_of(words, folder):
            yield from module_calls(part, folder)
    elif 'make' in words:  # in a container
        yield from module_calls(shlex.join(words[words.index('make') :]))
    elif '--wrap' in words:
        yield from module_calls(words[words.index('--wrap') + 1])
    elif words[0] == 'sbatch':
        (at,) = (i for i, word in enumerate(words) if word.endswith('.sbatch'))
        assert (ROOT / words[at]).exists()
        yield 'reproduce', ['train', *words[at + 1 :], '--output', 'OUTPUT']
    elif '-m' in words:
        at = words.index('-m') + 1
        yield words[at], words[at + 1 :]


def recipe_of(words: list[str], folder: Path) -> list[str]:
    """What a make command runs, with the environment as it is."""
    ready = ('.venv/.ready', '.venv/.ready-v100.txt')
    options = [option for name in ready for option in ('--old-file', name)]
    command = ['make', *options, *words[1:], '--dry-run']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = re.split(r'&&|\|\||;|\n', done.stdout.replace('\\\n', ' '))
    return [part for part in parts if re.search(r'python"? -m ', part)]


def parse(module: str, arguments: list[str]) -> typer.Context:
    """Let a module's command read its arguments."""
    imported = import_module('reproduce.cli' if module == 'reproduce' else module)
    app = getattr(imported, 'app', None)
    if app is None:
        app = typer.Typer()
        app.command()(getattr(imported, 'main', None) or imported.write)
    command = typer.main.get_command(app)
    if arguments[:1] == ['--paper']:
        assert (ROOT / 'reproduce/paper' / arguments[1] / 'paper.toml').is_file()
        arguments = arguments[2:]
    while hasattr(command, 'get_command'):
        group, (name, *rest) = command, arguments
        command = group.get_command(None, name)
        if command is None:  # `train CONFIG` is `train config CONFIG`
            command = group.get_command(None, 'config')
        else:
            arguments = rest
    return command.make_context(command.name, list(arguments))


@pytest.mark.parametrize('command', COMMANDS, ids=text_of)
def test_the_parser_of_a_command_reads_it(command):
    program = shlex.split(command.text)[0]
    assert program in ('make', 'python', 'torchrun', 'sbatch', 'docker', 'cp', 'pip')
    for module, arguments in module_calls(command.text):
        if module.startswith(('reproduce', 'benchmarks', 'datasets')):
            check_names(parse(module, arguments))


def check_names(context: typer.Context) -> None:
    """The model and the config that are named exist."""
    model = context.params.get('model')
    if isinstance(model, str):
        assert model in {system.name for system in load_systems()} or timm.is_model(model)
    if context.params.get('config'):
        config_exists(context.params['config'])


@cache
def config_exists(name: str) -> None:
    load_config(name)


# The commands, run.


RUNNING = [c for c in COMMANDS if not any(re.search(pattern, c.text) for pattern in NOT_HERE)]


def runnable(command: Command, sandbox: Sandbox) -> str:
    """The command on the embedded data, in a folder that is a copy of the checkout."""
    whole = text = command.text
    for concerned, pattern, replacement in SUBSTITUTIONS:
        if re.search(concerned, whole):
            text = re.sub(pattern, replacement, text, count=1 if pattern.endswith('$') else 0)
    if whole.startswith('make'):
        text = with_arguments(text)
    text = re.sub(r'\bDATA/', 'SANDBOX/data/', text)
    for name, stem in sandbox.stems.items():
        text = text.replace(name, stem)
    text = text.replace('RUNS', f'SANDBOX/runs/{command.document.stem}')
    return text.replace('SANDBOX', str(sandbox.folder))


def with_arguments(text: str) -> str:
    """Options behind the variables of make become part of ARGS."""
    words = shlex.split(text)
    first = next((i for i, word in enumerate(words) if word.startswith('-')), len(words))
    options = shlex.join(words[first:])
    words = [w if not w.startswith('ARGS=') else f'{w} {options}' for w in words[:first]]
    if options and not any(word.startswith('ARGS=') for word in words):
        words.append(f'ARGS={options}')
    return shlex.join(words)


@pytest.fixture(scope='session')
def copied(tmp_path_factory):
    """A copy of the checkout with embedded data, small weights and some records."""
    folder = tmp_path_factory.mktemp('checkout')
    listed = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split('\0')):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / '.venv').symlink_to(Path(sys.prefix))
    shapes.write(folder / 'data', train=40, val=20)
    weights(folder / 'small.safetensors')
    weights(folder / 'other.safetensors', 'test_resnet')
    for name in ('weights', 'runs', 'tmp'):
        (folder / name).mkdir()
    (folder / 'mine.csv').write_text('model,params_m,flops_g,box_ap\nMine,40,260,47.5\n')
    boxes = 'coco --config mask-rcnn_maformer-micro_fpn_shapes.py --checkpoint {}'.format(
        'mask_rcnn_maformer_micro_shapes'
    )
    stems = {}
    for name, what in (
        ('FIRST', 'imagenet maformer_micro --checkpoint small.safetensors'),
        ('SECOND', 'imagenet test_resnet --checkpoint other.safetensors'),
        ('BOXES', boxes),
        ('FEWER', f'{boxes} --cfg-options model.test_cfg.rcnn.score_thr=0.9'),
    ):
        in_shell(f'python -m reproduce evaluate {what} --data data --workers 0', folder)
        (stems[name],) = {
            path.stem for path in (folder / 'results/evaluations').glob('*.json')
        } - set(stems.values())
    (folder / 'own.toml').write_text(manifest(folder, stems['FIRST']))
    labels = 'labels test_resnet --checkpoint other.safetensors --output maps --workers 0'
    in_shell(f'python -m reproduce {labels} --data data', folder)
    return Sandbox(folder, stems)


def manifest(folder: Path, stem: str) -> str:
    """The entry of a manifest with what the record of a classifier says of its weights."""
    found = json.loads((folder / f'results/evaluations/{stem}.json').read_text())
    data = found['data']
    return f"""
[[checkpoint]]
name = "mine"
model = "maformer_micro"
file = "small.safetensors"
sha256 = "{found['checkpoint']['sha256']}"
licence = "Apache-2.0"

[[checkpoint.reference]]
fingerprint = "{data['fingerprint']}"
images = {data['images']}
metrics = {{ top1 = {found['metrics']['top1']} }}
source = "a test"
"""


def in_shell(text: str, folder: Path) -> None:
    path = f'{Path(sys.prefix, "bin")}:{os.environ["PATH"]}'
    done = subprocess.run(
        ['bash', '-c', text],
        cwd=folder,
        env={**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{text}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}'


@pytest.mark.slow
@pytest.mark.parametrize('command', RUNNING, ids=text_of)
def test_a_command_runs(command, copied, run, monkeypatch):
    """Those of `reproduce` in this process, which has imported what they need."""
    monkeypatch.chdir(copied.folder)
    text = runnable(command, copied)
    for part in recipe_of(shlex.split(text), copied.folder) if text.startswith('make') else [text]:
        words = shlex.split(part)
        in_process = words[1:3] == ['-m', 'reproduce'] and '--paper' not in words
        if words[0].endswith('python') and in_process:
            status, out, error = run(*words[3:])
            # Without data, accuracies are not-run, which --strict counts as a failure.
            expected = (1,) if '--strict' in words else (0, None)
            assert status in expected, f'{part}\n{out[-1500:]}\n{error[-3000:]}'
        else:
            in_shell(part, copied.folder)


@pytest.mark.slow
def test_a_job_of_slurm_resumes_and_is_queued_again(copied, tmp_path):
    """The sbatch script on one node and on two, whose task is started here in place of Slurm's."""
    # Options before the program are srun's. A torchrun is started on each of two nodes.
    srun = 'while [[ $1 == --* ]]; do shift; done; [[ $1 != torchrun ]] || "$@" &\n'
    srun += '"$@" || { touch $OUTPUT/stopped; exit 1; }; wait'
    scontrol = f'[[ $1 == show ]] && echo localhost || echo "$@" >> {tmp_path}/scontrol.log'
    for name, line in (('srun', srun), ('scontrol', scontrol)):
        (tmp_path / name).write_text(f'#!/bin/bash\n{line}\n')
        (tmp_path / name).chmod(0o755)
    variables = f'PATH={tmp_path}:$PATH OUTPUT={tmp_path}/run SLURM_JOB_ID=7'
    variables += ' SLURM_JOB_NODELIST=node[1-2] SLURM_CPUS_PER_TASK=2 SLURM_GPUS_ON_NODE=1'
    training = 'imagenet maformer_micro --data data --device cpu --workers 0 --set epochs=2'
    submitted = f'{variables} SLURM_JOB_NUM_NODES=2 bash docs/slurm/two_nodes.sbatch {training}'
    alone = f'{variables} SLURM_JOB_NUM_NODES=1 bash docs/slurm/one_node.sbatch {training}'
    in_shell(f'{alone} --max-steps 1', copied.folder)
    assert not (tmp_path / 'run/log.csv').exists()
    in_shell(submitted, copied.folder)  # without --resume this would be refused
    assert len((tmp_path / 'run/log.csv').read_text().splitlines()) == 3
    assert not (tmp_path / 'scontrol.log').exists()
    with pytest.raises(AssertionError):  # it ends as one that was asked to stop does
        in_shell(f'{submitted} --set lr=2', copied.folder)
    assert (tmp_path / 'scontrol.log').read_text() == 'requeue 7\n'


def test_what_does_not_run_here_is_still_in_the_documents():
    for pattern in NOT_HERE:
        assert any(re.search(pattern, command.text) for command in COMMANDS), pattern
