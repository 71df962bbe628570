import pytest
from support.cli import CommandLine


@pytest.fixture
def shmbpf(namespace):
    """The command line on the test's namespace (which stays up during the test, so that maps outlive single commands only if somebody holds them)."""
    return CommandLine(namespace.name)
