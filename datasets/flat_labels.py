"""The labels of ImageNet's validation images as they are released: in one folder, without classes.

They are in the devkit, or in a text file of `name wnid` lines, as Kaggle's.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

from datasets.classes import WNID
from datasets.reading import read_text
from datasets.stores import AnyPath
from reproduce.base.errors import UserError
from reproduce.base.wording import shortened

_GROUND_TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
_META = 'meta.mat'
_LABEL_FILES = ('val_labels.txt', 'ILSVRC2012_val.txt', 'val.txt', 'LOC_val_solution.csv')
_DEVKIT = ('.', 'data', 'ILSVRC2012_devkit_t12/data', 'devkit/data', 'devkit')
_DEVKIT_ARCHIVE = 'ILSVRC2012_devkit_t12.tar.gz'


def flat_labels(
    places: Sequence[AnyPath], images: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the WordNet id of every flat image by its name, and all ids that have a label.

    Args:
        places: the folders that the labels may be in, the first of which is the one asked for.
        images: the names of the images.

    Raises:
        UserError: if there are no labels, they cannot be read, or they do not fit the images.
    """
    source, labels, wnids = _find(places)
    if source is None:
        raise UserError(
            f'{shortened(sorted(images), 1)} are not in class folders and have '
            f"no labels: expected the devkit's {_GROUND_TRUTH} and {_META}, or {_LABEL_FILES[0]} "
            f"of 'name wnid' lines, in {places[0]}."
        )
    if labels.keys() != set(images):
        without = sorted(set(images) - labels.keys())
        missing = sorted(labels.keys() - set(images))
        problem = f'has no label for {shortened(without, 1)}' if without else ''
        problem = problem or f'labels {shortened(missing, 1)}, which is not there'
        raise UserError(
            f'{source} {problem}: expected one label for each image; restore the images, or label '
            f"those that are there in {_LABEL_FILES[0]} of 'name wnid' lines instead."
        )
    return labels, wnids


def _find(places: Sequence[AnyPath]) -> tuple[AnyPath | None, dict[str, str], list[str]]:
    """Return the first file of labels, the labels by the names of the images, and the classes."""
    for packed in (place / _DEVKIT_ARCHIVE for place in places if isinstance(place, Path)):
        if packed.is_file():
            try:
                content = io.BytesIO(gzip.decompress(packed.read_bytes()))
                with tarfile.open(fileobj=content) as tar:
                    data = 'ILSVRC2012_devkit_t12/data'
                    truth, meta = (
                        tar.extractfile(f'{data}/{name}').read() for name in (_GROUND_TRUTH, _META)
                    )
            except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
                raise UserError(
                    f'{packed} cannot be unpacked ({error}): download it again.'
                ) from error
            return packed, *_devkit_labels(packed, truth, meta)
    for folder in (place / name for place in places for name in _DEVKIT):
        truth, meta = folder / _GROUND_TRUTH, folder / _META
        if truth.is_file() and not meta.is_file():
            raise UserError(
                f"{truth} numbers the classes in an order of the devkit's: expected its "
                f"{_META} in the same folder; copy it from the devkit's data folder."
            )
        if truth.is_file():
            return truth, *_devkit_labels(truth, read_text(truth).encode(), meta.read_bytes())
    for path in (place / name for place in places for name in _LABEL_FILES):
        if path.is_file():
            labels = _listed_labels(path)
            return path, labels, sorted(set(labels.values()))
    return None, {}, []


def _devkit_labels(source: AnyPath, truth: bytes, meta: bytes) -> tuple[dict[str, str], list[str]]:
    # Only the devkit's own labels need SciPy, which takes as long to import as all the rest.
    import scipy.io

    try:
        synsets = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)['synsets']
        wnids = {
            int(s['ILSVRC2012_ID']): str(s['WNID'])
            for s in synsets.reshape(-1)
            if not int(s['num_children'])
        }
        labels = [wnids[int(line)] for line in truth.split()]
    except Exception as error:  # whatever SciPy raises, or a label without a class
        raise UserError(
            f'cannot read the labels of {source} with the classes in {_META}: '
            f'{type(error).__name__}: {error}; take both from the devkit again.'
        ) from error
    names = (f'ILSVRC2012_val_{number:08d}.JPEG' for number in range(1, len(labels) + 1))
    return dict(zip(names, labels, strict=True)), sorted(wnids.values())


def _listed_labels(path: AnyPath) -> dict[str, str]:
    labels = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.replace(',', ' ').split()
        if not fields or fields[0] == 'ImageId':
            continue
        if len(fields) < 2 or not WNID.fullmatch(fields[1]):
            raise UserError(
                f"line {number} of {path} is '{line}': expected an image's name and its WordNet "
                'id, as in ILSVRC2012_val_00000001.JPEG n01751748.'
            )
        name = fields[0].rsplit('/', 1)[-1].removesuffix('.JPEG')
        labels[f'{name}.JPEG'] = fields[1]
    return labels
