"""The recipe: one YAML file that says what a corpus is made of and how a model is trained on it.

Each section is the config of one kind of step, and every field of it is part of that step's identity:
change a field and the step, and what follows from it, runs again. What only changes *how fast* a step
runs stands in ``run``, which is nobody's identity.
"""

from rasterloom.errors import RecipeError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.filter import Dedup, Keep, Score
from rasterloom.recipe.load import load_recipe
from rasterloom.recipe.price import Price
from rasterloom.recipe.resources import DriverTakes, StepTakes
from rasterloom.recipe.run import Run
from rasterloom.recipe.sample import ColourCheck, Sample
from rasterloom.recipe.section import Section
from rasterloom.recipe.source import Column, Source
from rasterloom.recipe.tokenize import CODECS, Prompt, Tokenize
from rasterloom.recipe.train import SPEED_ONLY, DeepSpeed, Guard, Part, Stage, Train
from rasterloom.recipe.whole import Recipe

__all__ = [
    "CODECS",
    "SPEED_ONLY",
    "ColourCheck",
    "Column",
    "Dedup",
    "DeepSpeed",
    "DriverTakes",
    "Fetch",
    "Guard",
    "Keep",
    "Part",
    "Price",
    "Prompt",
    "Recipe",
    "RecipeError",
    "Run",
    "Sample",
    "Score",
    "Section",
    "Source",
    "Stage",
    "StepTakes",
    "Tokenize",
    "Train",
    "load_recipe",
]
