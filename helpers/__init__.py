"""What the notebooks share: data, drawing, timing, records, and the running of notebooks."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What the libraries read, each when it is first imported, for the number of its threads.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

# Unless this is set first, onnxruntime reports its use to its maker, and keeps an identifier in the home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
