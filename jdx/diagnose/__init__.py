"""What is likely wrong with a run's pictures, in words and numbers: `python -m jdx.diagnose RUN`."""

from jdx.diagnose.findings import Diagnosis, Finding, StyleDiagnosis
from jdx.diagnose.run import diagnose

__all__ = ["Diagnosis", "Finding", "StyleDiagnosis", "diagnose"]
