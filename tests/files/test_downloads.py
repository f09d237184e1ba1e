"""Downloads from a server that cuts, refuses, redirects and changes its files."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from lingbot_eval.errors import DataError, DependencyError, StoreError
from lingbot_eval.files import downloads
from lingbot_eval.files.downloads import check_file, download, from_hub, stated_size
from tests.support.file_server import FileServer, Served, file_server

pytest.importorskip("pooch")
import requests  # comes with pooch

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    with file_server() as found:
        found.files["/a.zip"] = Served(CONTENT)
        yield found


def get(server: FileServer, folder: Path, path: str = "/a.zip", **wanted: object) -> bytes:
    target = folder / "a.zip"
    download(f"{server.address}{path}", target, **wanted)  # type: ignore[arg-type]
    assert sorted(each.name for each in folder.iterdir()) == ["a.zip"]
    return target.read_bytes()


def test_a_file_arrives_once_and_is_told_of(server: FileServer, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    wanted = {"size": len(CONTENT), "checksum": f"sha256:{SHA256}"}
    assert get(server, tmp_path, progress=lambda *each: told.append(each), **wanted) == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert get(server, tmp_path, **wanted) == CONTENT
    assert server.asked == [("GET", "/a.zip", None)]


def test_what_was_cut_goes_on_where_it_was(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.zip"] = Served(CONTENT, cut=1_000_000, cuts=2)
    assert get(server, tmp_path) == CONTENT
    assert server.ranges("/a.zip") == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_later_call_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.zip"] = Served(CONTENT, cut=0, cuts=100)
    with pytest.raises(DataError, match=r"the connection ended after 0 of 3,000,000 bytes; run the same command again"):
        get(server, tmp_path)
    server.files["/a.zip"] = Served(CONTENT, cut=1_200_000)
    server.files["/b.zip"] = Served(b"other")

    def stop(done: int, total: int | None) -> None:
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, progress=stop)
    have = (tmp_path / "a.zip.part").stat().st_size
    assert 900_000 < have < 1_300_000
    server.asked.clear()
    assert get(server, tmp_path) == CONTENT
    assert server.ranges("/a.zip")[0] == f"bytes={have}-"


@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', None])
@pytest.mark.parametrize("modified", ["Mon, 01 Jan 2024 00:00:00 GMT", None])
def test_a_file_that_changed_between_two_parts_is_fetched_anew(
    server: FileServer, tmp_path: Path, etag: str | None, modified: str | None
) -> None:
    """By ETag, by date, by length: one of them at least is another."""
    server.files["/a.zip"] = Served(CONTENT, cut=1_000_000, etag=etag, modified=modified)
    changed = Served(CONTENT[::-1] + b"x", etag=etag and etag.replace("1", "2"), modified=modified and "Tue, 02 Jan")

    def change(done: int, total: int | None) -> None:
        if total == len(CONTENT):
            server.files["/a.zip"] = changed

    assert get(server, tmp_path, progress=change) == changed.content


def test_a_part_of_another_address_is_no_beginning(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"?" * 1000)
    state = {"url": "http://elsewhere/a.zip", "length": len(CONTENT), "etag": '"1"', "last_modified": None}
    for text in (json.dumps(state), "no JSON", "[]"):
        (tmp_path / "a.zip.part.json").write_text(text)
        assert get(server, tmp_path) == CONTENT
        (tmp_path / "a.zip").unlink()
        (tmp_path / "a.zip.part").write_bytes(b"?" * 1000)


def test_a_server_without_ranges_begins_again(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.zip"] = Served(CONTENT, cut=1_000_000, ranges=False)
    assert get(server, tmp_path) == CONTENT
    assert server.ranges("/a.zip") == [None, "bytes=1000000-"]


def test_a_server_that_stalls_is_left(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.2)
    server.files["/a.zip"] = Served(CONTENT, stall=1.0)
    assert get(server, tmp_path) == CONTENT
    first, second = server.ranges("/a.zip")
    assert first is None
    assert second is not None
    assert 1_000_000 < int(second[6:-1]) <= 1_500_000


REFUSED = {
    "size": (Served(CONTENT), {"size": 17}, "expected 17 bytes as the card says, the server has 3,000,000"),
    "hash": (Served(CONTENT), {"checksum": "sha256:" + "0" * 64}, "expected SHA-256 000000"),
    "more than it said": (Served(b"ab", stated=5), {"size": 2}, "the server has 5"),
    "403": (Served(status=403), {}, r"found HTTP 403 (forbidden: a login, a form, or not from here)"),
    "404": (Served(status=404), {}, "found HTTP 404 (not there)"),
    "a busy server": (Served(status=503), {}, "the server answers HTTP 503; run the same command again"),
    "a page": (Served(b"<html>", kind="text/html; charset=utf-8"), {}, "found a web page (a login or form?)"),
    "a page in capitals": (Served(b"x", kind="Text/HTML"), {}, "found a web page (a login or form?)"),
    "a page that calls itself a file": (
        Served(b"\n<!DOCTYPE html><title>Virus scan warning</title>"),
        {},
        "found a web page (a login or form?)",
    ),
    "packed on the way": (
        Served(CONTENT, headers={"Content-Encoding": "gzip"}),
        {},
        "expected the file as it is, the server packs it on the way (gzip)",
    ),
    "file": (Served(location="file:///etc/passwd"), {}, "it redirects to file:///etc/passwd"),
    "another host": (Served(location="http://localhost:1/a.zip"), {}, "it redirects to localhost, which the card"),
    "a circle": (Served(location="/a.zip"), {}, "redirects more than 5 times"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_no_file(server: FileServer, tmp_path: Path, name: str) -> None:
    served, wanted, says = REFUSED[name]
    server.files["/a.zip"] = served
    with pytest.raises(DataError) as refusal:
        get(server, tmp_path, **wanted)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "a.zip").exists()


def test_redirects_that_the_card_names_are_followed(server: FileServer, tmp_path: Path) -> None:
    server.files["/old.zip"] = Served(location="/a.zip")
    assert get(server, tmp_path, "/old.zip") == CONTENT
    (tmp_path / "a.zip").unlink()
    server.files["/far.zip"] = Served(location=server.address.replace("127.0.0.1", "localhost") + "/a.zip")
    assert get(server, tmp_path, "/far.zip", hosts=["localhost"]) == CONTENT
    assert stated_size(f"{server.address}/old.zip") == len(CONTENT)
    assert stated_size(f"{server.address}/none.zip") is None
    assert stated_size(f"{server.address}/far.zip") is None


@pytest.mark.parametrize(("times", "arrives"), [(5, True), (6, False)])
def test_as_many_redirects_are_followed_as_is_said(
    server: FileServer, tmp_path: Path, times: int, arrives: bool
) -> None:
    for hop in range(times):
        server.files[f"/{hop}.zip"] = Served(location=f"/{hop + 1}.zip")
    server.files[f"/{times}.zip"] = Served(CONTENT)
    if arrives:
        assert get(server, tmp_path, "/0.zip") == CONTENT
        return
    with pytest.raises(DataError, match=r"/0\.zip: it redirects more than 5 times"):
        get(server, tmp_path, "/0.zip")


def test_a_redirect_without_a_host_is_on_the_host_that_sent_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    leads = {"https://a.org/old.zip": "https://b.org/in/a.zip", "https://b.org/in/a.zip": "b.zip"}

    def answer(session: requests.Session, method: str, url: str, **settings: object) -> requests.Response:
        asked.append(url)
        found = requests.Response()
        found.raw, found.status_code = io.BytesIO(), 302 if url in leads else 404
        found.headers.update({"Location": leads[url]} if url in leads else {})
        return found

    monkeypatch.setattr(requests.Session, "request", answer)
    with pytest.raises(DataError, match="HTTP 404"):
        download("https://a.org/old.zip", tmp_path / "a.zip", hosts=["b.org"])
    assert asked == [*leads, "https://b.org/in/b.zip"]


def test_no_redirect_leaves_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(session: requests.Session, method: str, url: str, **settings: object) -> requests.Response:
        found = requests.Response()
        found.raw = io.BytesIO()
        found.status_code, found.headers["Location"] = 302, "http://example.org/a.zip"
        return found

    monkeypatch.setattr(requests.Session, "request", answer)
    with pytest.raises(DataError, match=r"redirects to http://example.org/a.zip, which is not https"):
        download("https://example.org/a.zip", tmp_path / "a.zip")


def test_a_file_of_another_size_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"half of it")
    assert get(server, tmp_path, size=len(CONTENT)) == CONTENT


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    with file_server() as gone:
        pass
    with pytest.raises(DataError, match=r"no answer .*; run the same command again") as refusal:
        download(f"{gone.address}/a.zip", tmp_path / "a.zip")
    assert "\n" not in str(refusal.value)


def test_a_full_disk_keeps_what_came(server: FileServer, tmp_path: Path) -> None:
    """The process may write files of 1 MB: the system refuses the rest as it does on a full disk."""
    code = (
        "import resource, signal, sys; from lingbot_eval.files.downloads import download; from pathlib import Path\n"
        "from lingbot_eval.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: download(sys.argv[1], Path(sys.argv[2]))\n"
        "except StoreError as error: sys.exit(str(error))"
    )
    words = [sys.executable, "-c", code, f"{server.address}/a.zip", str(tmp_path / "a.zip")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "cannot write" in ended.stderr
    assert "free space" in ended.stderr
    assert (tmp_path / "a.zip.part").stat().st_size == 1 << 20
    assert get(server, tmp_path) == CONTENT
    assert server.ranges("/a.zip") == [None, "bytes=1048576-"]


def test_a_killed_download_goes_on(server: FileServer, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from lingbot_eval.files.downloads import download; from pathlib import Path\n"
        "def kill(done, total): done > 1_000_000 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "download(sys.argv[1], Path(sys.argv[2]), progress=kill)"
    )
    words = [sys.executable, "-c", code, f"{server.address}/a.zip", str(tmp_path / "a.zip")]
    assert subprocess.run(words, timeout=60, check=False).returncode == -9
    for left in tmp_path.glob("tmp*"):  # pooch's own, empty
        assert left.stat().st_size == 0
        left.unlink()
    have = (tmp_path / "a.zip.part").stat().st_size
    assert have > 500_000
    assert get(server, tmp_path) == CONTENT
    assert server.ranges("/a.zip")[-1] == f"bytes={have}-"


def test_without_pooch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DependencyError, match=r"pip install 'lingbot-eval\[fetch\]'"):
        download("http://127.0.0.1:1/a.zip", tmp_path / "a.zip")


def test_a_folder_that_cannot_be_written_is_one_line(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        download(f"{server.address}/a.zip", tmp_path / "file" / "a.zip")
    assert threading.active_count() < 20
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


@pytest.mark.parametrize(("status", "comes"), [(429, True), (500, True), (401, False), (410, False)])
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, comes: bool
) -> None:
    """Five attempts in a row that bring nothing, each after a longer wait."""
    waits: list[float] = []
    monkeypatch.setattr(downloads, "PAUSE_S", 2.0)
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    server.files["/a.zip"] = Served(status=status)
    with pytest.raises(DataError, match=f"HTTP {status}") as refusal:
        get(server, tmp_path)
    assert waits == ([4.0, 6.0, 8.0, 10.0] if comes else [])
    assert len(server.asked) == (5 if comes else 1)
    assert ("(it wants a login)" in str(refusal.value)) == (status == 401)


FAR = "Mon, 20 Nov 99999999999999999999 19:12:08 GMT"  # no clock has such a year


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("30", [30.0] * 4),
        ("7", [7.0, 7.0, 8.0, 10.0]),
        ("soon", [4.0, 6.0, 8.0, 10.0]),
        (FAR, [4.0, 6.0, 8.0, 10.0]),
        ("86400", []),
    ],
)
def test_a_server_is_given_the_time_that_it_asks_for(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, waited: list[float]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads, "PAUSE_S", 2.0)
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    server.files["/a.zip"] = Served(status=429, headers={"Retry-After": asked})
    with pytest.raises(DataError, match="HTTP 429") as refusal:
        get(server, tmp_path)
    assert waits == waited
    assert ("asks to come back in 86400 s; run the same command again" in str(refusal.value)) == (not waited)


def test_a_date_to_come_back_at_is_waited_for(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.files["/a.zip"] = Served(status=503, headers={"Retry-After": date})
    with pytest.raises(DataError, match="HTTP 503 and asks to come back in"):
        get(server, tmp_path)
    assert all(50 < wait < 61 for wait in waits)
    assert len(waits) == 4


def test_a_packed_archive_that_a_server_calls_packed_is_taken_as_it_is(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.tgz"] = Served(CONTENT, headers={"Content-Encoding": "x-gzip"})
    assert get(server, tmp_path, "/a.tgz") == CONTENT


def test_attempts_that_bring_something_are_not_counted(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads, "PAUSE_S", 2.0)
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    server.files["/a.zip"] = Served(CONTENT, cut=400_000, cuts=7)
    assert get(server, tmp_path) == CONTENT
    assert waits == [2.0] * 7


def test_a_file_is_held_to_its_size_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"content")
    md5, sha256 = hashlib.md5(b"content").hexdigest(), hashlib.sha256(b"content").hexdigest()
    for checksum in (None, f"md5:{md5}", f"sha256:{sha256}"):
        check_file(path, "there", 7, checksum)
        check_file(path, "there", None, checksum)
    with pytest.raises(DataError, match=f"expected MD5 0+ of there, found {md5} in .*a.zip; remove that file"):
        check_file(path, "there", 7, "md5:" + "0" * 32)
    with pytest.raises(DataError, match=f"expected SHA-256 0+ of there, found {sha256} in"):
        check_file(path, "there", 7, "sha256:" + "0" * 64)
    with pytest.raises(DataError, match="expected the 8 bytes of there, found 7 in"):
        check_file(path, "there", 8, f"md5:{md5}")
    # A memory of hashes is asked for SHA-256 alone.
    check_file(path, "there", 7, "sha256:remembered", lambda _: "remembered")
    check_file(path, "there", 7, f"md5:{md5}", lambda _: "remembered")


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("hf://owner/repo/file.bin", ("owner/repo", "file.bin", None, None)),
        ("hf://owner/repo@v1/in/folders/file.bin", ("owner/repo", "in/folders/file.bin", None, "v1")),
        ("hf://owner/repo@/file.bin", ("owner/repo", "file.bin", None, None)),
        ("hf://datasets/owner/repo@v1/file.bin", ("owner/repo", "file.bin", "dataset", "v1")),
        ("hf://datasets/owner/repo/file.bin", ("owner/repo", "file.bin", "dataset", None)),
    ],
)
def test_addresses_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, asked: tuple[object, ...]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    seen: list[object] = []

    def fetch(repository: str, name: str, *, repo_type: str | None, revision: str | None) -> str:
        seen.extend([(repository, name, repo_type, revision), hub.utils.logging.get_verbosity()])
        if revision is None:
            raise ConnectionError
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    before = hub.utils.logging.get_verbosity()
    hub.utils.logging.set_verbosity(logging.INFO)
    try:
        if asked[3] is None:
            with pytest.raises(DataError, match=r"could not be fetched from the hub \(ConnectionError\)"):
                from_hub(address)
        else:
            assert from_hub(address) == tmp_path / str(asked[1])
        # It is quiet meanwhile, and as it was afterwards.
        assert seen == [asked, logging.ERROR]
        assert hub.utils.logging.get_verbosity() == logging.INFO
    finally:
        hub.utils.logging.set_verbosity(before)


@pytest.mark.parametrize("address", ["hf://owner/repo", "hf://owner", "hf://owner//file", "hf://datasets/owner/file"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(DataError, match=r"expected hf://owner/repo/file or hf://owner/repo@revision/file"):
        from_hub(address)


def test_pooch_is_quiet_meanwhile_and_as_it_was_afterwards(server: FileServer, tmp_path: Path) -> None:
    import pooch

    log, seen = pooch.get_logger(), []
    before = log.level
    log.setLevel(logging.INFO)
    try:
        get(server, tmp_path, progress=lambda *_: seen.append(log.level))
        assert set(seen) == {logging.ERROR}
        assert log.level == logging.INFO
    finally:
        log.setLevel(before)


def answered(
    monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], body: bytes, fails: Exception | None = None
) -> None:
    """Whoever asks is answered so."""

    def request(session: requests.Session, method: str, url: str, **settings: object) -> requests.Response:
        found = requests.Response()

        def stream(size: int, decode_content: bool) -> Iterator[bytes]:
            yield body
            if fails is not None:
                raise fails

        found.raw = SimpleNamespace(stream=stream, close=lambda: None, release_conn=lambda: None)
        found.status_code, found.url = status, url
        found.headers.update(headers)
        return found

    monkeypatch.setattr(requests.Session, "request", request)


def test_a_part_that_is_all_there_is_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was cut off after its last byte: the server has nothing left to send."""
    state = {"url": "http://x/a.zip", "length": 4, "etag": '"1"', "last_modified": None}
    (tmp_path / "a.zip.part").write_bytes(b"done")
    (tmp_path / "a.zip.part.json").write_text(json.dumps(state))
    answered(monkeypatch, 416, {}, b"")
    download("http://x/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"done"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("part", "status", "range", "says"),
    [
        (b"12", 206, "bytes 0-1/4", "expected the file, found HTTP 206"),  # the beginning in place of the rest
        (b"12345", 416, "bytes */4", "expected the file, found HTTP 416"),  # more is here than there ever was
    ],
)
def test_what_is_no_rest_of_a_part_is_not_put_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: bytes, status: int, range: str, says: str
) -> None:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    state = {"url": "http://x/a.zip", "length": 4, "etag": '"1"', "last_modified": None}
    (tmp_path / "a.zip.part").write_bytes(part)
    (tmp_path / "a.zip.part.json").write_text(json.dumps(state))
    answered(monkeypatch, status, {"Content-Range": range, "ETag": '"1"'}, b"12")
    with pytest.raises(DataError, match=says):
        download("http://x/a.zip", tmp_path / "a.zip")
    assert not {"a.zip", "a.zip.part"} & {path.name for path in tmp_path.iterdir()}


def test_a_server_that_sends_more_than_it_said_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, 200, {"Content-Length": "4"}, b"12345")
    with pytest.raises(DataError, match="expected 4 bytes, the server sends more"):
        download("http://x/a.zip", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip.part").exists()
    answered(monkeypatch, 200, {}, b"12345")
    with pytest.raises(DataError, match="expected 3 bytes, the server sends more"):
        download("http://x/a.zip", tmp_path / "a.zip", size=3)


def test_a_server_that_ends_early_without_a_word_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    answered(monkeypatch, 200, {"Content-Length": "4"}, b"12")
    with pytest.raises(
        DataError, match=r"the connection ended after 2 of 4 bytes; the 2 bytes that came are kept: run"
    ):
        download("http://x/a.zip", tmp_path / "a.zip")
    # A part of which the server does not say which part it is may be any other.
    answered(monkeypatch, 206, {}, b"34")
    with pytest.raises(DataError, match="expected the file, found HTTP 206"):
        download("http://x/a.zip", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip.part").exists()
