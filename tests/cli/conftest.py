import pytest
from support.cli import CommandLine
from support.shell import Shell

from shmbpf.shm.namespace import Namespace


@pytest.fixture
def shmbpf(namespace):
    """The command line on the test's namespace (which stays up during the test, so that maps outlive single commands only if somebody holds them)."""
    return CommandLine(namespace.name)


@pytest.fixture
def shell(namespace_name):
    """The command line in processes of its own, in a fresh namespace."""
    made = Shell(namespace_name)
    yield made
    for process in made.started:  # those of a test that failed half-way
        process.kill()
        process.communicate()
    with Namespace(namespace_name):
        pass  # whoever leaves last clears up what killed ones left
