"""What the notebooks share: data, drawing, timing, records, and the running of notebooks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
