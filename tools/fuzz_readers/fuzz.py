"""Reads mutated files and counts what comes of it.

    python tools/fuzz_readers/fuzz.py a.extxyz OUTCAR vasprun.xml a.db --count 10000 --seed 0

Every file must be read, or refused by a DataError, within the seconds given. Bytes are changed, lines are dropped,
repeated or exchanged, and files are cut. Half of the text files are changed outside of their labels only (`labels.py`):
they must give the labels of the sound file, or be refused or remarked upon. Should a file end the process itself, it is
the last one in the folder.
"""

import argparse
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import labels
from labels import Reading

from mekrr.errors import DataError

SECONDS = 20
SOUND = ("read", "read, labels as they were", "refused", "remarked upon")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three changes."""
    for _ in range(draw.randint(1, 3)):
        content = draw.choice((_bytes, _cut, _drop, _repeat, _exchange, _number))(content, draw)
    return content


def _bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, len(content))]


def _drop(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    first = draw.randrange(len(lines) or 1)
    return b"".join(lines[:first] + lines[first + draw.randint(1, 3) :])


def _repeat(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    first = draw.randrange(len(lines) or 1)
    return b"".join(lines[:first] + lines[first : first + 1] * draw.randint(2, 4) + lines[first + 1 :])


def _exchange(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def _number(content: bytes, draw: random.Random) -> bytes:
    """A digit that becomes something a parser may choke on."""
    digits = [k for k, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return content
    k = draw.choice(digits)
    return content[:k] + draw.choice((b"nan", b"-", b"e999", b"", b"9999999", b"inf", b"*")) + content[k + 1 :]


class HangError(Exception):
    """A file took longer than the seconds given."""


def outcome(path: Path, expected: Reading | None = None) -> str:
    """One of SOUND, or what went wrong: a traceback, a hang, or other labels than expected without a word."""

    def late(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        found = Reading.of(path)
    except DataError:
        return "refused"
    except HangError:
        return f"hung for {SECONDS} s"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    if expected is None:
        return "read"
    if found.has_labels_of(expected):
        return "read, labels as they were"
    return "remarked upon" if found.said - expected.said else "other labels without a word"


def fuzz(originals: dict[str, bytes], count: int, seed: int, folder: Path) -> tuple[Counter[str], list[Path]]:
    """Outcomes by kind, and the files with an outcome that is none of SOUND, which are kept in the folder."""
    draw = random.Random(seed)
    found: Counter[str] = Counter()
    kept = []
    spans = {name: labels.spans_of(name, content) for name, content in originals.items()}
    sound = {name: _sound(name, originals[name], folder) for name in originals if spans[name] is not None}
    for k in range(count):
        name = draw.choice(sorted(originals))
        path = folder / str(k) / name
        path.parent.mkdir()
        where = spans[name] if draw.random() < 0.5 else None
        if where is None:
            path.write_bytes(mutated(originals[name], draw))
        else:
            path.write_bytes(labels.changed_elsewhere(originals[name], where, draw))
        result = outcome(path, None if where is None else sound[name])
        found[result] += 1
        if result in SOUND:
            path.unlink()
            path.parent.rmdir()
        else:
            kept.append(path)
    return found, kept


def _sound(name: str, content: bytes, folder: Path) -> Reading:
    """What the file gives as it is."""
    path = folder / "sound" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return Reading.of(path)


def main() -> int:
    """Fuzz the files given, each named as its format wants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="sound files: a.extxyz, OUTCAR, vasprun.xml, a.db, ...")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    originals = {path.name: path.read_bytes() for path in arguments.files}
    found, kept = fuzz(originals, arguments.count, arguments.seed, Path(tempfile.mkdtemp(prefix="fuzz-")))
    for result, n in found.most_common():
        print(n, result)
    print(*kept, sep="\n")
    return 1 if kept else 0


if __name__ == "__main__":
    sys.exit(main())
