"""Mirrors of a run: none, or Weights & Biases. Importing this package imports no service."""

from jdx.tracking.base import NoTracker, RunInfo, Tracker
from jdx.tracking.factory import make_tracker

__all__ = ["NoTracker", "RunInfo", "Tracker", "make_tracker"]
