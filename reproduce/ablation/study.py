"""Studies as data: the variants of a network, how they are trained, and what is claimed of them.

A study is a TOML file; `studies/` has those that come with the project. The designs that studies
compare are in `variants.toml`. The paper's claims about them are in
`reproduce/paper/maformer/design_claims.csv`, further ones in `variants.toml`.
"""

from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import BaseModel, Field, model_validator

from reproduce import paper
from reproduce.base.errors import UserError
from reproduce.base.files import NumberText, read_csv, read_toml

_FOLDER = Path(__file__).parent
_STUDIES = _FOLDER / 'studies'

Name = Annotated[str, Field(pattern=r'^[a-z0-9_]+$')]
Count = Annotated[int, Field(ge=1)]


class DesignClaim(BaseModel, extra='forbid', frozen=True):
    """A claim that one variant is more accurate than another."""

    name: Name
    says: str  # what is claimed, as a phrase
    better: Name
    worse: Name
    paper: NumberText = ''  # the difference in Top-1 that the paper prints, in percent
    cells: str = ''  # the printed cells that it is the difference of
    place: str = ''  # where the paper claims it
    note: str = ''  # how the comparison here differs from the paper's
    control: bool = False  # a check of the study itself, and not a claim of the paper


class Design(BaseModel, extra='forbid', frozen=True):
    """A network of a study."""

    name: Name
    says: str  # what it is, as a phrase
    arguments: dict[str, Any] = {}  # of the constructor, after those of the study
    settings: dict[str, Any] = {}  # in place of the recipe's, after those of the study
    token_labeling: bool = True
    seed_offset: int = Field(0, ge=0)  # added to each seed: the same network with other randomness


class DrawnData(BaseModel, extra='forbid', frozen=True):
    """The embedded data: how many scenes of each split are drawn (`datasets.shapes`)."""

    train: Count
    val: Count


class Annotator(BaseModel, extra='forbid', frozen=True):
    """The timm model that is trained first, by the study's recipe, and labels every token."""

    model: str
    img_size: Count
    epochs: Count


class Study(BaseModel, extra='forbid', frozen=True):
    """Which networks are trained, how, and what is claimed of them."""

    name: Name
    about: str  # what it is, in a sentence or two
    limits: str  # what it can and cannot show
    model: str  # a timm model
    recipe: str  # whose recipe trains it
    settings: dict[str, Any] = {}  # in place of the recipe's
    arguments: dict[str, Any] = {}  # of the constructor, of all variants
    # Every variant is trained once with each. They are fixed before the study is run.
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    threads: Count = 1  # of each run, for computing on CPUs; they decide the last digits
    # The standard deviation of paired differences, in percent of Top-1, that the number of seeds
    # was planned with.
    spread: float = Field(gt=0)
    drawn: DrawnData | None = None  # None for data that the user names
    data: str = ''  # a sentence on how to get the data
    train_images: Count | None = None  # of them, evenly over the classes
    val_images: Count | None = None  # for the learning curves; the final accuracy is of all
    in_memory: bool = False  # whether each run keeps the training images in memory
    annotator: Annotator | None = None  # makes the label maps; None where the user has them
    paper_claims: bool = True  # whether the shared variants and the paper's claims belong to it
    # The claims that are tested; all if there is none. Of the variants, the first one and those of
    # the claims are trained.
    only: tuple[Name, ...] = ()
    variant: tuple[Design, ...] = ()
    claim: tuple[DesignClaim, ...] = ()

    @model_validator(mode='after')
    def _sound(self) -> 'Study':
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError('a seed occurs twice')
        names = [variant.name for variant in self.variant]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f'the variant {min(doubled)} is defined twice')
        return self

    def network(self, variant: Design) -> dict[str, Any]:
        """Return the constructor arguments of a variant."""
        labeling = {'token_labeling': True} if variant.token_labeling else {}
        return {**self.arguments, **variant.arguments, **labeling}

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the outcome of a single run; the seeds say only which runs there are."""
        words = {'about', 'limits', 'data', 'spread', 'seeds', 'claim', 'paper_claims'}
        words |= {'only', 'in_memory'}
        return self.model_dump(mode='json', exclude=words)

    def to_toml(self) -> str:
        """Return the study as a TOML file that has everything in it."""
        content = self.model_dump(mode='json', exclude_none=True) | {'paper_claims': False}
        return tomlkit.dumps(content)


class _Shared(BaseModel, extra='forbid', frozen=True):  # the schema of `variants.toml`
    variant: tuple[Design, ...]
    claim: tuple[DesignClaim, ...]


def load_study(name: str) -> Study:
    """Return the study called `name`, or the one in that TOML file, with its variants and claims.

    Raises:
        UserError: if there is no such study, it is malformed, or a claim compares an unknown
            variant.
    """
    path = _STUDIES / f'{name}.toml'
    if not path.is_file():
        path = Path(name)
    if path.suffix != '.toml' or not path.is_file():
        known = ', '.join(sorted(file.stem for file in _STUDIES.glob('*.toml')))
        raise UserError(f"there is no study '{name}': expected {known} or a TOML file.")
    study = read_toml(path, Study)
    variants, claims = study.variant, study.claim
    if study.paper_claims:
        shared = read_toml(_FOLDER / 'variants.toml', _Shared)
        own = {variant.name for variant in variants}
        variants = (*(v for v in shared.variant if v.name not in own), *variants)
        of_paper = read_csv(paper.FOLDER / 'design_claims.csv', DesignClaim)
        claims = (*(claim for _, claim in of_paper), *shared.claim, *claims)
    if missing := set(study.only) - {claim.name for claim in claims}:
        raise UserError(f"{path}: 'only' names {min(missing)}, which is not a claim of the study.")
    if study.only:
        claims = tuple(claim for claim in claims if claim.name in study.only)
        names = {variants[0].name} | {n for c in claims for n in (c.better, c.worse)}
        variants = tuple(variant for variant in variants if variant.name in names)
    names = {variant.name for variant in variants}
    for claim in claims:
        if missing := {claim.better, claim.worse} - names:
            raise UserError(
                f'{path}: the claim {claim.name} compares {min(missing)}, which is not a variant: '
                f'expected two of {", ".join(sorted(names))}.'
            )
    return study.model_copy(update={'variant': variants, 'claim': claims, 'only': ()})
