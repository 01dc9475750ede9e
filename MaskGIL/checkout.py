"""Which commit of this code is running, where it runs from a checkout."""

import subprocess
from pathlib import Path


def commit() -> str:
    """As `git describe` names it, `-dirty` with changes; "unknown" without git or a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
