"""The drawn world: objects as small vector drawings, styles as points in a space of parameters.

rng = np.random.default_rng(0)
draw("Cat", PLAIN, rng)                     # a PIL picture, 128 x 128
draw("Cat", HELD_OUT["chalk"], rng)         # a style that the base model has never seen
render_many(1000, seed=0)                   # arrays, captions and labels for a trainer
"""

from data.mini.world.batches import MIX, STYLE_NAMES, Batch, batches, render_many
from data.mini.world.captions import caption, describe
from data.mini.world.compose import draw, paint
from data.mini.world.objects import OBJECTS
from data.mini.world.random_styles import MARGIN, random_style
from data.mini.world.style import Style, distance
from data.mini.world.styles import HELD_OUT, NAMED_STYLES, PLAIN

__all__ = [
    "HELD_OUT", "MARGIN", "MIX", "NAMED_STYLES", "OBJECTS", "PLAIN", "STYLE_NAMES", "Batch", "Style",
    "batches", "caption", "describe", "distance", "draw", "paint", "random_style", "render_many",
]  # fmt: skip
