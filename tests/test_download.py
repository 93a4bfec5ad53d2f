"""Files downloaded from a server on this machine: cut off, verified, refused."""

import hashlib
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from reproduce.base.errors import UserError
from reproduce.weights import registry, store
from reproduce.weights.download import fetch, receipt
from reproduce.weights.registry import load_public
from reproduce.weights.store import FileState

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HUB = 'https://huggingface.co/owner/model/resolve/main/model.safetensors'
DEIT, SWIN, TWINS = 'deit_small_patch16_224', 'swin_tiny_patch4_window7_224', 'twins_svt_base'


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path without 'gone' in it, and counts the requests for it.

    Args:
        cut: the number of bytes after which a connection is closed; None sends all.
        etag: the hash that the hub announces; '' for none.
    """

    def __init__(self, cut=None, etag=''):
        super().__init__(('127.0.0.1', 0), Handler)
        self.cut, self.etag = cut, etag
        self.requests = 0

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}/file-{SHA256[:8]}.pth'


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        if self.server.etag:
            self.send_header('X-Linked-Etag', f'"{self.server.etag}"')
        self.send_header('Content-Length', str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        self.server.requests += 1
        if 'gone' in self.path:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header('Content-Length', str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: self.server.cut])
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
    """The files in a folder, but for the locks of downloads."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != '.lock')


def test_several_processes_download_it_once_with_its_receipt(tmp_path):
    path = tmp_path / 'weights' / 'x.pth'
    with serving() as server, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(server.url, path, SHA256[:8]), range(4)))
        assert server.requests == 1
    assert path.read_bytes() == CONTENT
    assert (receipt(path).url, receipt(path).sha256) == (server.url, SHA256)
    assert names(path.parent) == ['x.pth', 'x.pth.receipt.json']


@pytest.mark.parametrize('sha256', [SHA256, ''])
def test_a_broken_download_leaves_nothing(tmp_path, sha256):
    """Also without a hash to compare with."""
    (tmp_path / 'x.pth.part').write_bytes(b'of a process that was killed')
    with serving(cut=1_234_567) as server, pytest.raises(UserError, match='cannot be downloaded'):
        fetch(server.url, tmp_path / 'x.pth', sha256)
    assert names(tmp_path) == []
    with serving() as server:
        fetch(server.url, tmp_path / 'x.pth', sha256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT


def test_another_file_is_refused(tmp_path):
    with serving() as server, pytest.raises(UserError, match='is another file than') as error:
        fetch(server.url, tmp_path / 'x.pth', 'deadbeef')
    assert SHA256[:16] in str(error.value) and 'expected deadbeef' in str(error.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize('url', ['http://127.0.0.1:1/x', 'file:///etc/passwd'])
def test_what_cannot_be_downloaded_is_one_sentence(tmp_path, url):
    with pytest.raises(UserError, match='cannot be downloaded') as error:
        fetch(url, tmp_path / 'x.pth', SHA256)
    assert '\n' not in str(error.value)
    assert names(tmp_path) == []


def test_the_hub_provides_the_hash(tmp_path, monkeypatch):
    def from_hub(name, **options):
        with serving(**options) as server:
            monkeypatch.setattr(constants, 'ENDPOINT', f'http://127.0.0.1:{server.server_port}')
            fetch(HUB, tmp_path / name)

    from_hub('x.safetensors', etag=SHA256)
    assert (receipt(tmp_path / 'x.safetensors').url, SHA256) == (HUB, SHA256)
    with pytest.raises(UserError, match='is another file than'):
        from_hub('y.safetensors', etag='0' * 64)
    assert names(tmp_path) == ['x.safetensors', 'x.safetensors.receipt.json']


def test_without_a_published_hash_the_receipt_identifies_the_file(tmp_path):
    (entry,) = (e for e in load_public() if e.system == 'mask-rcnn_vil-s_fpn_1x_coco')
    with serving() as server:
        entry = entry.model_copy(update={'url': server.url})
        path = store.obtain(entry, folder=tmp_path)
    assert path == tmp_path / 'mask-rcnn_vil-s_fpn_1x_coco.pth'
    assert store.state(entry, path) is FileState.PRESENT
    path.write_bytes(b'another')
    assert store.state(entry, path) is FileState.BAD_HASH
    with pytest.raises(UserError, match=r'expected that of its receipt'):
        store.obtain(entry, folder=tmp_path)


@pytest.fixture
def offered(monkeypatch):
    """The public weights of three systems, offered by a server on this machine."""
    with serving() as server:
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


def test_the_command_downloads_what_is_asked_for(run, offered, tmp_path):
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
    assert '404' in err
    assert offered.requests == 3  # what is there is not downloaded again
    assert store.find('weights', TWINS).read_bytes() == CONTENT
