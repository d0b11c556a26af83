"""A procedural world with known events: the embedded default of the quick start, the tests and the ablations.

`make_world` writes clips with captions in VALOR's form and untrimmed test videos with annotations in UnAV-100's form.
Nothing outside this package knows that they are synthetic.
"""

from .world import make_world


__all__ = ["make_world"]
