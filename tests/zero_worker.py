"""Runs several stages in one set of processes; `test_sft_zero.py` starts it with torchrun and reads the results.

    torchrun --nproc_per_node 2 -m tests.zero_worker jobs.json

Starting Python and DeepSpeed takes longer than a tiny stage.
"""

import json
import sys
from pathlib import Path

from train import sft


def main():
    for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        sft.main(arguments)


if __name__ == "__main__":
    main()
