"""ADE20K's scene parsing benchmark.

    ROOT/images/{training,validation}/NAME.jpg
    ROOT/annotations/{training,validation}/NAME.png
    ROOT/objectInfo150.txt                              the names of the classes

ROOT is the archive's folder `ADEChallengeData2016`, the folder that contains it, or one that
contains it in `ade20k` or `ade`; where there is no such folder, the archive
`ADEChallengeData2016.zip` in one of these is read as it is.

In a label map 0 is "other" and ignored, and 1 is the first class.
"""

import csv

from datasets.segmented import SegmentationFormat
from datasets.stores import AnyPath
from reproduce.base.errors import UserError

NUM_CLASSES = 150
NUM_IMAGES = {'train': 20_210, 'val': 2_000}
CLASS_FILE = 'objectInfo150.txt'


def class_names(folder: AnyPath) -> tuple[str, ...]:
    """Return the first name of each class in the file `objectInfo150.txt` of `folder`.

    The names of ADE20K's 150 classes are returned if there is no such file.

    Raises:
        UserError: if the file does not have one line per class with its number and its names.
    """
    path = folder / CLASS_FILE
    if not path.is_file():
        # mmseg imports torch, which takes seconds; whoever has the file does not wait for it.
        from mmseg.utils.class_names import ade_classes

        return tuple(name.strip() for name in ade_classes())
    try:
        lines = path.read_bytes().decode('utf-8-sig').splitlines()
        rows = list(csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE))
        numbers = [int(row['Idx']) for row in rows]
        names = [row['Name'].split(',')[0].strip() for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError):
        numbers, names = [], []
    if not names or numbers != list(range(1, len(names) + 1)) or len(set(names)) < len(names):
        raise UserError(
            f'{path} does not name the classes: expected columns Idx and Name with tabs between '
            "them, and a line for each class in order; restore the archive's."
        )
    return tuple(names)


FORMAT = SegmentationFormat(
    name='ADE20K',
    num_images=NUM_IMAGES,
    num_classes=NUM_CLASSES,
    class_names=class_names,
    splits={'train': 'training', 'val': 'validation'},
    images='images/{}',
    labels='annotations/{}',
    image_suffix='.jpg',
    label_suffix='.png',
    first_label=1,
    folder='ADEChallengeData2016',
    places=('.', 'ade20k', 'ade'),
    image_name='ADE_{split}_{number:08d}',
)
load, survey = FORMAT.load, FORMAT.survey
