"""Files fetched from a server on this machine: cut off, resumed, verified, refused."""

import hashlib
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reproduce.base.errors import UserError
from reproduce.weights import registry, store
from reproduce.weights.download import fetch, receipt
from reproduce.weights.registry import load_public
from reproduce.weights.store import FileState

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under /file... and nothing else, and keeps the Range of each request.

    `cuts` says after how many bytes each request's connection is cut off, as far as it reaches.
    """

    def __init__(self, ranges=True, cuts=(), headers=None, redirect=None, length=None):
        super().__init__(('127.0.0.1', 0), Handler)
        self.redirect, self.length = redirect, length
        self.ranges, self.cuts, self.headers = ranges, list(cuts), headers or {}
        self.seen = []

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}/file-{SHA256[:8]}.pth'


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        wanted = self.headers['Range']
        self.server.seen.append(wanted)
        if not self.path.startswith('/file'):
            self.send_error(404)
            return
        if self.server.redirect:
            self.send_response(302)
            self.send_header('Location', self.server.redirect)
            self.end_headers()
            return
        start = 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(CONTENT)}')
                self.end_headers()
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}')
        else:
            self.send_response(200)
        body = CONTENT[start:]
        self.send_header('Content-Length', self.server.length or str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(**options):
    server = Server(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_with_its_receipt(tmp_path):
    path = tmp_path / 'weights' / 'x.pth'
    with serving() as server:
        fetch(server.url, path, SHA256[:8])
        fetch(server.url, path, SHA256[:8])
        assert server.seen == [None]
    assert path.read_bytes() == CONTENT
    kept = receipt(path)
    assert (kept.url, kept.sha256, kept.size) == (server.url, SHA256, len(CONTENT))
    assert names(path.parent) == ['x.pth', 'x.pth.receipt.json']


def test_a_cut_connection_is_resumed(tmp_path):
    path = tmp_path / 'x.pth'
    with serving(cuts=[1_234_567, 700_000]) as server:
        fetch(server.url, path, SHA256)
        assert server.seen == [None, 'bytes=1234567-', 'bytes=1934567-']
    assert path.read_bytes() == CONTENT


def test_the_next_call_goes_on(tmp_path):
    path = tmp_path / 'x.pth'
    with serving(cuts=[1_234_567, 0]) as server:
        with pytest.raises(UserError, match='cut off after 1,234,567 bytes, which are kept'):
            fetch(server.url, path, SHA256)
        assert names(tmp_path) == ['x.pth.part']
        assert (tmp_path / 'x.pth.part').read_bytes() == CONTENT[:1_234_567]
        server.seen.clear()
        fetch(server.url, path, SHA256)
        assert server.seen == ['bytes=1234567-']
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ['x.pth', 'x.pth.receipt.json']


def test_a_server_without_ranges_sends_it_again(tmp_path):
    path = tmp_path / 'x.pth'
    (tmp_path / 'x.pth.part').write_bytes(CONTENT[:1_000_000])
    with serving(ranges=False) as server:
        fetch(server.url, path, SHA256)
        assert server.seen == ['bytes=1000000-']
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('arrived', 'requests'),
    [
        pytest.param(CONTENT, [f'bytes={len(CONTENT)}-'], id='all of it'),
        pytest.param(CONTENT + b'more', [f'bytes={len(CONTENT) + 4}-', None], id='more than it'),
    ],
)
def test_what_arrived_is_whole_or_longer(tmp_path, arrived, requests):
    (tmp_path / 'x.pth.part').write_bytes(arrived)
    with serving() as server:
        fetch(server.url, tmp_path / 'x.pth', SHA256)
        assert server.seen == requests
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT


@pytest.mark.parametrize('before', [b'', b'of another file'])
def test_another_file_is_refused(tmp_path, before):
    """Another hash than expected, or a beginning that belongs to something else."""
    expected = SHA256 if before else 'deadbeef'
    if before:
        (tmp_path / 'x.pth.part').write_bytes(before)
    with serving() as server, pytest.raises(UserError, match='brought another file'):
        fetch(server.url, tmp_path / 'x.pth', expected)
    assert names(tmp_path) == []


def test_what_is_not_there(tmp_path):
    with serving() as server:
        url = f'http://127.0.0.1:{server.server_port}/nothing.pth'
        with pytest.raises(UserError, match=r'cannot be fetched from .*nothing.pth \(HTTP 404 Not'):
            fetch(url, tmp_path / 'x.pth', SHA256)
    with pytest.raises(UserError, match=r'cannot be fetched from .*refused'):
        fetch(url, tmp_path / 'x.pth', SHA256)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with serving() as server:
        with pytest.raises(UserError, match=r'file/x.pth cannot be written: '):
            fetch(server.url, tmp_path / 'file' / 'x.pth', SHA256)
        assert server.seen == []


def test_where_nobody_tells_a_hash_the_file_that_was_fetched_counts(tmp_path):
    (entry,) = (e for e in load_public() if e.system == 'mask-rcnn_vil-s_fpn_1x_coco')
    with serving() as server:
        path = store.obtain(entry.model_copy(update={'url': server.url}), folder=tmp_path)
        entry = entry.model_copy(update={'url': server.url})
    assert path == tmp_path / 'mask-rcnn_vil-s_fpn_1x_coco.pth'
    assert store.state(entry, path) is FileState.PRESENT
    path.write_bytes(b'another')
    assert store.state(entry, path) is FileState.BAD_HASH
    with pytest.raises(UserError, match=r'expected that of its receipt'):
        store.obtain(entry, folder=tmp_path)


def test_the_hub_tells_the_hash(tmp_path):
    etag = {'X-Linked-Etag': f'"{SHA256}"'}
    with serving(headers=etag) as server:
        fetch(server.url, tmp_path / 'x.safetensors')
    assert receipt(tmp_path / 'x.safetensors').sha256 == SHA256
    with (
        serving(headers={'X-Linked-Etag': f'"{"0" * 64}"'}) as server,
        pytest.raises(UserError, match='brought another file'),
    ):
        fetch(server.url, tmp_path / 'y.safetensors')
    with serving() as server, pytest.raises(UserError, match='does not tell its SHA-256'):
        fetch(server.url, tmp_path / 'y.safetensors')
    assert names(tmp_path) == ['x.safetensors', 'x.safetensors.receipt.json']


def test_several_at_once_fetch_it_once(tmp_path):
    path = tmp_path / 'x.pth'
    with serving() as server, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(server.url, path, SHA256), range(4)))
        assert server.seen == [None]
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ['x.pth', 'x.pth.receipt.json']


def test_several_at_once_refuse_it_alike(tmp_path):
    def refusal(_):
        with pytest.raises(UserError) as error:
            fetch(server.url, tmp_path / 'x.pth', 'deadbeef')
        return 'brought another file' in str(error.value)

    with serving() as server, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(refusal, range(4)))
    assert names(tmp_path) == []


DEIT, SWIN, TWINS = 'deit_small_patch16_224', 'swin_tiny_patch4_window7_224', 'twins_svt_base'


@pytest.fixture
def offered(monkeypatch):
    """The public weights of three systems, offered by a server on this machine."""
    etag = {'X-Linked-Etag': f'"{SHA256}"'}
    with serving(headers=etag) as server:
        elsewhere = {
            DEIT: {'url': server.url, 'sha256': SHA256[:8]},
            SWIN: {'url': server.url.replace('file', 'gone')},
            TWINS: {'url': server.url},
        }
        register = tuple(
            entry.model_copy(update=elsewhere[entry.system])
            for entry in load_public()
            if entry.system in elsewhere
        )
        monkeypatch.setattr(registry, 'load_public', lambda: register)
        yield server


def test_the_command_fetches_what_is_asked_for(run, offered, tmp_path):
    code, out, err = run('checkpoints', TWINS, '--download', '--checkpoints', 'weights')
    assert (code, names(tmp_path / 'weights')) == (0, [f'{TWINS}.pth', f'{TWINS}.pth.receipt.json'])
    assert 'present' in out
    options = ('--table', 4, '--checkpoints', 'weights')
    code, out, err = run('checkpoints', *options, '--download', '--format', 'json')
    states = {entry['system']: entry['state'] for entry in json.loads(out)['checkpoints']}
    assert code == 2
    assert states == {DEIT: FileState.PRESENT, SWIN: FileState.ABSENT, TWINS: FileState.PRESENT}
    assert [line for line in err.splitlines() if line.startswith('error')] == [
        f'error: {json.loads(out)["failures"][0]}'
    ]
    assert 'HTTP 404' in err
    assert offered.seen == [None] * 3  # what is there is not fetched again
    assert store.find('weights', TWINS).read_bytes() == CONTENT


def test_the_command_replaces_nothing(run, offered, tmp_path):
    (tmp_path / f'{DEIT}.pth').write_bytes(b'mine')
    code, out, err = run('checkpoints', DEIT, '--download', '--checkpoints', '.')
    assert code == 2
    assert 'bad hash' in out
    assert f'{DEIT}.pth is not the released timm:{DEIT}.fb_in1k' in err
    assert names(tmp_path) == [f'{DEIT}.pth']
    assert offered.seen == []


def test_a_released_name_is_fetched_into_the_cache(offered, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    path = store.find(f'timm:{TWINS}.in1k', TWINS)
    assert path.read_bytes() == CONTENT
    assert receipt(path).url == offered.url


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('file:///etc/passwd', 'expected http or https'),
        ('ftp://127.0.0.1/x.pth', 'expected http or https'),
        ('data:,x', 'expected http or https'),
        ('/etc/passwd', 'expected http or https'),
        ('http://[::1', 'malformed'),
        ('http://127.0.0.1:port/x.pth', 'malformed'),
        ('http://127.0.0.1:99999/x.pth', 'malformed'),
        ('http:///x.pth', 'malformed'),
        ('http://127.0.0.1/x y.pth', 'malformed'),
        ('http://127.0.0.1/x\r\nHost: y', 'malformed'),
    ],
)
def test_other_schemes_and_malformed_urls_are_one_sentence(tmp_path, url, message):
    with pytest.raises(UserError, match=message) as error:
        fetch(url, tmp_path / 'x.pth', SHA256)
    assert len(str(error.value).splitlines()) == (2 if '\n' in url else 1)
    assert names(tmp_path) == []


@pytest.mark.parametrize('scheme', ['file', 'ftp', 'data'])
def test_a_redirection_to_another_scheme_is_not_followed(tmp_path, scheme):
    target = f'{scheme}://{tmp_path}/secret'
    (tmp_path / 'secret').write_bytes(CONTENT)
    with serving(redirect=target) as server, pytest.raises(UserError, match='edirect'):
        fetch(server.url, tmp_path / 'x.pth', SHA256)
    assert names(tmp_path) == ['secret']


def test_a_redirection_to_the_same_scheme_is_followed(tmp_path):
    with serving() as server, serving(redirect=server.url) as other:
        fetch(other.url, tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT


def test_a_part_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / 'victim'
    victim.write_bytes(b'precious')
    (tmp_path / 'x.pth.part').symlink_to(victim)
    with serving() as server, pytest.raises(UserError, match=r'x\.pth\.part is a link .* remove'):
        fetch(server.url, tmp_path / 'x.pth', SHA256)
    assert victim.read_bytes() == b'precious'
    assert (tmp_path / 'x.pth.part').is_symlink()


@pytest.mark.parametrize('length', ['many', '-5', '1e9', '9' * 40])
def test_a_content_length_that_is_no_size(tmp_path, length):
    with (
        serving(length=length) as server,
        pytest.raises(UserError, match=r"Content-Length is '.*', which is no size"),
    ):
        fetch(server.url, tmp_path / 'x.pth', SHA256)
    assert names(tmp_path) == []


@pytest.mark.parametrize('arrived', [1, 1000, 100_000])
def test_what_is_said_to_be_kept_is_kept(tmp_path, arrived):
    with (
        serving(cuts=[arrived, 0]) as server,
        pytest.raises(UserError, match=f'after {arrived:,} bytes, which are kept'),
    ):
        fetch(server.url, tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth.part').read_bytes() == CONTENT[:arrived]


@pytest.mark.parametrize('file', ['../x.pth', '/etc/passwd', 'a/../../x.pth'])
def test_a_file_of_a_manifest_stays_below_its_folder(tmp_path, file):
    folder = tmp_path / 'weights'
    folder.mkdir()
    (tmp_path / 'x.pth').write_bytes(CONTENT)
    entry = registry.Released(name='x', model='m', file=file, sha256=SHA256, licence='MIT')
    with pytest.raises(UserError, match=r"expected one below the manifest's folder"):
        store.obtain(entry, folder / 'manifest.toml')
