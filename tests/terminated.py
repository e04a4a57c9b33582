"""Commands that are ended while they work, as by a user who has seen enough or by a time limit."""

import subprocess
import sys


def terminated_at(mark: str, module: str, *arguments: str) -> tuple[int, str, str]:
    """Run a module's command, with SIGTERM once a line of its standard error has the mark: its code, output, errors."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if mark in line:
                process.terminate()
                break
        out, rest = process.communicate(timeout=200)
    return process.returncode, out, said + rest
