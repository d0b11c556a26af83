"""A synthetic data set with known events: the default data of the quick start, the tests and the ablations.

`make_world` writes clips with captions in VALOR's format and untrimmed test videos with annotations in UnAV-100's
format. Code outside this package handles them like real data.
"""

from .world import make_world


__all__ = ["make_world"]
