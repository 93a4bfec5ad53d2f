"""A data set in class folders, packed in the forms in which people have ImageNet."""

import io
import random
import tarfile
import zipfile


def tar(path, members):
    """A tar file of (name, content) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def zipped(path, members, method=zipfile.ZIP_STORED):
    """A zip file of (name, content) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w', method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def images(folder):
    """(class, file name, content) of the images in class folders."""
    return [(p.parent.name, p.name, p.read_bytes()) for p in sorted(folder.glob('*/*'))]


def labels(folder):
    """The lines of `val_labels.txt`."""
    return ''.join(f'{name} {wnid}\n' for wnid, name, _ in images(folder))


def flat_tar(root, to):
    """ILSVRC2012_img_val.tar with its labels in a text file."""
    tar(to / 'ILSVRC2012_img_val.tar', ((name, c) for _, name, c in images(root / 'val')))
    (to / 'val_labels.txt').write_text(labels(root / 'val'))


def tar_of_tars(root, to):
    """ILSVRC2012_img_train.tar: a tar file of each class."""
    whole = []
    for folder in sorted((root / 'train').iterdir()):
        inner = tar(
            to / f'{folder.name}.tar', ((p.name, p.read_bytes()) for p in sorted(folder.iterdir()))
        )
        whole.append((inner.name, inner.read_bytes()))
        inner.unlink()
    tar(to / 'ILSVRC2012_img_train.tar', whole)


def as_released(root, to):
    flat_tar(root, to)
    if (root / 'train').is_dir():
        tar_of_tars(root, to)


def numbers(root):
    """The number of each class folder."""
    return {p.name: i for i, p in enumerate(sorted((root / 'val').iterdir()))}


def shuffled(root, split):
    """The images of a split as shards have them: in an order of their own."""
    found = images(root / split)
    random.Random(split).shuffle(found)
    return found


def webdataset(root, to, shards=3):
    """WebDataset shards with labels in `.cls` for val and in `.json` for train."""
    number = numbers(root)
    for split in sorted(p.name for p in root.iterdir()):
        found = shuffled(root, split)
        for shard in range(shards):
            members = []
            for wnid, name, content in found[shard::shards]:
                key, label = name.removesuffix('.JPEG'), str(number[wnid]).encode()
                if split == 'train':
                    members.append((f'{key}.json', b'{"label": %s}' % label))
                else:
                    key = f'{key}_{wnid}'
                    members.append((f'{key}.cls', label))
                members.append((f'{key}.jpg', content))
            tar(to / f'imagenet-{split}-{shard:04d}.tar', members)


def below(folder, name=''):
    """(path below `folder` after `name`, content) of every file there."""
    return [
        (f'{name}{path.relative_to(folder).as_posix()}', path.read_bytes())
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    ]


def coco_zips(root, to):
    """The zip files that COCO 2017 is released in; the images are stored, as in those."""
    zipped(
        to / 'annotations_trainval2017.zip',
        below(root / 'annotations', 'annotations/'),
        zipfile.ZIP_DEFLATED,
    )
    for folder in sorted(root.glob('*2017')):
        zipped(to / f'{folder.name}.zip', below(folder, f'{folder.name}/'))


def ade20k_zip(root, to):
    """ADEChallengeData2016.zip, of the folder of this name."""
    zipped(to / f'{root.name}.zip', below(root, f'{root.name}/'), zipfile.ZIP_DEFLATED)


FORMS = {
    'released': as_released,
    'webdataset': webdataset,
}


def files_below(path):
    """The files in a folder and in its folders."""
    for entry in path.iterdir():
        yield from files_below(entry) if entry.is_dir() else [entry]


def read_all(path):
    """The content of every file of an archive."""
    from datasets.stores import open_archive

    return {file.inner: file.read_bytes() for file in files_below(open_archive(path))}
