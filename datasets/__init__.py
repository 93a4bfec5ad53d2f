"""ImageNet-1K, COCO 2017, ADE20K: where they lie, what they must contain, how they are read.

`datasets.shapes` writes small embedded data in the formats of all three.
"""
