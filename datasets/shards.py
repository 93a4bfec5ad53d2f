"""Labelled images in several tar files, `*train*-0000.tar`, ..., which WebDataset calls shards.

Each has images NAME.jpg, with their label in NAME.cls, or in NAME.json as `label`. The files of a
split are in one folder, perhaps one of the split's name. Their labels are numbers. What class a
number is, the names of the images say (`n01440764_10026`, `ILSVRC2012_val_00000001_n01751748`); and
1,000 classes without names are ImageNet's in sorted order. Otherwise the number is the name of the
class.
"""

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from datasets.classes import MOST_CLASSES, WNID, names_of_numbers
from datasets.stores import Member, Store, StoredPath, derived_file
from reproduce.base.errors import UserError

_WORDS = {'train': 'train', 'val': 'val|validation'}
_NUMBERED = re.compile(r'(?P<set>.*?)[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]+)?')
# A file of ImageNet, with the WordNet id that the Hub's data sets add to its name.
_NAME = re.compile(
    r'(?P<stem>ILSVRC2012_val_\d{8}|(?P<own>n\d{8})_\d+)(?:_(?P<added>n\d{8}))?\.\w+'
)
# A file of a sample: what comes before the first dot of its name is common to all of them.
_SAMPLE = re.compile(r'(?i)(?P<key>(?:.*/)?[^./]+)\.(?:(?P<image>jpe?g|png)|(?P<facts>cls|json))')


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
        shards = []
        for path in sorted(place.glob('[!.]*.tar')):
            match = _NUMBERED.fullmatch(path.stem)
            if match and pattern.fullmatch(match['set']) and not WNID.fullmatch(path.stem):
                shards.append(path)
        if shards:
            return _labelled(Shards(shards, 'WebDataset shards'))
    return []


def _labelled(store: 'Shards') -> list[tuple[StoredPath, str]]:
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


def _class_names(store: 'Shards', images: Sequence[_Image]) -> Mapping[int, str]:
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
    names = names_of_numbers(labels)
    if any(names[label] != name for label, name in found.items()):
        raise UserError(
            f'the labels of {store.name} are in another order than the classes: expected them '
            'numbered in the order of the WordNet ids.'
        )
    return dict(enumerate(names))


class Shards(Store):
    """The shards of a split, in the order of their names."""

    expected = 'each NAME.jpg once, with its number in NAME.cls or in NAME.json as label'

    def write_list(self, path: Path) -> None:
        """Write the list of all images."""
        bar = tqdm(range(len(self.paths)), 'indexing', leave=False, disable=None)
        path.write_text(json.dumps([image for part in bar for image in self._images_of(part)]))

    def _images_of(self, part: int) -> Iterator[_Image]:
        """Yield the images of a shard, checked."""
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
