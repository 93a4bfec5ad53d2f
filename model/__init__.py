"""The one definition of MAFormer; importing it registers the variants with timm."""

from model import maformer as maformer
