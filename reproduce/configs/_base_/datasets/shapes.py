"""The classes of `datasets.shapes`, by whose names mmdet's own tools find the annotations."""

metainfo = dict(
    classes=(
        'circle',
        'ring',
        'crescent',
        'heart',
        'star',
        'triangle',
        'square',
        'pentagon',
        'hexagon',
        'cross',
    )
)
