"""Labelled images in several files: WebDataset's tar files, or the Hub's Parquet files.

    *train*-0000.tar, ...                      WebDataset: NAME.jpg with NAME.cls or NAME.json
    data/train-00000-of-00294.parquet, ...     the Hub's: columns `image` (bytes, path) and `label`

The files of a split are in one folder, perhaps one of the split's name. Their labels are numbers.
What class a number is, the names of the images say (`n01440764_10026`,
`ILSVRC2012_val_00000001_n01751748`), or the names of the classes in a Parquet file; and 1,000
classes without names are ImageNet's in sorted order. Otherwise the number is the name of the class.
"""

import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from datasets.classes import MOST_CLASSES, NUM_CLASSES, WNID, imagenet_classes, names_of_numbers
from datasets.stores import Member, Store, StoredPath, derived_file
from reproduce.base.errors import UserError, first_line

_WORDS = {'train': 'train', 'val': 'val|validation'}
_NUMBERED = re.compile(r'(?P<set>.*?)[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]+)?')
# A file of ImageNet, with the WordNet id that the Hub's data sets add to its name.
_NAME = re.compile(
    r'(?P<stem>ILSVRC2012_val_\d{8}|(?P<own>n\d{8})_\d+)(?:_(?P<added>n\d{8}))?\.\w+'
)
# A file of a sample: what comes before the first dot of its name is common to all of them.
_SAMPLE = re.compile(r'(?i)(?P<key>(?:.*/)?[^./]+)\.(?:(?P<image>jpe?g|png)|(?P<facts>cls|json))')
# Row groups of Parquet files that a process keeps: of 100 images, about 11 MB, in the Hub's files.
_ROW_GROUPS_KEPT = 16
_ROWS = 2**32  # more than a row group has


class _Image(NamedTuple):
    """An image of a shard: the shard, where it is there, its name and the number of its class."""

    part: int
    offset: int
    size: int
    name: str
    label: int


def find_shards(folder: Path, split: str) -> list[tuple[StoredPath, str]]:
    """Return the images in the shards of `split` in or below `folder`, with their classes' names.

    There are none if there are no shards.

    Raises:
        UserError: if they cannot be read, a sample has no image or no label, or is there twice, or
            the labels contradict the names of the images.
    """
    words = _WORDS[split]
    own = re.compile(rf'(?:.*[-_.])?(?:{words})(?:[-_.].*)?')
    places = [(folder, own), (folder / 'data', own)]
    places += [(folder / word, re.compile('.*')) for word in words.split('|')]
    for place, pattern in places:
        for kind in (WebDatasetShards, ParquetShards):
            shards = []
            for path in sorted(place.glob(f'[!.]*{kind.suffix}')):
                match = _NUMBERED.fullmatch(path.stem)
                if match and pattern.fullmatch(match['set']) and not WNID.fullmatch(path.stem):
                    shards.append(path)
            if shards:
                return _labelled(kind(shards, kind.form))
    return []


def _labelled(store: '_Shards') -> list[tuple[StoredPath, str]]:
    listed = derived_file(store.paths, '.images.json', store.write_list)
    images = [_Image(*image) for image in json.loads(listed.read_bytes())]
    if not images:
        raise UserError(f'{store.name} have no labelled images: expected {store.expected}.')
    names, labelled = _class_names(store, images), []
    for image in images:
        match = _NAME.fullmatch(image.name)
        name = f'{match["stem"]}.JPEG' if match else image.name
        path = StoredPath(store, f'{names[image.label]}/{name}', Member(*image[:3]))
        labelled.append((path, names[image.label]))
    return labelled


def _class_names(store: '_Shards', images: Sequence[_Image]) -> Mapping[int, str]:
    """Return the name of each class by its number."""
    found: dict[int, str] = {}
    for image in images:
        match = _NAME.fullmatch(image.name)
        wnid = match and (match['added'] or match['own'])
        if wnid and found.setdefault(image.label, wnid) != wnid:
            raise UserError(
                f'{store.name} label images of {found[image.label]} and of {wnid} with the '
                f'number {image.label}: expected one class; take shards with right labels.'
            )
    labels = {image.label for image in images}
    if labels <= found.keys():
        return found
    declared = store.class_names()
    names: Sequence[str]
    if declared is None or max(labels) >= len(declared):
        names = names_of_numbers(labels)
    elif len(declared) == NUM_CLASSES and not all(map(WNID.fullmatch, declared)):
        names = imagenet_classes()  # the Hub's names are English, in the order of the WordNet ids
    else:
        names = [name.replace('/', '_') for name in declared]
    if any(names[label] != name for label, name in found.items()):
        raise UserError(
            f'the labels of {store.name} are in another order than the classes: expected them '
            'numbered in the order of the WordNet ids.'
        )
    return dict(enumerate(names))


class _Shards(Store):
    """The shards of a split, in the order of their names."""

    form: str
    suffix: str
    expected: str  # what is in a shard, for messages

    def class_names(self) -> list[str] | None:
        """Return what the shards name their classes, in order; None if they do not."""
        return None

    def write_list(self, path: Path) -> None:
        """Write the list of all images."""
        bar = tqdm(range(len(self.paths)), 'indexing', leave=False, disable=None)
        path.write_text(json.dumps([image for part in bar for image in self._images_of(part)]))

    def _images_of(self, part: int) -> Iterator[_Image]:
        """Yield the images of a shard, checked."""
        raise NotImplementedError

    def _image(self, member: Member | None, name: str, label: object, sample: str) -> _Image:
        if member is None or type(label) is not int or not 0 <= label < MOST_CLASSES:
            reason = 'it has no image' if member is None else f'its label is {label!r}'[:80]
            raise self._unsound(sample, reason)
        return _Image(*member, PurePosixPath(name).name, label)

    def _unsound(self, sample: str, reason: str) -> UserError:
        return UserError(
            f'{sample} in {self.name} is not a labelled image ({reason}): expected '
            f'{self.expected}, with labels from 0 to {MOST_CLASSES - 1:,}.'
        )


class WebDatasetShards(_Shards):
    """Tar files of NAME.jpg, each with its label in NAME.cls, or in NAME.json as `label`."""

    form = 'WebDataset shards'
    suffix = '.tar'
    expected = 'each NAME.jpg once, with its number in NAME.cls or in NAME.json as label'

    def _images_of(self, part: int) -> Iterator[_Image]:
        samples: dict[str, dict[str, Any]] = defaultdict(dict)
        end = 0
        try:
            with tarfile.open(self.paths[part], 'r:') as tar:
                for entry in tar:
                    end = entry.offset_data + entry.size
                    match = _SAMPLE.fullmatch(entry.name)
                    if not match or not entry.isreg():
                        continue
                    sample, kind = samples[match['key']], (match['facts'] or 'image').lower()
                    if kind in sample:
                        raise self._unsound(repr(entry.name), 'it is there twice')
                    if match['image']:
                        sample['name'] = entry.name
                        sample['image'] = Member(part, entry.offset_data, entry.size)
                    else:
                        sample[kind] = tar.extractfile(entry).read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise self.damaged(part, error) from error
        self.check_end(part, end)
        for key, sample in samples.items():
            try:
                facts = json.loads(sample.get('json', b'{}'))
                label = int(sample['cls']) if 'cls' in sample else facts.get('label')
                name = facts.get('filename')
            except (ValueError, AttributeError, RecursionError) as error:
                raise self._unsound(repr(key), f'its label cannot be read: {error}') from error
            name = name if isinstance(name, str) else sample.get('name', key)
            yield self._image(sample.get('image'), name, label, repr(key))


class ParquetShards(_Shards):
    """The Hub's Parquet files: a column `image` with `bytes` and `path`, and a column `label`.

    A row is read with its row group, of 100 images in the Hub's files; the last ones are kept.
    """

    form = 'parquet shards'
    suffix = '.parquet'
    expected = 'columns image (a struct with bytes and path) and label (whole numbers)'

    def _images_of(self, part: int) -> Iterator[_Image]:
        number, groups = 0, _parquet_file(self, part, os.getpid()).num_row_groups
        import pyarrow.compute as pc

        for group in range(groups):
            table = _row_group(self, part, group, 'image', 'label')
            contents = table['image'].combine_chunks()
            sizes = pc.binary_length(contents.field('bytes')).to_pylist()
            paths = contents.field('path').to_pylist()
            rows = zip(sizes, paths, table['label'].to_pylist(), strict=True)
            for row, (size, path, label) in enumerate(rows):
                member = Member(part, group * _ROWS + row, size) if size else None
                name = path or f'{part:05d}_{number:06d}.JPEG'
                yield self._image(member, name, label, f'row {number}')
                number += 1

    def class_names(self) -> list[str] | None:
        metadata = _parquet_file(self, 0, os.getpid()).schema_arrow.metadata or {}
        try:
            names = json.loads(metadata[b'huggingface'])['info']['features']['label']['names']
            return [str(name) for name in names]
        except (KeyError, ValueError, TypeError):
            return None

    def read(self, name: str, member: Member) -> bytes:
        group, row = divmod(member.offset, _ROWS)
        content = _contents(self, member.part, group, os.getpid())[row].as_py()
        if content is None or len(content) != member.size:
            raise self.damaged(member.part, f'{name} has another size than before')
        return content


@lru_cache(maxsize=64)
def _parquet_file(store: ParquetShards, part: int, process: int) -> Any:
    path = store.paths[part]
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f'{path} is read with pyarrow: pip install pyarrow.') from error
    try:
        file = ParquetFile(path, page_checksum_verification=True)  # where there are checksums
        columns = {field.name: str(field.type) for field in file.schema_arrow}
    except (ArrowException, OSError) as error:
        raise store.damaged(part, first_line(error)) from error
    if not re.search('bytes: .*path: ', columns.get('image', '')) or 'label' not in columns:
        raise UserError(f'{path} has the columns {", ".join(columns)}: expected {store.expected}.')
    return file


@lru_cache(maxsize=_ROW_GROUPS_KEPT)
def _contents(store: ParquetShards, part: int, group: int, process: int) -> Any:
    """Return the bytes of the images in a row group, as an array of Arrow."""
    return _row_group(store, part, group, 'image.bytes')['image'].combine_chunks().field('bytes')


def _row_group(store: ParquetShards, part: int, group: int, *columns: str) -> Any:
    """Return columns of a row group, as a table of Arrow."""
    from pyarrow import ArrowException

    try:
        file = _parquet_file(store, part, os.getpid())
        return file.read_row_group(group, list(columns), use_threads=False)
    except (ArrowException, OSError) as error:
        raise store.damaged(part, first_line(error)) from error
