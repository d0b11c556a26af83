"""Draw the sandbox's moving shapes and patterns: `Picture` and times in, one transparency mask per frame out.

Pure numpy. Coordinates range from -1 to 1, y points down. This module does not use events, captions or files.
"""

import numpy as np

from .classes import Picture


SOFTNESS = 0.05  # width of a shape's soft edge, about two pixels at 96


def _edge(distance: np.ndarray) -> np.ndarray:
    """1 inside (negative distance), 0 outside, soft between."""
    return np.clip(0.5 - distance / SOFTNESS, 0.0, 1.0)


def _polar(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(x, y), np.arctan2(y, x)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius, angle = _polar(x, y)
    return radius - (0.55 + 0.45 * np.cos(4 * angle))


def _burst(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius, angle = _polar(x, y)
    return np.maximum(np.abs(radius - 0.8) - 0.2, 0.35 - np.abs(np.cos(5 * angle)))


# Signed distance (roughly) of a shape of half width 1 around the origin.
SHAPES = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.8) - 0.2,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.85,
    "diamond": lambda x, y: np.abs(x) + np.abs(y) - 1,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.9 + y * 0.45 - 0.4, -y - 0.9) + y * 0.25,
    "cross": lambda x, y: np.maximum(np.minimum(np.abs(x), np.abs(y)) - 0.18, np.maximum(np.abs(x), np.abs(y)) - 1),
    "bar": lambda x, y: np.maximum(np.abs(x) - 1, np.abs(y) - 0.16),
    "wide": lambda x, y: np.maximum(np.abs(x) - 1, np.abs(y) - 0.45),
    "star": _star,
    "burst": _burst,
}

# Mask of a pattern that fills the frame, at phase p (in periods).
PATTERNS = {
    "halves": lambda x, y, p: (np.sign(x) * np.where(p % 1.0 < 0.5, 1.0, -1.0) > 0) * 0.8,
    "stripes": lambda x, y, p: (np.sin(2 * np.pi * (2 * x - 2 * p)) > 0) * (np.abs(y) < 0.6) * 0.9,
    "streaks": lambda x, y, p: (np.sin(23 * x + 3 * y) > 0.5) * (np.sin(2 * np.pi * (y - 2 * p) + 9 * x) > 0.0) * 0.85,
    "flakes": lambda x, y, p: np.clip(
        (np.cos(9 * x + 0.6 * np.sin(2 * np.pi * p)) + np.cos(9 * (y - 2.8 * p)) - 1.2) * 3, 0, 1
    ),
    "flames": lambda x, y, p: np.clip(
        (y - 0.3 + 0.35 * np.sin(7 * x + 6.3 * p) * np.cos(4 * x - 11 * p)) * 4, 0, 0.95
    ),
    "strings": lambda x, y, p: (np.cos(15 * (y + 0.06 * np.sin(2 * np.pi * (x + p)))) > 0.75) * 0.9,
    "waves": lambda x, y, p: (np.sin(9 * (y + 0.2 * np.sin(2 * np.pi * (x - p)))) > 0) * 0.8,
    "chequers": lambda x, y, p: (np.sin(8 * (x - p)) * np.sin(8 * (y + 0.1 * np.sin(6 * (x - p)))) > 0) * 0.85,
}


def _still(p: np.ndarray) -> dict[str, np.ndarray]:
    zero = np.zeros_like(p)
    return {"x": zero, "y": zero, "angle": zero, "size": zero + 1, "level": zero + 1}


# Changes of a motion at phase p (in periods): position, angle (radians), relative size, level of the mask.
MOTIONS = {
    "still": lambda p: {},
    "hop": lambda p: {"y": 0.3 - 0.6 * np.abs(np.sin(np.pi * p))},
    "swing": lambda p: {"x": 0.35 * np.sin(2 * np.pi * p), "angle": 0.5 * np.sin(2 * np.pi * p)},
    "dart": lambda p: {"x": 0.55 * np.sin(2 * np.pi * p), "y": 0.5 * np.sin(6.0 * np.pi * p + 1)},
    "pulse": lambda p: {"size": 0.7 + 0.45 * np.abs(np.cos(np.pi * p))},
    "spin": lambda p: {"angle": 2 * np.pi * p},
    "shake": lambda p: {"x": 0.12 * np.sin(2 * np.pi * p)},
    "grow": lambda p: {"size": 0.2 + p % 1.0, "level": 1.0 - 0.6 * (p % 1.0)},
    "cross": lambda p: {"x": 1.6 * (p % 1.0) - 0.8},
    "rise": lambda p: {"y": 0.8 - 1.6 * (p % 1.0)},
    "glow": lambda p: {"level": 0.65 + 0.35 * np.cos(2 * np.pi * p)},
    "blink": lambda p: {},
    "slide": lambda p: {},
    "fall": lambda p: {},
    "flicker": lambda p: {"level": 0.8 + 0.2 * np.sin(2 * np.pi * p)},
}


def draw_mask(picture: Picture, times: np.ndarray, *, size: int, phase: float = 0.0, x: float = 0.0, y: float = 0.0):
    """The transparency of a picture at the given times.

    Args:
        picture (`Picture`): what to draw.
        times (`np.ndarray` of shape `(num_frames,)`): s since the event began.
        size (`int`): width and height of the frame in pixels.
        phase (`float`): initial phase of the motion in its period.
        x, y (`float`): displacement of a shape; a pattern fills the frame and ignores it.

    Returns:
        `np.ndarray` of shape `(num_frames, size, size)`, float32 in [0, 1].
    """
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    grid_x, grid_y = axis[None, None, :], axis[None, :, None]
    p = (times * picture.rate + phase).astype(np.float32)
    state = {
        key: value.astype(np.float32)[:, None, None] for key, value in (_still(p) | MOTIONS[picture.motion](p)).items()
    }
    if picture.shape in PATTERNS:
        mask = PATTERNS[picture.shape](grid_x, grid_y, p[:, None, None]) * state["level"]
        return np.broadcast_to(mask, (len(times), size, size)).astype(np.float32)
    half_width = state["size"] * picture.size
    dx, dy = (grid_x - state["x"] - x) / half_width, (grid_y - state["y"] - y) / half_width
    if np.any(state["angle"]):
        cos, sin = np.cos(state["angle"]), np.sin(state["angle"])
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    return (_edge(SHAPES[picture.shape](dx, dy) * half_width) * state["level"]).astype(np.float32)


def blend(canvas: np.ndarray, mask: np.ndarray, colour: tuple[float, ...]) -> None:
    """Blend a colour into `canvas` of shape `(num_frames, size, size, 3)` in place, with `mask` as alpha."""
    for channel, value in enumerate(colour):
        plane = canvas[..., channel]
        plane += mask * (np.float32(value) - plane)
