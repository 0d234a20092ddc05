"""Small helpers of the tests of jdx itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.conftest import tiny_judges

__all__ = ["tiny_judges"]


@pytest.fixture
def write_json() -> Callable[[Path, object], Path]:
    """Write an object as JSON and return its path."""

    def write(path: Path, content: object) -> Path:
        path.write_text(json.dumps(content))
        return path

    return write
