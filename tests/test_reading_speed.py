"""The speed at which images are read and decoded."""

import forms
import pytest

from datasets import imagenet, shapes
from datasets.reading_speed import measure_reading
from reproduce.base.errors import UserError


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('folders')
    shapes.write(root, train=0, val=20)
    return root / 'imagenet'


def test_what_is_counted_is_what_was_read(folders, tmp_path):
    forms.whole_tar(folders, tmp_path)
    for root, form in ((folders, 'folder'), (tmp_path, 'tar')):
        paths = [path for path, _ in imagenet.load(root).samples]
        found = measure_reading(paths)
        assert (found.images, found.form) == (len(paths), form)
        assert found.bytes == sum(path.stat().st_size for path in paths)
        assert found.images_per_s == pytest.approx(
            len(paths) / (found.reading + found.decoding), rel=1e-9
        )
        assert f'read from a {form} at' in str(found)
        assert measure_reading(paths, 0).images == 1


def test_an_image_that_cannot_be_read_is_named(folders, tmp_path):
    path = tmp_path / 'image.JPEG'
    with pytest.raises(UserError, match=f'cannot read the image {path}'):
        measure_reading([path])
    path.write_bytes(next(folders.glob('val/*/*')).read_bytes()[:-50])
    with pytest.raises(UserError, match=f'cannot read the image {path}'):
        measure_reading([path])
