"""The recipes: what the paper and docs/recipes.md say of them, and how one is chosen."""

import ast
import re
from pathlib import Path

import pytest

from reproduce.base.errors import UserError
from reproduce.openmmlab.configs import CONFIGS, load_config
from reproduce.train.recipes import RECIPES, Recipe, recipe_for

DOCUMENT = Path(__file__).parents[1] / 'docs/recipes.md'
FULL_SIZE = {path.name for path in CONFIGS.glob('*maformer*.py') if 'shapes' not in path.name}


def settings(text):
    """The settings `name=value` of a cell or several, each of which is there once."""
    pairs = re.findall(r'`([^`=]+)=([^`]*)`', text)
    assert len(pairs) == len(dict(pairs)), text
    return dict(pairs)


def documented():
    """The document's recipes by name: the one it is derived from, if any, and its own settings."""
    text = DOCUMENT.read_text()
    recipes = {}
    for section in re.split(r'^### ', text, flags=re.MULTILINE)[1:]:
        name = re.match(r'`([^`]+)`$', section, re.MULTILINE)
        if name:
            parent = re.search(r'^As `([^`]+)`, but:$', section, re.MULTILINE)
            cells = re.findall(r'^\* ((?:`[^`]*` ?)+): .+$', section, re.MULTILINE)
            assert section.count('\n* `') == len(cells), name[1]
            recipes[name[1]] = parent and parent[1], settings(' '.join(cells))
    for pattern, parent, changes in re.findall(
        r'^\| `([^`]+)` \| `([^`]+)` \| (`[^|]*=[^|]*`) \| .*\|$', text, re.MULTILINE
    ):
        names = re.compile(re.escape(pattern).replace(r'\*', '(.+)'))
        for name in [*RECIPES, *FULL_SIZE]:
            if (match := names.fullmatch(name)) and name not in recipes:
                parts = iter(match.groups())
                recipes[name] = (
                    re.sub(r'\*', lambda _, parts=parts: next(parts), parent),
                    settings(changes),
                )
    return recipes


def values(tables, name):
    parent, own = tables[name]
    return {**(values(tables, parent) if parent else {}), **own}


def test_the_document_has_every_setting_of_every_classifier():
    tables = documented()
    assert {name for name in tables if not name.endswith('.py')} == set(RECIPES)
    for name, recipe in RECIPES.items():
        stated = values(tables, name)
        assert stated.keys() == Recipe.model_fields.keys()
        assert Recipe(model='').changed(**stated) == recipe, name


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(n, marks=() if n.startswith('fpn_') else pytest.mark.slow)
        for n in sorted(FULL_SIZE)
    ],
)
def test_the_document_has_the_settings_of_every_full_size_config(name):
    config = load_config(name)
    for setting, value in values(documented(), name).items():
        found = config
        for key in setting.split('.'):
            found = found[int(key)] if key.isdecimal() else found.get(key)
            if found is None:
                break
        assert found == ast.literal_eval(value), (name, setting)


def test_the_paper_s_recipes():
    """Section 4.2 of the paper."""
    for size, lr, drop_path in (
        ('small', 1.6e-3, 0.1),
        ('base', 1.6e-3, 0.3),
        ('large', 1.2e-3, 0.4),
    ):
        for token_labeling in (False, True):
            recipe = recipe_for(f'maformer_{size}', token_labeling)
            assert (recipe.lr, recipe.drop_path) == (lr, drop_path)
            assert recipe.scaled_lr == lr
            assert recipe.token_labeling == token_labeling


def test_a_wrong_change_of_a_recipe_is_explained():
    recipe = recipe_for('maformer_small')
    assert recipe.changed(test_crops='1,0.9', crop_scale='0.2,1').test_crops == (1.0, 0.9)
    with pytest.raises(UserError, match="a recipe's batchsize is wrong"):
        recipe.changed(batchsize=3)
    with pytest.raises(UserError, match="a recipe's epochs is wrong"):
        recipe.changed(epochs='many')
