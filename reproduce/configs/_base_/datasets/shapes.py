"""The classes of `datasets.shapes`: mmdet's own tools find annotations by these names.

mmseg's own tools name and colour the classes of a map by them.
"""

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

# A map has the classes of the shapes and those of the grounds; mmseg's ADE20KDataset takes no other
# classes than its own.
map_dataset = dict(
    type='BaseSegDataset',
    metainfo=dict(
        classes=(*metainfo['classes'], 'stripes', 'checks', 'dots', 'clouds', 'grain'),
        # As R, G, B: the shapes in saturated colours, the grounds in pale ones.
        palette=[
            [31, 119, 180],
            [255, 127, 14],
            [44, 160, 44],
            [214, 39, 40],
            [148, 103, 189],
            [140, 86, 75],
            [227, 119, 194],
            [70, 70, 70],
            [188, 189, 34],
            [23, 190, 207],
            [174, 199, 232],
            [255, 187, 120],
            [152, 223, 138],
            [255, 152, 150],
            [197, 176, 213],
        ],
    ),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
)
