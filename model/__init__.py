"""The one definition of MAFormer, and of the networks that the paper compares it with.

Importing this package registers their variants with timm. In a checkout of the project it is called
`model`; installed by pip it is called `maformer`.
"""

from . import cswin as cswin
from . import dsnet as dsnet
from . import focal as focal
from . import lvvit as lvvit
from . import maformer as maformer
from . import mixformer as mixformer
from . import shuffle as shuffle
from . import vil as vil
