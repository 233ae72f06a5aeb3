"""Published files from a server on this machine that drops connections, has no ranges, or sends something else."""

import hashlib
import http.server
import importlib.util
import logging
import re
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cnnjax import formats, models
from cnnjax.errors import UserError
from cnnjax.formats import published

CONTENT = np.random.default_rng(0).bytes(3_000_000)
PUBLISHED = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if server.status:
            self.send_error(server.status)
            return
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start + server.shift if start else 0 :]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        until = server.drops.pop(0) if server.drops else len(body)
        self.wfile.write(body[:until])
        if until < len(body):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves CONTENT. asked: the Range of every request; drops: bytes after which each connection breaks."""
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(published, "_PAUSE", 0.0)
    monkeypatch.setattr(published, "_DELAY", 0.0)
    monkeypatch.setattr(published, "_CHUNK", 1000)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # a client that hangs up
        server.content, server.asked, server.drops = CONTENT, [], []
        server.ranges, server.shift, server.status = True, 0, 0
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def files(server, digest=f"sha256:{PUBLISHED}"):
    return {"it": published.File(f"http://127.0.0.1:{server.server_port}/it.h5", digest, len(CONTENT))}


def only_file_is_right(tmp_path):
    names = {path.name for path in (tmp_path / "weights").iterdir() if not path.name.endswith(".lock")}
    return names == {"it.h5"} and (tmp_path / "weights" / "it.h5").read_bytes() == CONTENT


def part(tmp_path):
    return tmp_path / "weights" / "it.h5.part"


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_fetched_once_with_a_bar_and_then_without_the_server(server, tmp_path, capsys, algorithm):
    known = files(server, f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}")
    path = published.fetch("it", known)
    assert path == tmp_path / "weights" / "it.h5"
    assert only_file_is_right(tmp_path) and server.asked == [None]
    shown = capsys.readouterr().err
    assert "it.h5: 100%" in shown and "3.00M/3.00M" in shown and "B/s" in shown
    assert published.fetch("it", known) == path
    assert server.asked == [None]


def test_a_dropped_connection_is_resumed_where_it_broke(server, tmp_path, capsys):
    server.drops = [1_000_000, 500_000]
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path)
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert "it.h5: 100%" in capsys.readouterr().err


def test_a_later_call_goes_on_where_one_was_given_up(server, tmp_path):
    server.drops = [1_200_000, 0]
    with pytest.raises(
        UserError,
        match=r"cannot download http://127.0.0.1.*no connection.*after 1.2 MB, or put it",
    ):
        published.fetch("it", files(server))
    assert part(tmp_path).read_bytes() == CONTENT[:1_200_000]
    assert not (tmp_path / "weights" / "it.h5").exists()
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path)
    assert server.asked == [None, "bytes=1200000-", "bytes=1200000-"]


def test_without_ranges_it_starts_over(server, tmp_path):
    server.ranges, server.drops = False, [1_000_000]
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path)
    assert server.asked == [None, "bytes=1000000-"]


def test_another_range_than_asked_for_is_not_taken(server, tmp_path):
    server.drops, server.shift = [1_000_000], 1000
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path)
    assert server.asked == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("left", [CONTENT[:-1][::-1], b"0" * len(CONTENT), b"0" * (len(CONTENT) + 9)])
def test_what_was_left_of_another_file_does_not_spoil_this_one(server, tmp_path, left):
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(left)
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path) and server.asked[-1] is None


def test_a_download_that_came_whole_before_a_kill_is_not_asked_for_again(server, tmp_path):
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(CONTENT)
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path) and server.asked == []


@pytest.mark.parametrize(
    "sent",
    [
        CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]),
        CONTENT[:-1000],
        CONTENT + b"more",
        b"<html>Log in first",
    ],
)
def test_a_wrong_hash_keeps_the_file_away(server, tmp_path, sent):
    server.content = sent
    with pytest.raises(UserError, match=rf"not the file that was published \(its hash is not sha256:{PUBLISHED}\)"):
        published.fetch("it", files(server))
    assert [p.name for p in (tmp_path / "weights").iterdir() if not p.name.endswith(".lock")] == []
    server.content = CONTENT
    published.fetch("it", files(server))
    assert only_file_is_right(tmp_path)


def test_a_refused_connection_says_where_to_put_which_file(server, tmp_path):
    known = files(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        published.fetch("it", known)
    assert str(caught.value) == (
        f"cannot download {known['it'].url} (no connection to the server): get it elsewhere and put it as "
        f"{tmp_path}/weights/it.h5 by hand"
    )


def test_an_unknown_host_says_so_too(server, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    known = {"it": files(server)["it"]._replace(url="http://weights.invalid/it.h5")}
    with pytest.raises(UserError, match=r"cannot download http://weights\.invalid/it\.h5 \(no connection"):
        published.fetch("it", known)


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_of_the_server_is_named(server, status):
    server.status = status
    with pytest.raises(UserError, match=f"the server says {status} "):
        published.fetch("it", files(server))
    assert len(server.asked) == 1


def test_a_silent_server_is_given_up(server, monkeypatch):
    monkeypatch.setattr(published, "_TIMEOUT", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        known = {"it": files(server)["it"]._replace(url=f"http://127.0.0.1:{silent.getsockname()[1]}/it.h5")}
        with pytest.raises(UserError, match="does not answer in time"):
            published.fetch("it", known)


def test_a_file_put_there_by_hand_needs_neither_server_nor_pooch(server, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "it.h5").write_bytes(CONTENT)
    monkeypatch.setitem(sys.modules, "pooch", None)
    published.fetch("it", files(server))
    assert server.asked == [] and only_file_is_right(tmp_path)


def test_a_damaged_file_put_there_by_hand_is_replaced_once_there_is_a_better_one(server, tmp_path, caplog):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "it.h5").write_bytes(b"damaged")
    server.status = 503
    with pytest.raises(UserError, match=r"replace the damaged .*/weights/it\.h5 by hand"):
        published.fetch("it", files(server))
    assert (tmp_path / "weights" / "it.h5").read_bytes() == b"damaged"
    server.status = 0
    with caplog.at_level(logging.WARNING):
        published.fetch("it", files(server))
    assert "it.h5 is damaged or not the file that was published: downloading it anew" in caplog.text
    assert only_file_is_right(tmp_path)


def test_without_pooch_it_says_how_to_install_it(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UserError, match=r"weights 'it' need pooch .*pip install 'cnnjax\[fetch\]', or put it as"):
        published.fetch("it", files(server))


def test_a_file_in_the_folders_place_is_one_sentence(server, tmp_path):
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*weights/it\.h5, 3 MB \(.+\): make room, or set CNNJAX_CACHE"):
        published.fetch("it", files(server))


def test_a_read_only_cache_is_one_sentence_but_serves_what_it_holds(server, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.open", refuse)  # with which the lock's file is made
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot write .* \(Read-only file system\)"):
        published.fetch("it", files(server))
    monkeypatch.undo()
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    published.fetch("it", files(server))
    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert published.fetch("it", files(server)).read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_full_disk_is_one_sentence(server, tmp_path):
    known = files(server)
    part(tmp_path).parent.mkdir()
    part(tmp_path).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"it\.h5, 3 MB \(No space left on device\): make room"):
        published.fetch("it", known)


def test_runs_that_start_together_fetch_it_once(server, tmp_path, caplog):
    threads = [threading.Thread(target=published.fetch, args=("it", files(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert only_file_is_right(tmp_path) and server.asked == [None]


def test_imagenet_is_the_file_that_the_article_used():
    assert published.FILES["imagenet"] == published.FILES["imagenet-keras"]


def test_names_that_no_file_can_have_name_no_weights():
    with pytest.raises(UserError, match="unknown weights 'xxx"):
        formats.resolve("x" * 300)
    for name in (f"folder/{'x' * 300}.pth", "a\0b.pth"):
        with pytest.raises(UserError, match="there is no weights file"):
            formats.check_exists(name)


def test_resolve_takes_nothing_a_name_or_a_path(server, tmp_path, monkeypatch):
    bundled = formats.resolve("")
    assert bundled.class_names[:2] == ("cat", "dog")
    formats.save(tmp_path / "net.safetensors", bundled)
    server.content = (tmp_path / "net.safetensors").read_bytes()
    known = published.File(
        f"http://127.0.0.1:{server.server_port}/net.safetensors",
        f"sha256:{hashlib.sha256(server.content).hexdigest()}",
        len(server.content),
    )
    for name in ("imagenet", "imagenet-notop"):
        monkeypatch.setitem(published.FILES, name, known)
    for weights in ("imagenet", str(tmp_path / "net.safetensors")):
        found = formats.resolve(weights)
        assert found.digest == bundled.digest and found.class_names == bundled.class_names
    for found in (formats.resolve("imagenet-notop"), formats.resolve("imagenet", include_top=False)):
        assert found.class_names == () and "fc1" not in found.params
        parts = found.graphdef, found.params, found.model_state
        assert models.layer_shapes(*parts, (96, 96, 3))["block5_pool"][:2] == (3, 3)
    assert server.asked == [None]
    with pytest.raises(UserError, match=r"unknown weights 'imagnet': did you mean imagenet"):
        formats.resolve("imagnet")
    with pytest.raises(UserError, match=r"there is no weights file .*lost\.h5"):
        formats.resolve("lost.h5")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"unknown weights 'imagenet-torch': did you mean imagenet-torchvision"):
        published.fetch("imagenet-torch")


def test_the_published_hashes_are_those_that_the_makers_name():
    # Read, not imported: Keras takes seconds to start.
    keras = Path(importlib.util.find_spec("keras").origin).parent / "src" / "applications" / "vgg16.py"
    source = re.sub(r'"\s+"', "", keras.read_text())
    for name in ("imagenet-keras", "imagenet-notop"):
        file = published.FILES[name]
        assert f'= (\n    "{file.url}"\n)' in source
        arguments = re.search(rf'get_file\(\s+"{re.escape(file.name)}",(.+?)\)', source, re.DOTALL)[1]
        assert f'file_hash="{file.hash.removeprefix("md5:")}"' in arguments
    torchvision = published.FILES["imagenet-torchvision"]
    digits = torchvision.name.removesuffix(".pth").rpartition("-")[2]
    assert torchvision.hash.removeprefix("sha256:").startswith(digits) and len(torchvision.hash) == 7 + 64
