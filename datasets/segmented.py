"""Data sets of images with label maps: how one is described, found, paired, checked and read.

`datasets.ade20k` describes ADE20K. Another data set of this kind takes another
`SegmentationFormat`.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.reading import DECODING_ERRORS, unreadable, upright_size
from datasets.stores import AnyPath, open_archive
from datasets.subset import Split, check_folder, evenly_spaced, left_out
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import by_number, shortened


@dataclass(frozen=True)
class SegmentationData(Split):
    """One split: its images with their label maps, ordered by name.

    The fingerprint covers the name, the size in pixels and the labels of every image.
    """

    format: 'SegmentationFormat'


@dataclass(frozen=True)
class SegmentationFormat:
    """The layout of a data set of label maps, and what is complete.

    A label map is a PNG with one byte per pixel. In memory 0 is always "ignored" and 1 is the first
    class.
    """

    name: str  # of the data set, for messages
    num_images: Mapping[str, int]  # of each complete split
    num_classes: int  # of the complete data set
    class_names: Callable[[AnyPath], tuple[str, ...]]  # given the folder of the data set
    splits: Mapping[str, str]  # what the splits are called in the names of their folders
    images: str  # the folder of a split's images, with {} for what the split is called
    labels: str  # likewise of its label maps; both may have folders in them
    image_suffix: str  # what comes after a name that image and label map share
    label_suffix: str
    first_label: int  # of the first class in a file: 1 where 0 is ignored, 0 where 255 is
    folder: str  # the name of the folder of the data set, and of the zip file that holds it
    places: tuple[str, ...] = ('.',)  # the folders below the one asked for that may hold that
    image_name: str = ''  # of the image {number} of a {split}, counted from 1, if it has a pattern

    def load(self, root: Path, split: str = 'val', limit: int | None = None) -> SegmentationData:
        """Find the images of `split` under `root`, and pair them with their label maps.

        Every label map is decoded once: 2,000 of 512 x 683 pixels take about 6 s of one core.

        Args:
            root: the folder of the data set, or one above.
            split: 'val' or 'train'.
            limit: take only that many images, evenly spaced over the sorted names.

        Raises:
            DataNotFound: if there is no image in the folder.
            UserError: if there is no such folder, an image has no label map or a label map no
                image, a label map has another size than its image or a label without a class, or a
                file cannot be read.
        """
        listed = self.survey(root, split, limit)
        digest = hashlib.sha256()
        described = partial(self._described, classes=len(listed.classes))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for content in pool.map(described, listed.samples):
                digest.update(content)
        return replace(listed, fingerprint=digest.hexdigest()[:16])

    def survey(self, root: Path, split: str = 'val', limit: int | None = None) -> SegmentationData:
        """Return what there is of `split`, as `load` does; images and label maps are not read."""
        folder, samples = self._find(Path(root), split)
        classes = self.class_names(folder)
        taken = tuple(evenly_spaced(samples, limit))
        problems = self.incomplete(split, classes, [i.name for i, _ in samples], len(taken))
        return SegmentationData(folder, split, taken, classes, problems, '', (folder,), self)

    def incomplete(
        self, split: str, classes: Sequence[str], files: Sequence[str], taken: int
    ) -> tuple[str, ...]:
        """Return a phrase for each difference of a data set from the complete split.

        `files` are the names of its images or label maps, `taken` how many were asked for.
        """
        problems, expected = [], self.num_images[split]
        if len(classes) != self.num_classes:
            problems.append(
                f'{len(classes):,} classes of its own instead of the {self.num_classes}'
            )
        if len(files) != expected:
            problems.append(f'{len(files):,} images instead of {expected:,}')
        if self.image_name:
            wanted = {self.image_name.format(split=split, number=1 + i) for i in range(expected)}
            if missing := sorted(wanted - {Path(name).stem for name in files}):
                verb = by_number(missing, 'is', 'are')
                problems.append(f'{shortened(missing, 1)} {verb} missing')
        return (*problems, *left_out(taken, len(files)))

    def label_maps(self, folder: AnyPath, nested: bool = True) -> dict[str, AnyPath]:
        """Return the label maps in a folder, or `nested` below it, by the names of the files."""
        found = _files(folder, self.label_suffix, nested)
        return {path.name: path for path in found.values()}

    def read_label_map(self, path: AnyPath, classes: int) -> np.ndarray:
        """Return the labels of a PNG, (H, W) in uint8: 0 for no class, and 1 to `classes`.

        Raises:
            UserError: if the file cannot be read, is not a PNG of one byte per pixel, or has a
                larger label.
        """
        try:
            with path.open('rb') as file, Image.open(file) as image:
                # Pillow returns the indices of a palette at any depth, but scales grey levels of
                # less than 8 bits.
                bytewise = image.mode == 'P' or [tile[3] for tile in image.tile] == ['L']
                labels = np.asarray(image) if image.format == 'PNG' and bytewise else None
                found = f'a {image.format} of mode {image.mode}'
        except DECODING_ERRORS as error:
            raise unreadable('label map', path, error) from error
        if labels is None:
            raise UserError(
                f'{path} is {found}: expected a label map, a PNG with one channel of 8 bits.'
            )
        labels = labels + np.uint8(1 - self.first_label)  # 255 becomes 0
        if (largest := int(labels.max())) > classes:
            first, ignored = self.first_label, 0 if self.first_label else 255
            raise UserError(
                f'{path} has the label {largest - 1 + first}: expected {ignored} for no class, or '
                f'{first} to {first + classes - 1}; restore it from the release.'
            )
        return labels

    def encode_label_map(self, labels: np.ndarray) -> np.ndarray:
        """Return labels as `read_label_map` gives them, as they are in a file."""
        return labels - np.uint8(1 - self.first_label)

    def _find(self, root: Path, split: str) -> tuple[AnyPath, list[tuple[AnyPath, AnyPath]]]:
        """Return the folder of the data set, and each image with its label map."""
        images, labels = (t.format(self.splits[split]) for t in (self.images, self.labels))
        layout = f'{self.folder}/{images}/*{self.image_suffix}'
        check_folder(root, self.name, layout)
        for folder in self._places(root):
            if found := _files(folder / images, self.image_suffix):
                maps = _files(folder / labels, self.label_suffix)
                for has, lacks, what in (
                    (found, maps, f'label map: expected it in {folder / labels}'),
                    (maps, found, f'image: expected it in {folder / images}'),
                ):
                    if without := [path.name for name, path in has.items() if name not in lacks]:
                        verb = by_number(without, 'has', 'have')
                        raise UserError(f'{shortened(without, 1)} {verb} no {what}; restore it.')
                return folder, [(path, maps[name]) for name, path in found.items()]
        raise DataNotFound(
            f'no {self.name} images in {root}: expected {layout} or {self.folder}.zip; name the '
            'folder that holds them.'
        )

    def _places(self, root: Path) -> Iterator[AnyPath]:
        below = [root / place / self.folder for place in self.places]
        yield from (root, *below)
        for path in below:
            if (archive := path.with_name(f'{self.folder}.zip')).is_file():
                yield open_archive(archive) / self.folder

    def _described(self, sample: tuple[AnyPath, AnyPath], classes: int) -> bytes:
        """Check an image and its label map, and return what the fingerprint covers of them."""
        image, label_map = sample
        labels = self.read_label_map(label_map, classes)
        width, height = upright_size(image)
        if labels.shape != (height, width):
            raise UserError(
                f'the label map {label_map} has {labels.shape[1]} x {labels.shape[0]} pixels and '
                f'its image {width} x {height}: expected the same; restore both.'
            )
        name = image.name.removesuffix(self.image_suffix)
        pixels = hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()
        return f'{name} {width} {height} {pixels}\n'.encode()


def _files(folder: AnyPath, suffix: str, nested: bool = True) -> dict[str, AnyPath]:
    """Return the files in a folder that end with `suffix`, by their names without it."""
    found: dict[str, AnyPath] = {}
    for path in sorted(_walk(folder, nested), key=lambda path: path.name):
        if not path.name.startswith('.') and path.name.endswith(suffix):
            name = path.name.removesuffix(suffix)
            if name in found:
                raise UserError(f'{found[name]} and {path} have one name: remove one of them.')
            found[name] = path
    return found


def _walk(folder: AnyPath, nested: bool) -> Iterator[AnyPath]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file():
            yield path
        elif nested and path.is_dir():
            yield from _walk(path, nested)
