"""The papers' ImageNet training, for any folder of images, from timm's own parts.

`dinat-zoo train` is its command line. `recipe` has the published values as a table, `data` the loaders, `training` one
model in training, `run` the run with its checkpoints, `evaluate` the measurement, which `dinat-zoo validate` shares.
"""

from __future__ import annotations

from dinat_zoo.recipes.imagenet.evaluate import evaluate
from dinat_zoo.recipes.imagenet.recipe import RECIPES, Recipe, recipe_of
from dinat_zoo.recipes.imagenet.run import Settings, fit

__all__ = ["RECIPES", "Recipe", "Settings", "evaluate", "fit", "recipe_of"]
