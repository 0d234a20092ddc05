"""The table of everything that can be drawn."""

from __future__ import annotations

from data.mini.world.animals import ANIMALS
from data.mini.world.beasts import BEASTS
from data.mini.world.belongings import BELONGINGS
from data.mini.world.buildings import BUILDINGS
from data.mini.world.clothes import CLOTHES
from data.mini.world.creatures import CREATURES
from data.mini.world.food import FOOD
from data.mini.world.fruit import FRUIT
from data.mini.world.household import HOUSEHOLD
from data.mini.world.machines import MACHINES
from data.mini.world.nature import NATURE
from data.mini.world.pen import Drawing
from data.mini.world.plants import PLANTS
from data.mini.world.sea import SEA
from data.mini.world.travel import TRAVEL

_LIVING = ANIMALS | BEASTS | CREATURES | SEA | PLANTS | NATURE | FRUIT
_MADE = FOOD | HOUSEHOLD | MACHINES | BELONGINGS | CLOTHES | TRAVEL | BUILDINGS

DRAWINGS: dict[str, Drawing] = _LIVING | _MADE

OBJECTS: tuple[str, ...] = tuple(DRAWINGS)
"""The names, capitalised as in the contest's prompts; an object's index here is its class number."""
