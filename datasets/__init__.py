"""ImageNet-1K, COCO 2017 and ADE20K: where they lie, what they must contain, how they are read.

Each data set has a module, whose import needs neither torch nor timm. `datasets.shapes` writes
small embedded data in the formats of all three.
"""
