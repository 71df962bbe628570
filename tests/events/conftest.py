"""Readers that know nothing of this project, compiled once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.foreign import compile_reader


@pytest.fixture(scope="session")
def readers(tmp_path_factory) -> dict[str, Path]:
    """`perf` and `ringbuf`: the C readers of tests/support/readers."""
    directory = tmp_path_factory.mktemp("readers")
    return {word: compile_reader(word, directory) for word in ("perf", "ringbuf")}
