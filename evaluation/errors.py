"""What can go wrong in scoring, by what the caller can do about it."""


class EvaluationError(Exception):
    """Base of the errors that the scorer raises on purpose."""


class JudgesError(EvaluationError):
    """A judge set cannot be had: a file is absent, damaged or not what its kind says. Point to another."""


class FoldersError(EvaluationError):
    """The pictures cannot be scored as they lie: the folder is absent or, under `--strict`, has faults."""


class ScoreError(EvaluationError):
    """A number that no score may be made of (NaN, infinite, out of its range)."""
