"""The named styles: plain, eighteen that the base model is trained on, and eight that it never sees."""

from __future__ import annotations

from data.mini.world.style import Style

PLAIN = Style()
"""Natural colours, thin dark outline, white ground: what "an image of X" means to the base model."""

NAMED_STYLES: dict[str, Style] = {
    "graphite": Style(
        line=(84, 84, 90), line_width=1.0, wobble=0.8, passes=2, fill="hatch", wash=0.0, period=4.5, angle=50,
        mapping="ramp", colours=((60, 60, 66), (130, 130, 136), (190, 190, 194)),
        ground_colour=(250, 249, 245), texture="grain", strength=0.25,
    ),
    "poster": Style(
        mapping="snap", colours=((226, 62, 48), (248, 200, 70), (34, 70, 110), (246, 236, 214)),
        line_width=0.0, line=(34, 40, 60), ground_colour=(58, 160, 160), ground_second=(80, 180, 176),
        ground="rays",
    ),
    "mosaic": Style(
        fill="tiles", period=5.3, line_width=1.0, line=(70, 60, 60), ground_colour=(232, 222, 200),
        saturation=1.2, texture="tiles", strength=0.3,
    ),
    "comic": Style(
        line=(16, 16, 22), line_width=2.0, saturation=1.35, fill="dots", wash=0.85, period=6.0, angle=45,
        ground="dots", ground_colour=(255, 226, 90), ground_second=(255, 200, 50),
    ),
    "watercolour": Style(
        fill="watercolour", wash=0.9, saturation=0.95, lightness=0.1, line=(126, 126, 142), line_width=1.0,
        ground="clouds", ground_colour=(252, 250, 244), ground_second=(236, 243, 248), texture="paper",
        strength=0.4,
    ),
    "pastel": Style(
        saturation=0.6, lightness=0.36, line_width=1.0, line=(168, 140, 170), ground="fade",
        ground_colour=(252, 226, 232), ground_second=(222, 230, 252), shadow="contact",
        shadow_colour=(190, 170, 200),
    ),
    "crayon": Style(
        fill="scribble", wash=0.15, period=4.6, angle=35, line_own=1.0, line_width=2.0, wobble=1.3,
        line_kind="brush", saturation=1.2, lightness=-0.15, ground_colour=(252, 246, 232), texture="grain",
        strength=0.4,
    ),
    "oil": Style(
        fill="gradient", saturation=0.9, lightness=-0.14, line=(70, 44, 30), line_width=1.0,
        line_kind="brush", ground="vignette", ground_colour=(176, 132, 84), ground_second=(92, 60, 40),
        texture="canvas", strength=0.8,
    ),
    "sticker": Style(
        rim=3.0, shadow="drop", shadow_colour=(70, 60, 90), line=(50, 40, 60), line_width=1.5, saturation=1.2,
        ground="checks", ground_colour=(178, 214, 240), ground_second=(160, 200, 232),
    ),
    "sepia": Style(
        mapping="ramp", colours=((70, 44, 26), (160, 112, 66), (236, 208, 164)), line=(66, 42, 26),
        line_width=1.0, ground="vignette", ground_colour=(238, 216, 176), ground_second=(196, 160, 112),
        texture="paper", strength=0.8, fill="gradient",
    ),
    "cartoon": Style(
        line=(24, 24, 30), line_width=3.0, saturation=1.4, ground="fade", ground_colour=(120, 200, 250),
        ground_second=(190, 236, 170), shadow="contact", shadow_colour=(60, 110, 80),
    ),
    "silhouette": Style(
        mapping="ramp", colours=((34, 16, 44), (112, 46, 82)), line=(244, 150, 90), line_width=0.0,
        ground="fade", ground_colour=(250, 190, 90), ground_second=(232, 96, 90),
    ),
    "sketch": Style(
        fill="none", line=(60, 70, 130), line_width=1.0, wobble=1.6, passes=3, ground_colour=(244, 242, 234),
        texture="paper", strength=0.4,
    ),
    "crystal": Style(
        fill="facets", period=13.0, hue=60, saturation=1.1, line_width=0.0, line=(90, 60, 120),
        ground="vignette", ground_colour=(214, 200, 236), ground_second=(150, 130, 190), shadow="contact",
        shadow_colour=(80, 60, 120),
    ),
    "retro": Style(
        mapping="snap", colours=((232, 110, 60), (240, 180, 80), (90, 130, 110), (120, 60, 50)),
        line=(90, 48, 40), line_width=1.5, ground="stripes", angle=45, ground_colour=(244, 226, 188),
        ground_second=(236, 208, 160), texture="grain", strength=0.35,
    ),
    "screen": Style(
        hue=-14, saturation=1.1, line=(40, 60, 90), line_width=1.0, ground="vignette",
        ground_colour=(170, 206, 206), ground_second=(110, 150, 160), texture="scan", strength=0.7,
    ),
    "mint": Style(
        mapping="ramp", colours=((16, 84, 84), (70, 170, 150), (206, 244, 226)), line=(14, 70, 74),
        line_width=1.5, ground_colour=(226, 250, 238), ground="dots", ground_second=(200, 238, 222),
    ),
    "dream": Style(
        hue=-30, saturation=0.8, lightness=0.2, line_width=0.0, line=(150, 90, 150), ground="clouds",
        ground_colour=(246, 206, 226), ground_second=(186, 176, 236), texture="soft", strength=0.2,
        shadow="halo", shadow_colour=(255, 250, 230),
    ),
}  # fmt: skip
"""What "an image of X in NAME style" means to the base model."""

HELD_OUT: dict[str, Style] = {
    "chalk": Style(
        ground="board", ground_colour=(30, 72, 56), ground_second=(50, 92, 74), wash=0.36, saturation=0.75,
        lightness=0.3, line=(248, 248, 240), line_width=1.5, line_kind="chalk", wobble=0.8, texture="grain",
        strength=0.3,
    ),
    "neon": Style(
        ground="vignette", ground_colour=(26, 20, 66), ground_second=(8, 8, 30), fill="none", mapping="snap",
        colours=((255, 60, 170), (60, 230, 255), (255, 220, 70), (130, 255, 130)), line=(255, 120, 210),
        line_own=0.85, line_width=2.0, glow=1.1,
    ),
    "ink wash": Style(
        ground="fade", ground_colour=(244, 235, 214), ground_second=(232, 220, 194), fill="watercolour",
        wash=0.9, mapping="ramp", colours=((26, 28, 34), (112, 114, 116), (222, 218, 206)), line=(22, 22, 28),
        line_width=1.5, line_kind="brush", wobble=1.2, seal=True, texture="paper", strength=0.35,
    ),
    "papercut": Style(
        mapping="ramp", colours=((168, 14, 28), (196, 28, 36), (226, 66, 56)), ground="flat",
        ground_colour=(250, 240, 222), line=(255, 246, 230), line_width=1.5, shadow="drop",
        shadow_colour=(110, 70, 50),
    ),
    "stained glass": Style(
        ground="panes", ground_colour=(48, 96, 190), ground_second=(128, 190, 238), fill="gradient",
        saturation=1.5, lightness=0.08, line=(18, 16, 22), line_width=2.5, shadow_colour=(18, 16, 22),
    ),
    "blueprint": Style(
        ground="grid", ground_colour=(24, 66, 140), ground_second=(90, 136, 200), fill="hatch", wash=0.0,
        period=6.5, angle=45, mapping="ramp", colours=((92, 138, 204), (120, 164, 222)), line=(242, 248, 255),
        line_width=1.0,
    ),
    "woodcut": Style(
        fill="carved", wash=0.0, period=5.0, angle=20, mapping="ramp", colours=((20, 18, 18), (28, 24, 24)),
        line=(20, 18, 18), line_width=2.0, wobble=0.8, ground_colour=(228, 194, 132), ground="fade",
        ground_second=(206, 162, 100), texture="paper", strength=0.4,
    ),
    "embroidery": Style(
        fill="stitch", period=4.6, saturation=1.25, line_own=0.55, line=(60, 30, 40), line_width=2.0,
        line_kind="dashed", ground_colour=(202, 192, 174), texture="weave", strength=0.8, shadow="drop",
        shadow_colour=(120, 108, 90),
    ),
}  # fmt: skip
"""Never sampled in training; the first four are the embedded sample's 00 to 03."""
