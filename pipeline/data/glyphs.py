"""Fonts as clients: their glyphs, drawn by this code from the files of a font package.

A font that draws at least `MIN_DISTINCT` of the 62 characters differently takes part. Pixels depend
on the version of FreeType that Pillow brings, which hints outlines in its own way. Font files are
given by the font's name. F fonts, S pixels of a side.
"""

import hashlib
import io
import string
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
SIZES = (16, 28)  # pixels of a side
FONT_PIXELS = 64  # height of a glyph's em square before it is cropped and scaled
MAX_GLYPH = 1024  # pixels of a side, before it is scaled
MIN_DISTINCT = 50
NUM_ARRIVING = 100  # fonts that only new clients may be
FAMILY_LETTERS = 4  # at the beginning of a font's name, common to its variants


def caption_of(character: str) -> str:
    """Return a character's Unicode name in small letters, such as "latin small letter g"."""
    return unicodedata.name(character).lower()


def files_hash(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of font files: of their names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()


def draw_fonts(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return `names` (F,) and, for each size S, `glyphs_<S>` (F, 62, S, S) uint8, white on black.

    Files that are no fonts are left out, as are fonts with an empty glyph, with too few distinct
    ones, or with the glyphs of a font before them.
    """
    fonts, seen = dict[str, dict[int, np.ndarray]](), set[bytes]()
    for name in sorted(files):
        glyphs = _glyphs(files[name])
        if glyphs is None:
            continue
        largest = glyphs[max(SIZES)]
        if len({glyph.tobytes() for glyph in largest}) < MIN_DISTINCT or largest.tobytes() in seen:
            continue
        seen.add(largest.tobytes())
        fonts[name] = glyphs
    arrays: dict[str, np.ndarray] = {"names": np.array([*fonts], dtype=np.str_)}
    for size in SIZES:
        drawn = np.array([glyphs[size] for glyphs in fonts.values()], np.uint8)
        arrays[f"glyphs_{size}"] = drawn.reshape(-1, len(CHARACTERS), size, size)
    return arrays


def _glyphs(font_file: bytes) -> dict[int, np.ndarray] | None:
    """Return a font's glyphs (62, S, S) uint8 by size; None if it cannot draw all of them."""
    try:
        basic = ImageFont.Layout.BASIC  # a glyph by itself needs no shaping library
        font = ImageFont.truetype(io.BytesIO(font_file), FONT_PIXELS, layout_engine=basic)
        squares = [_square(font, character) for character in CHARACTERS]
    except (OSError, ValueError):  # no font, or a glyph that cannot be drawn
        return None
    way = Image.Resampling.LANCZOS
    return {s: np.stack([np.asarray(one.resize((s, s), way)) for one in squares]) for s in SIZES}


def _square(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Return a glyph in the middle of the smallest square around it; ValueError without ink."""
    left, top, right, bottom = map(round, font.getbbox(character))
    width, height = right - left, bottom - top
    if not (0 < width <= MAX_GLYPH and 0 < height <= MAX_GLYPH):
        raise ValueError("a glyph of no size, or of too large a one")
    drawn = Image.new("L", (width, height))
    ImageDraw.Draw(drawn).text((-left, -top), character, font=font, fill=255)
    if (ink := drawn.getbbox()) is None:
        raise ValueError("a glyph without ink")
    glyph = drawn.crop(ink)
    side = max(glyph.size)
    square = Image.new("L", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square


def arriving(names: Sequence[str]) -> np.ndarray:
    """Return which fonts only new clients may be, (F,) bool: about `NUM_ARRIVING`, by name hashes.

    Fonts whose names begin alike are variants of each other, so they are chosen together. The
    shipped classifier of fonts has never seen them.
    """
    families: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        families.setdefault(name[:FAMILY_LETTERS], []).append(at)
    chosen = np.zeros(len(names), dtype=bool)
    limit = min(NUM_ARRIVING, len(names) // 4)
    for family in sorted(families, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if chosen.sum() + len(families[family]) <= limit:
            chosen[families[family]] = True
    return chosen
