"""`snakemake --lint` with one message excepted: no rule has a `conda:` or a `container:`.

Jobs run samcourier from the environment of snakemake, which the parse of the workflow needs too. No
environment that Snakemake makes for a rule has samcourier in it: it installs `environment.yml` from
a copy elsewhere, where the `-e .` in it has no meaning.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXCEPTED = "Specify a conda environment or container for each rule."
_MESSAGE = re.compile(r"^    \* (.*?):?$", re.MULTILINE)


def lint_problems(output: str) -> list[str]:
    """Return the messages in the output of `snakemake --lint` that are not excepted.

    The whole output is a problem if it is no result of a lint, e.g. the error of a parse.
    """
    messages = _MESSAGE.findall(output)
    if not messages and "Congratulations" not in output:
        return [output]
    return [message for message in messages if message != EXCEPTED]


def main() -> None:
    """Lint the workflow in the current folder; exit with status 1 if there is a problem."""
    snakemake = Path(sys.executable).with_name("snakemake")
    done = subprocess.run([snakemake, "--lint"], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if problems := lint_problems(output):
        sys.exit("\n".join([output, *problems]))


if __name__ == "__main__":
    main()
