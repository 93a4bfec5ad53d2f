"""The WordNet ids by which ImageNet's classes and files are named."""

import re

WNID = re.compile(r'n\d{8}')


def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1K's classes, sorted."""
    # timm imports torch, which takes seconds; whoever only imports this module does not wait.
    from timm.data import ImageNetInfo

    return tuple(sorted(ImageNetInfo('imagenet-1k').label_names()))
