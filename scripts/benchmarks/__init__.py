"""The sections of scripts/benchmark.py, a module a section."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no section needs the network
