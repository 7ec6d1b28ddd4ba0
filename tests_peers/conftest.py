"""Comparisons with the programs that wrote the files: run where they are installed.

python -m venv peers && peers/bin/pip install -r benchmarks/requirements-peers.txt -e '.[training]' pytest
peers/bin/python -m pytest tests_peers
"""

from __future__ import annotations

import os

# Nothing here needs the network, and some peers look for one when they are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
