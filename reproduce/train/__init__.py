"""The paper's recipes: training with and without token labeling, and the annotator's label maps."""

from reproduce.train.labels import make_labels
from reproduce.train.loop import Job, train
from reproduce.train.recipe import RECIPES, Recipe, recipe_for

__all__ = ['RECIPES', 'Job', 'Recipe', 'make_labels', 'recipe_for', 'train']
