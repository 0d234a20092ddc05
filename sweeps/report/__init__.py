"""A sweep on one page: `python -m sweeps.report SWEEP_DIR`, and written where a sweep ends."""

from sweeps.report.page import write_page

__all__ = ["write_page"]
