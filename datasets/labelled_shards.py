"""Labelled images in several files, WebDataset's or the Hub's, seen as class folders.

    *train*-0000.tar, ...                      WebDataset: NAME.jpg with NAME.cls or NAME.json
    data/train-00000-of-00294.parquet, ...     the Hub's: columns `image` (bytes, path) and `label`

The files of a split lie beside each other, or in a folder of the split's name. Shards number their
classes. What class a number is, names of files say (`n01440764_10026`,
`ILSVRC2012_val_00000001_n01751748`), or the names of the classes in a parquet file, or the shards
of train for those of val; and 1,000 classes that are named nowhere are ImageNet's in sorted order.
Otherwise classes are named by their numbers.
"""

import json
import os
import re
from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from datasets.member_index import Member, archive_key
from datasets.stores import IndexedArchive, Store, StoredPath
from datasets.tar_archives import tar_members
from datasets.wordnet_ids import WNID, imagenet_classes
from reproduce.base.errors import UserError
from reproduce.base.wording import by_number, shortened

NUM_CLASSES = 1000

_WORDS = {'train': ('train',), 'val': ('val', 'validation')}
_NUMBERED = re.compile(r'(?P<set>.*?)[-_.]?(?P<number>\d+)(?:-of-(?P<of>\d+))?(?:-[0-9a-f]+)?')
# A file of ImageNet, with the WordNet id that the Hub's data sets add to its name.
_NAME = re.compile(r'(?P<stem>ILSVRC2012_val_\d{8}|(?P<own>n\d{8})_\d+)(?:_(?P<added>n\d{8}))?')
_IMAGES = ('jpg', 'jpeg', 'png')
_ROW_GROUPS_KEPT = 2


class _Image(NamedTuple):
    """An image of a shard: where it is, its name there, and the number of its class."""

    part: int
    offset: int
    size: int
    name: str
    label: int


class _Shard(NamedTuple):
    """A file of several, its number, and how many there should be, if its name says that."""

    path: Path
    number: int
    of: int | None


def find_shards(folder: Path, split: str) -> tuple[StoredPath, list[str]] | None:
    """Return the class folders that the shards of `split` in or below `folder` make.

    Returns:
        their root, and a phrase for the shards that are missing among their numbers; None if there
        are no shards.

    Raises:
        UserError: if they cannot be read, or their labels contradict the names of the images.
    """
    words = '|'.join(_WORDS[split])
    own = re.compile(rf'(?:.*[-_.])?(?:{words})(?:[-_.].*)?')
    places = [(folder, own), (folder / 'data', own)]
    places += [(folder / word, re.compile('.*')) for word in _WORDS[split]]
    for place, pattern in places:
        for suffix, kind in (('.tar', WebDatasetShards), ('.parquet', ParquetShards)):
            if shards := _shards(place, suffix, pattern):
                train = folder if split == 'val' else None
                store = _opened(kind, tuple(shard.path for shard in shards), train)
                return StoredPath(store, ''), _missing(shards)
    return None


def _shards(folder: Path, suffix: str, pattern: re.Pattern) -> list[_Shard]:
    """Return the numbered files of `folder` whose names but for the number fit `pattern`."""
    found = []
    for path in sorted(folder.glob(f'*{suffix}')) if folder.is_dir() else ():
        match = _NUMBERED.fullmatch(path.name.removesuffix(suffix))
        if not match or path.name.startswith('.') or WNID.fullmatch(path.stem):
            continue  # an index, or the archive of a class
        if pattern.fullmatch(match['set']):
            of = int(match['of']) if match['of'] else None
            found.append(_Shard(path, int(match['number']), of))
    return found


def _missing(shards: Sequence[_Shard]) -> list[str]:
    numbers = {shard.number for shard in shards}
    of = next((shard.of for shard in shards if shard.of), None)
    # Without a total in the names, the first has the number 0, or 1 where there is no 0.
    wanted = range(of) if of else range(min(numbers | {1}), max(numbers) + 1)
    missing = [f'{i}' for i in wanted if i not in numbers]
    verb = by_number(missing, 'is', 'are')
    return [f'of the shards, {shortened(missing)} {verb} missing'] if missing else []


class _LabelledShards(IndexedArchive):
    """Images in the shards of a split, as CLASS/NAME.

    Args:
        paths: the shards.
        train: the folder whose training shards may say what class a number is.
    """

    def __init__(self, paths: Sequence[Path], train: Path | None) -> None:
        self.train = train
        super().__init__(*paths)

    def __reduce__(self) -> tuple:
        return _opened, (type(self), self.paths, self.train)

    @abstractmethod
    def images(self) -> Iterator[_Image]:
        """Read the images from the shards."""

    def class_names(self) -> Sequence[str] | None:
        """Return what the shards name their classes, in order; None if they do not."""
        return None

    def members(self) -> Iterator[Member]:
        images = list(self.images())
        if not images:
            raise UserError(
                f'{self.path} has no labelled images: expected {self.expected}; name another '
                'folder.'
            )
        names = self._names_of_classes(images)
        for image in images:
            match = _NAME.fullmatch(image.name.rpartition('.')[0])
            name = f'{match["stem"]}.JPEG' if match else image.name
            inner = f'{names[image.label]}/{name}'
            yield Member(inner, image.offset, image.size, image.size, part=image.part)

    def _names_of_classes(self, images: Sequence[_Image]) -> Mapping[int, str]:
        """Return the name of each class by its number.

        Raises:
            UserError: if names of images say different classes for a number.
        """
        found = self._names_in_images(images)
        labels = {image.label for image in images}
        if labels <= found.keys():
            return found
        named = self.class_names()
        if named is not None and labels <= set(range(len(named))):
            wnids = all(WNID.fullmatch(name) for name in named)
            # The Hub's ImageNet names its classes in English, in the order of their WordNet ids.
            named = imagenet_classes() if len(named) == NUM_CLASSES and not wnids else named
        elif len(labels) == NUM_CLASSES and max(labels) == NUM_CLASSES - 1:
            named = imagenet_classes()
        elif self.train is not None and (shards := find_shards(self.train, 'train')):
            store = shards[0].store
            named_by_train = store._names_of_classes(list(store.images()))
            if labels <= named_by_train.keys():
                return named_by_train
        named = named or [f'{label:04d}' for label in range(max(labels) + 1)]
        names = {label: name.replace('/', '_') for label, name in enumerate(named)}
        if any(names.get(label) != name for label, name in found.items()):
            raise UserError(
                f'the labels of {self.path} are in another order than the classes: expected them '
                'numbered in the order of the WordNet ids.'
            )
        return names

    def _names_in_images(self, images: Sequence[_Image]) -> dict[int, str]:
        found: dict[int, str] = {}
        for image in images:
            match = _NAME.fullmatch(image.name.rpartition('.')[0])
            wnid = match and (match['added'] or match['own'])
            if wnid and found.setdefault(image.label, wnid) != wnid:
                raise UserError(
                    f'{self.path} labels images of {found[image.label]} and of {wnid} with the '
                    f'number {image.label}: expected one class; take shards with right labels.'
                )
        return found


class WebDatasetShards(_LabelledShards):
    """Tar files of NAME.jpg, each with its label in NAME.cls, or in NAME.json as `label`."""

    form = 'WebDataset shards'
    expected = 'NAME.jpg with its number in NAME.cls or in NAME.json as label'

    def images(self) -> Iterator[_Image]:
        for part, path in enumerate(tqdm(self.paths, 'indexing', leave=False, disable=None)):
            samples: dict[str, dict[str, Member]] = defaultdict(dict)
            with path.open('rb') as file:
                for member in tar_members(path, file):
                    folder, slash, base = member.name.rpartition('/')
                    key, _, extension = base.partition('.')
                    samples[folder + slash + key][extension.lower()] = member
                for key, sample in samples.items():
                    image = next((sample[e] for e in _IMAGES if e in sample), None)
                    if image is None:
                        continue
                    name, label = self._label(part, key, sample)
                    name = name or image.name.rpartition('/')[2]
                    yield _Image(part, image.offset, image.size, name, label)

    def read(self, position: int, first: int | None = None) -> bytes:
        member = self.index.member(position)
        count = member.size if first is None else min(first, member.size)
        return self.bytes_at(member.offset, count, member.name, member.part)

    def _label(self, part: int, key: str, sample: Mapping[str, Member]) -> tuple[str | None, int]:
        """Return the original name of an image, if it is there, and its label."""
        name = label = None
        try:
            if 'json' in sample:
                content = json.loads(self._content(part, sample['json']))
                label, name = content.get('label'), content.get('filename')
            if 'cls' in sample:
                label = int(self._content(part, sample['cls']))
            if not isinstance(label, int) or label < 0:
                raise ValueError('no whole number')
        except (ValueError, AttributeError) as error:
            raise UserError(
                f'the image {key} in {self.paths[part]} has no label ({error}): expected '
                f'{self.expected}.'
            ) from error
        return PurePosixPath(name).name if isinstance(name, str) else None, label

    def _content(self, part: int, member: Member) -> bytes:
        return self.bytes_at(member.offset, member.size, member.name, part)


class ParquetShards(_LabelledShards):
    """The Hub's parquet files: a column `image` with `bytes` and `path`, and a column `label`.

    A row is read with its row group, of 100 images in the Hub's files; the last ones are kept.
    """

    form = 'parquet shards'
    kept = _ROW_GROUPS_KEPT
    _reading = None  # the process that has read what is kept
    expected = 'columns image (a struct with bytes and path) and label (whole numbers)'

    def images(self) -> Iterator[_Image]:
        for part in tqdm(range(len(self.paths)), 'indexing', leave=False, disable=None):
            file, row = self._file(part), 0
            for group in range(file.num_row_groups):
                table = self._group(part, group, 'image', 'label')
                columns = (table.column(name).to_pylist() for name in ('image', 'label'))
                for image, label in zip(*columns, strict=True):
                    content = image and image.get('bytes')
                    if not content or not isinstance(label, int) or label < 0:
                        raise UserError(
                            f'row {row} of {self.paths[part]} has no image or no label: expected '
                            f'{self.expected}; the test set of ImageNet has no labels.'
                        )
                    name = image.get('path') or f'{part:05d}_{row:06d}.JPEG'
                    name = PurePosixPath(name).name
                    yield _Image(part, row, len(content), name, label)
                    row += 1

    def class_names(self) -> Sequence[str] | None:
        metadata = self._file(0).schema_arrow.metadata or {}
        try:
            features = json.loads(metadata[b'huggingface'])['info']['features']
            return features['label']['names']
        except (KeyError, ValueError, TypeError):
            return None

    def read(self, position: int, first: int | None = None) -> bytes:
        member = self.index.member(position)
        self.opened(member.part)  # it is still the file that was indexed
        starts = self._starts(member.part)
        group = bisect_right(starts, member.offset) - 1
        content = self._contents(member.part, group)[member.offset - starts[group]].as_py()
        if content is None or len(content) != member.size:
            raise self.damaged(member.name, 'it is not what was indexed')
        return content[:first]

    def _starts(self, part: int) -> list[int]:
        """Return the first row of each row group."""
        metadata = self._file(part).metadata
        rows = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        return list(accumulate(rows, initial=0))[:-1]

    def keep(self, images: int) -> None:
        # Of a shuffle buffer, an image in seven is older than twice its length.
        metadata = self._file(0).metadata
        rows = max(1, metadata.num_rows // max(1, metadata.num_row_groups))
        self.kept = max(_ROW_GROUPS_KEPT, 2 * -(-images // rows) + 1)

    def __reduce__(self) -> tuple:
        return (*super().__reduce__(), {'kept': self.kept})

    def _contents(self, part: int, group: int) -> Any:
        """Return the bytes of the images in a row group, as an array of Arrow."""
        if self._reading != os.getpid():
            self._reading, self._contents_read = os.getpid(), OrderedDict()
        found = self._contents_read.pop((part, group), None)
        if found is None:
            column = self._group(part, group, 'image.bytes').column('image')
            found = column.combine_chunks().field('bytes')
        self._contents_read[part, group] = found
        while len(self._contents_read) > self.kept:
            self._contents_read.popitem(last=False)
        return found

    def _group(self, part: int, group: int, *columns: str) -> Any:
        """Return columns of a row group, as a table of Arrow."""
        from pyarrow import ArrowException

        try:
            return self._file(part).read_row_group(group, list(columns), use_threads=False)
        except (ArrowException, OSError) as error:
            raise _damaged_parquet(self.paths[part], error) from error

    def _file(self, part: int) -> Any:
        return _parquet_file(os.getpid(), self.paths[part], self.keys[part])


@lru_cache(maxsize=64)
def _parquet_file(_process: int, path: Path, _key: tuple[int, ...]) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f'{path} is read with pyarrow, which is not installed: install it, with pip install '
            'pyarrow.'
        ) from error
    try:
        file = ParquetFile(path)
        columns = {field.name: str(field.type) for field in file.schema_arrow}
    except (ArrowException, OSError) as error:
        raise _damaged_parquet(path, error) from error
    if 'label' not in columns or 'bytes: ' not in columns.get('image', ''):
        raise UserError(
            f'{path} has the columns {", ".join(columns)}: expected {ParquetShards.expected}.'
        )
    return file


def _damaged_parquet(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f'{path} cannot be read as parquet ({reason}): download it again.')


def _opened(kind: type[_LabelledShards], paths: tuple[Path, ...], train: Path | None) -> Store:
    return _opened_once(kind, paths, train, tuple(archive_key(path) for path in paths))


@lru_cache(maxsize=16)
def _opened_once(
    kind: type[_LabelledShards], paths: tuple[Path, ...], train: Path | None, *_keys: object
) -> Store:
    return kind(paths, train)
