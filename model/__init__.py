"""The one definition of MAFormer, and of the networks that the paper compares it with.

Importing this package registers their variants with timm.
"""

from model import cswin as cswin
from model import dsnet as dsnet
from model import focal as focal
from model import lvvit as lvvit
from model import maformer as maformer
from model import mixformer as mixformer
from model import shuffle as shuffle
from model import vil as vil
