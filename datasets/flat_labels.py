"""The labels of ImageNet's validation images as they are released: in one folder, without classes.

They are in the devkit, or in a text file of `name wnid` lines, as Kaggle's.
"""

import gzip
import shutil
import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from datasets.classes import WNID
from datasets.reading import read_text
from datasets.stores import AnyPath, derived_file, open_archive
from reproduce.base.errors import UserError
from reproduce.base.wording import by_number, shortened

_GROUND_TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
_META = 'meta.mat'
_LABEL_FILES = ('val_labels.txt', 'ILSVRC2012_val.txt', 'val.txt', 'LOC_val_solution.csv')
_DEVKIT = ('.', 'data', 'ILSVRC2012_devkit_t12/data', 'devkit/data', 'devkit')
_DEVKIT_ARCHIVE = 'ILSVRC2012_devkit_t12.tar.gz'


def flat_labels(
    places: Sequence[AnyPath], images: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the WordNet id of every flat image by its name, and all ids that have a label.

    Args:
        places: the folders that the labels may be in, the first of which is the one asked for.
        images: the names of the images.

    Raises:
        UserError: if there are no labels, they cannot be read, or they do not fit the images.
    """
    places = list(dict.fromkeys(places))
    if packed := _first_file(p / _DEVKIT_ARCHIVE for p in places if isinstance(p, Path)):
        places.append(open_archive(derived_file([packed], '.tar', partial(_gunzip, packed))))
    in_devkit = [place / folder for place in places for folder in _DEVKIT]
    if ground_truth := _first_file(folder / _GROUND_TRUTH for folder in in_devkit):
        meta = _first_file(folder / _META for folder in (ground_truth.parent, *in_devkit))
        if meta is None:
            raise UserError(
                f"{ground_truth} numbers the classes in an order of the devkit's: expected its "
                f"{_META} in the same folder; copy it from the devkit's data folder."
            )
        path, labels, wnids = ground_truth, *_devkit_labels(ground_truth, meta, len(images))
    elif path := _first_file(place / name for place in places for name in _LABEL_FILES):
        labels = _listed_labels(path)
        wnids = sorted(set(labels.values()))
    else:
        raise UserError(
            f'{shortened(images, 1)} are not in class folders and have '
            f"no labels: expected the devkit's {_GROUND_TRUTH} and {_META}, or {_LABEL_FILES[0]} "
            f"of 'name wnid' lines, in {places[0]}."
        )
    names = set(images)
    if missing := sorted(labels.keys() - names):
        raise UserError(
            f'{path} labels {shortened(missing, 1)}, which {by_number(missing, "is", "are")} not '
            'there: expected an image for every label; restore the images or remove the labels.'
        )
    if unlabelled := sorted(names - labels.keys()):
        raise UserError(
            f'{path} has no label for {shortened(unlabelled, 1)}: expected one for every image; '
            'complete it.'
        )
    return labels, wnids


def _gunzip(packed: Path, target: Path) -> None:
    try:
        with gzip.open(packed) as source, target.open('wb') as file:
            shutil.copyfileobj(source, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{packed} cannot be unpacked ({error}): download it again.') from error


def _devkit_labels(
    ground_truth: AnyPath, meta: AnyPath, images: int
) -> tuple[dict[str, str], list[str]]:
    # Only the devkit's own labels need SciPy, which takes as long to import as all the rest.
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        synsets = np.atleast_1d(
            scipy.io.loadmat(BytesIO(meta.read_bytes()), squeeze_me=True)['synsets']
        )
        wnids = {
            str(int(s['ILSVRC2012_ID'])): str(s['WNID'])
            for s in synsets
            if not int(s['num_children'])
        }
    except (MatReadError, OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f'cannot read the classes in {meta}: {error}; copy it from the devkit again.'
        ) from error
    ids = read_text(ground_truth).split()
    if len(ids) != images:
        raise UserError(
            f'{ground_truth} has {len(ids):,} labels for {images:,} images: expected one for '
            'each; complete the images, or label the ones there are in '
            f"{_LABEL_FILES[0]} of 'name wnid' lines instead."
        )
    if unknown := [i for i in ids if i not in wnids]:
        raise UserError(
            f"{ground_truth} has the label '{unknown[0]}', which is not a class of {meta}: take "
            'both from the same devkit.'
        )
    labels = {f'ILSVRC2012_val_{number:08d}.JPEG': wnids[i] for number, i in enumerate(ids, 1)}
    return labels, sorted(wnids.values())


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


def _first_file(paths: Iterable[AnyPath]) -> AnyPath | None:
    return next((path for path in paths if path.is_file()), None)
