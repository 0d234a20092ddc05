"""The table of everything that can be drawn."""

from __future__ import annotations

from collections.abc import Callable

from data.mini.world.animals import ANIMALS
from data.mini.world.belongings import BELONGINGS
from data.mini.world.buildings import BUILDINGS
from data.mini.world.creatures import CREATURES
from data.mini.world.food import FOOD
from data.mini.world.household import HOUSEHOLD
from data.mini.world.nature import NATURE
from data.mini.world.pen import Pen
from data.mini.world.travel import TRAVEL

DRAWINGS: dict[str, Callable[[Pen], None]] = (
    ANIMALS | CREATURES | NATURE | FOOD | HOUSEHOLD | BELONGINGS | TRAVEL | BUILDINGS
)

OBJECTS: tuple[str, ...] = tuple(DRAWINGS)
"""The names, capitalised as in the contest's prompts; an object's index here is its class number."""
