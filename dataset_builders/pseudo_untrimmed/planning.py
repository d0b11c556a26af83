"""Plan pseudo-untrimmed videos: which clips, how often, in which order, each at which scale (steps 3 to 5 of the paper).

Pure. Every draw is a function of (seed, row, attempt, slot) and of nothing else, so a row's draws do not depend on which
other rows are planned beside it, nor by how many workers. Rejecting plans is `filtering.py`'s task; this file reads and
writes nothing.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """One clip in a composed video: `start` and `end` in its seconds, `end - start` = `scale` x the clip's own length."""

    clip_id: str
    start: float
    end: float
    scale: float
    caption: str

    def transfer_time(self, time: float) -> float:
        """Where a moment of the original clip (s from its begin) lies in the composed video (step 5 of the paper)."""
        return self.start + self.scale * time
