"""Downloads from a local server: complete, resumed, changed at the source, offline."""

import dataclasses
import http.server
import threading

import pytest

from mekrr.backbones.fetch import fetch_weights, fetched_path, recorded_hash
from mekrr.backbones.schnet import SCHNET
from mekrr.backbones.sevennet import SEVENNET_0
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of

CONTENT = bytes(range(256)) * 20_000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; drops the connection after `server.allowance` bytes."""

    def do_GET(self):
        if not self.path.startswith("/folder/"):
            self.send_error(404)
            return
        start = 0
        if "Range" in self.headers and self.headers.get("If-Range") == self.server.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        if start >= len(CONTENT):
            self.send_response(416)
            if self.server.tells_length:
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        self.wfile.write(CONTENT[start : start + self.server.allowance])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.allowance, server.tag, server.starts, server.tells_length = len(CONTENT), '"one"', [], True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def card(server):
    return dataclasses.replace(SCHNET.card, url=f"http://127.0.0.1:{server.server_port}/folder/weights.pt")


def test_fetch_records_the_hash_and_reports_progress(card, tmp_path):
    seen = []
    path = fetch_weights(card, lambda done, total: seen.append((done, total)), tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert recorded_hash(path) == sha256_of(path)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(p.name for p in path.parent.iterdir()) == ["weights.pt", "weights.pt.sha256"]
    assert fetched_path(card, tmp_path / "cache") == path


def test_second_fetch_asks_nobody(card, server, tmp_path):
    fetch_weights(card, folder=tmp_path)
    fetch_weights(card, folder=tmp_path)
    assert len(server.starts) == 1


def test_interrupted_download_is_continued(card, server, tmp_path):
    server.allowance = 2_000_000
    with pytest.raises(BackboneUnavailableError, match="continues where it stopped"):
        fetch_weights(card, folder=tmp_path)
    server.allowance = len(CONTENT)
    assert fetch_weights(card, folder=tmp_path).read_bytes() == CONTENT
    assert server.starts == [0, 2_000_000]


def test_changed_file_is_fetched_from_the_start(card, server, tmp_path):
    server.allowance = 2_000_000
    with pytest.raises(BackboneUnavailableError):
        fetch_weights(card, folder=tmp_path)
    server.allowance, server.tag = len(CONTENT), '"two"'
    assert fetch_weights(card, folder=tmp_path).read_bytes() == CONTENT
    assert server.starts == [0, 0]


@pytest.mark.parametrize(
    ("too_much", "tells_length", "starts"),
    [(b"", True, [0, len(CONTENT)]), (b"", False, [0, len(CONTENT), 0]), (b"!", True, [0, len(CONTENT) + 1, 0])],
)
def test_a_kill_between_the_last_byte_and_the_name_is_no_obstacle(
    card, server, tmp_path, too_much, tells_length, starts
):
    """The server has nothing beyond the end (416): what is there is whole, or is fetched anew."""
    path = fetch_weights(card, folder=tmp_path)
    path.rename(tmp_path / "weights.pt.part").write_bytes(CONTENT + too_much)
    (tmp_path / "weights.pt.part.etag").write_text(server.tag)
    server.tells_length = tells_length
    assert fetch_weights(card, folder=tmp_path).read_bytes() == CONTENT
    assert server.starts == starts
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.pt", "weights.pt.sha256"]


def test_other_refusals_of_the_server_are_passed_on(card, server, tmp_path):
    path = fetch_weights(card, folder=tmp_path)
    path.unlink()
    card = dataclasses.replace(card, url=card.url.replace("/folder/", "/nothing/"))
    with pytest.raises(BackboneUnavailableError, match="404"):
        fetch_weights(card, folder=tmp_path)


def test_offline_says_what_to_do(tmp_path):
    card = dataclasses.replace(SCHNET.card, url="http://127.0.0.1:9/weights.pt")
    with pytest.raises(BackboneUnavailableError, match=r"fetching .* failed.*schnet:path"):
        fetch_weights(card, folder=tmp_path)


def test_damaged_file_is_noticed(card, tmp_path):
    path = fetch_weights(card, folder=tmp_path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(BackboneUnavailableError, match="changed since it was fetched"):
        fetched_path(card, tmp_path)


def test_not_fetched_names_the_command(tmp_path):
    with pytest.raises(BackboneUnavailableError, match="mekrr backbones fetch schnet"):
        fetched_path(SCHNET.card, tmp_path)


def test_packaged_weights_have_nothing_to_fetch():
    with pytest.raises(BackboneUnavailableError, match="nothing to fetch"):
        fetch_weights(SEVENNET_0.card)
