"""Published weights that no package brings: fetched once into the user's cache, resumable, tied to a recorded hash.

No hash is published for the weights listed here. The SHA-256 of the first complete download is recorded beside the
file, and every later use is checked against that record: this detects damage, not a wrong file at the source.
"""

import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from platformdirs import user_cache_path

from mekrr.backbones.base import BackboneCard
from mekrr.errors import BackboneUnavailableError
from mekrr.files import atomic_path, sha256_of

Progress = Callable[[int, int | None], None]
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


def fetch_weights(card: BackboneCard, progress: Progress | None = None, folder: Path | None = None) -> Path:
    """Path of the published weights in the cache, downloaded if they are not there yet.

    An interrupted download is continued where it stopped, if the server still has the same file.

    Args:
        card: whose `url` to fetch.
        progress: called with the bytes received so far and the total, None where the server does not tell.
        folder: where to keep the file, the user's cache by default.

    Raises:
        BackboneUnavailableError: if there is no address, no connection, or the download stays incomplete.
    """
    if not card.url:
        raise BackboneUnavailableError(
            f"{card.name} has nothing to fetch: its weights come inside a package, or are your own"
        )
    path = _cached(card, folder)
    if path.is_file():
        _check_record(path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        _download(card.url, partial, progress)
    except (OSError, HTTPException) as error:
        raise BackboneUnavailableError(
            f"fetching {card.url} failed ({error}); check the connection and run the command again, it continues where "
            f"it stopped. Without a connection, copy the file here by other means and give its path: {card.name}:path"
        ) from error
    with atomic_path(_record_of(path)) as record:
        record.write_text(f"{sha256_of(partial)}  {path.name}\n")
    partial.rename(path)
    _tag_of(partial).unlink(missing_ok=True)
    return path


def fetched_path(card: BackboneCard, folder: Path | None = None) -> Path:
    """Where the fetched weights of `card` lie.

    Raises:
        BackboneUnavailableError: if they were not fetched, or changed since.
    """
    path = _cached(card, folder)
    if not path.is_file():
        raise BackboneUnavailableError(
            f"the weights of {card.name} are not here yet; run: mekrr backbones fetch {card.name} (it takes them from "
            f"{card.url}), or give the path of your own copy: {card.name}:path"
        )
    _check_record(path)
    return path


def recorded_hash(path: Path) -> str | None:
    """The SHA-256 recorded when `path` was fetched, None if there is no record."""
    record = _record_of(path)
    return record.read_text().split()[0] if record.is_file() else None


def _cached(card: BackboneCard, folder: Path | None) -> Path:
    folder = user_cache_path("mekrr") / "backbones" if folder is None else folder
    return folder / PurePosixPath(urlsplit(card.url).path).name


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _tag_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _check_record(path: Path) -> None:
    recorded = recorded_hash(path)
    received = sha256_of(path)
    if recorded is None:
        with atomic_path(_record_of(path)) as record:
            record.write_text(f"{received}  {path.name}\n")
    elif recorded != received:
        raise BackboneUnavailableError(
            f"{path} changed since it was fetched: SHA-256 {received}, recorded {recorded}; delete it and fetch again"
        )


def _download(url: str, partial: Path, progress: Progress | None) -> None:
    """Bring `partial` to its full length."""
    start, tag = _progress_so_far(partial)
    headers = {"Range": f"bytes={start}-", "If-Range": tag} if start and tag else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if not (start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                raise
            # Nothing follows the last byte: a kill came after it, before the file got its name.
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return
        partial.unlink()
        _download(url, partial, progress)
        return
    with answer as response:
        # 206 continues; 200 means that the server sends the whole file, because it changed or knows no ranges.
        start = start if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if not start:
            # The old part first: under a new tag it would be continued, and a kill just here would mix two files.
            partial.unlink(missing_ok=True)
        _tag_of(partial).write_text(response.headers.get("ETag", ""))
        received = _append(response, partial, start, total, progress)
    if total is not None and received != total:
        raise OSError(f"received {received} of {total} bytes")


def _progress_so_far(partial: Path) -> tuple[int, str]:
    tag = _tag_of(partial)
    return (partial.stat().st_size if partial.is_file() else 0), (tag.read_text() if tag.is_file() else "")


def _append(response: HTTPResponse, partial: Path, start: int, total: int | None, progress: Progress | None) -> int:
    """Write the response behind the first `start` bytes; the number of bytes in the file afterwards."""
    with open(partial, "ab" if start else "wb") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            start += len(chunk)
            if progress is not None:
                progress(start, total)
    return start
