"""Where shipped files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
CAPTURES = EXAMPLES / "captures"


def example_object(name: str) -> Path:
    """The committed object of an example."""
    return EXAMPLES / name / "prog.o"
