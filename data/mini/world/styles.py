"""The named styles: plain, eighteen that the base model is trained on, and eight that it never sees."""

from __future__ import annotations

from data.mini.world.style import Style

PLAIN = Style()
"""Natural colours, thin dark outline, white ground: what "an image of X" means to the base model."""

NAMED_STYLES: dict[str, Style] = {
    "pencil": Style(
        line=(84, 84, 90), line_width=1.0, wobble=0.8, passes=2, fill="hatch", wash=0.0, period=4.5, angle=50,
        mapping="ramp", colours=((60, 60, 66), (130, 130, 136), (190, 190, 194)), ground_colour=(250, 249, 245),
        texture="grain", strength=0.25,
    ),
    "poster": Style(
        mapping="snap", colours=((226, 62, 48), (248, 200, 70), (34, 70, 110), (246, 236, 214)), line_width=0.0,
        line=(34, 40, 60), ground_colour=(58, 160, 160), ground_second=(80, 180, 176), ground="rays",
    ),
    "mosaic": Style(
        fill="tiles", period=6.4, line_width=0.0, line=(70, 60, 60), ground_colour=(232, 222, 200), saturation=1.2,
        texture="tiles", strength=0.3,
    ),
    "comic": Style(
        line=(16, 16, 22), line_width=2.0, saturation=1.35, fill="dots", wash=0.85, period=6.0, angle=45,
        ground="dots", ground_colour=(255, 226, 90), ground_second=(255, 200, 50),
    ),
    "watercolour": Style(
        fill="watercolour", wash=0.9, saturation=0.95, lightness=0.1, line=(110, 110, 130), line_width=0.0,
        ground="clouds", ground_colour=(252, 250, 244), ground_second=(226, 238, 246), texture="paper", strength=0.5,
    ),
    "pastel": Style(
        saturation=0.55, lightness=0.42, line_width=0.0, line=(150, 130, 150), ground="fade",
        ground_colour=(252, 226, 232), ground_second=(222, 230, 252), shadow="contact", shadow_colour=(190, 170, 200),
    ),
    "crayon": Style(
        fill="scribble", wash=0.15, period=4.6, angle=35, line_own=1.0, line_width=2.0, wobble=1.3, line_kind="brush",
        saturation=1.15, ground_colour=(252, 246, 232), texture="grain", strength=0.4,
    ),
    "oil": Style(
        fill="gradient", saturation=0.9, lightness=-0.14, line=(70, 44, 30), line_width=1.0, line_kind="brush",
        ground="vignette", ground_colour=(176, 132, 84), ground_second=(92, 60, 40), texture="canvas", strength=0.8,
    ),
    "sticker": Style(
        rim=3.0, shadow="drop", shadow_colour=(70, 60, 90), line=(50, 40, 60), line_width=1.5, saturation=1.2,
        ground="checks", ground_colour=(178, 214, 240), ground_second=(160, 200, 232),
    ),
    "sepia": Style(
        mapping="ramp", colours=((70, 44, 26), (160, 112, 66), (236, 208, 164)), line=(66, 42, 26), line_width=1.0,
        ground="vignette", ground_colour=(238, 216, 176), ground_second=(196, 160, 112), texture="paper", strength=0.8,
        fill="gradient",
    ),
    "cartoon": Style(
        line=(24, 24, 30), line_width=3.0, saturation=1.4, ground="fade", ground_colour=(120, 200, 250),
        ground_second=(190, 236, 170), shadow="contact", shadow_colour=(60, 110, 80),
    ),
    "silhouette": Style(
        mapping="ramp", colours=((38, 20, 44), (70, 34, 60)), line=(240, 140, 90), line_width=0.0, ground="fade",
        ground_colour=(250, 190, 90), ground_second=(232, 96, 90),
    ),
    "sketch": Style(
        fill="none", line=(60, 70, 130), line_width=1.0, wobble=1.6, passes=3, ground_colour=(244, 242, 234),
        texture="paper", strength=0.4,
    ),
    "crystal": Style(
        fill="facets", period=13.0, hue=60, saturation=1.1, line_width=0.0, line=(90, 60, 120), ground="vignette",
        ground_colour=(214, 200, 236), ground_second=(150, 130, 190), shadow="contact", shadow_colour=(80, 60, 120),
    ),
    "retro": Style(
        mapping="snap", colours=((232, 110, 60), (240, 180, 80), (90, 130, 110), (120, 60, 50)), line=(90, 48, 40),
        line_width=1.5, ground="stripes", angle=45, ground_colour=(244, 226, 188), ground_second=(236, 208, 160),
        texture="grain", strength=0.35,
    ),
    "television": Style(
        hue=-14, saturation=1.1, line=(40, 60, 90), line_width=1.0, ground="vignette", ground_colour=(170, 206, 206),
        ground_second=(110, 150, 160), texture="scan", strength=0.7,
    ),
    "mint": Style(
        mapping="ramp", colours=((16, 84, 84), (70, 170, 150), (206, 244, 226)), line=(14, 70, 74), line_width=1.5,
        ground_colour=(226, 250, 238), ground="dots", ground_second=(200, 238, 222),
    ),
    "dream": Style(
        hue=-30, saturation=0.8, lightness=0.2, line_width=0.0, line=(150, 90, 150), ground="clouds",
        ground_colour=(246, 206, 226), ground_second=(186, 176, 236), texture="soft", strength=0.45, shadow="halo",
        shadow_colour=(255, 250, 230),
    ),
}  # fmt: skip
"""What "an image of X in NAME style" means to the base model."""

HELD_OUT: dict[str, Style] = {
    "chalk": Style(
        ground="board", ground_colour=(34, 74, 58), ground_second=(52, 94, 76), fill="scribble", wash=0.0, period=4.8,
        angle=40, mapping="ramp", colours=((214, 214, 120), (236, 226, 190), (246, 244, 238)), line=(246, 246, 240),
        line_width=1.5, line_kind="chalk", wobble=0.9, texture="grain", strength=0.3,
    ),
    "neon": Style(
        ground="vignette", ground_colour=(26, 20, 66), ground_second=(8, 8, 30), fill="none", mapping="snap",
        colours=((255, 60, 170), (60, 230, 255), (255, 220, 70), (130, 255, 130)), line=(255, 120, 210), line_own=0.85,
        line_width=2.0, glow=1.1,
    ),
    "ink wash": Style(
        ground="clouds", ground_colour=(240, 230, 208), ground_second=(228, 216, 190), fill="watercolour", wash=0.85,
        mapping="ramp", colours=((44, 46, 52), (120, 122, 124), (206, 204, 196)), line=(28, 28, 34), line_width=2.0,
        line_kind="brush", wobble=1.4, seal=True, texture="paper", strength=0.5,
    ),
    "stained glass": Style(
        ground="panes", ground_colour=(30, 60, 150), ground_second=(90, 170, 220), fill="gradient", saturation=1.5,
        lightness=0.0, line=(18, 16, 22), line_width=3.0, period=16, glow=0.0,
    ),
    "blueprint": Style(
        ground="grid", ground_colour=(24, 66, 140), ground_second=(90, 136, 200), fill="hatch", wash=0.0, period=6,
        angle=45, mapping="ramp", colours=((190, 214, 244), (220, 234, 250)), line=(240, 246, 255), line_width=1.0,
    ),
    "papercut": Style(
        mapping="snap", colours=((200, 36, 40), (232, 76, 60), (250, 228, 190), (160, 20, 34)), ground="fade",
        ground_colour=(150, 14, 26), ground_second=(120, 8, 22), rim=3.0, rim_colour=(252, 236, 206), shadow="drop",
        shadow_colour=(40, 0, 6), line=(252, 236, 206), line_width=1.5,
    ),
    "woodcut": Style(
        fill="carved", wash=0.0, period=5.0, angle=20, mapping="ramp", colours=((20, 18, 18), (28, 24, 24)),
        line=(20, 18, 18), line_width=2.5, wobble=1.0, ground_colour=(226, 190, 128), ground="fade",
        ground_second=(206, 160, 96), texture="paper", strength=0.5,
    ),
    "embroidery": Style(
        fill="stitch", period=4.2, saturation=1.25, line_own=0.55, line=(60, 30, 40), line_width=2.0,
        line_kind="dashed", ground_colour=(200, 190, 172), ground="flat", texture="weave", strength=0.9,
        shadow="drop", shadow_colour=(120, 108, 90),
    ),
}  # fmt: skip
"""Never sampled in training; the first four are the embedded sample's 00 to 03."""
