"""Runs the commands of docs/tutorial.md and keeps what they print, which the page shows: nobody types its numbers.

    python tools/run_tutorial.py            # in a clone, with mekrr[sevennet] installed
    python tools/run_tutorial.py --from look

Each block of the page under a mark `<!-- run: NAME -->` is run in order, in one working folder: shell blocks by bash,
Python blocks by one interpreter after another with the names of those before. Its output, warnings among it, becomes
docs/tutorial/NAME.txt. The working folder and the cache of features are kept, so that an interrupted run goes on.
"""

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
OUTPUTS = ROOT / "docs" / "tutorial"
BLOCK = re.compile(r"<!-- run: ([a-z-]+) -->\n```(sh|python)\n(.*?)```\n", re.DOTALL)
SECONDS = re.compile(r"\b\d+\.\d s\b")
WIDTH = "120"


def main() -> None:
    """Run the blocks, all or from one on, and write their outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "tutorial-run", help="Where the commands work.")
    parser.add_argument("--from", dest="first", help="The first block to run; those before were run already.")
    arguments = parser.parse_args()
    prepare(arguments.folder)
    OUTPUTS.mkdir(exist_ok=True)
    names: dict = {"__name__": "__main__"}
    skipping = arguments.first is not None
    for name, language, text in BLOCK.findall(PAGE.read_text("utf-8")):
        skipping = skipping and name != arguments.first
        if skipping and language == "sh":
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        said = in_bash(text) if language == "sh" else in_python(text, names)
        (OUTPUTS / f"{name}.txt").write_text(tidy(said), "utf-8")


def prepare(folder: Path) -> None:
    """A working folder that looks like the clone to the commands, which name its data."""
    folder.mkdir(exist_ok=True)
    if not (folder / "src").exists():
        (folder / "src").symlink_to(ROOT / "src")
    os.chdir(folder)
    os.environ["COLUMNS"] = WIDTH


def in_bash(text: str) -> str:
    """What the commands print on both streams; a command that fails ends the run."""
    done = subprocess.run(["bash", "-e"], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}:\n{text}\n{done.stdout}")
    return done.stdout


def in_python(text: str, names: dict) -> str:
    """What the statements print."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(text, str(PAGE), "exec"), names)
    return said.getvalue()


def tidy(said: str) -> str:
    """Without what differs from machine to machine: folders and seconds."""
    kept = [line.rstrip() for line in said.replace(f"{ROOT}/", "").splitlines()]
    return "\n".join(SECONDS.sub("... s", line) for line in kept) + "\n"


if __name__ == "__main__":
    main()
