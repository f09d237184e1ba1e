"""Downloading a file from where its publisher has it: what was cut off goes on, and what comes is checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from lingbot_eval import __version__
from lingbot_eval.errors import DataError, DependencyError, reason
from lingbot_eval.files.atomic import write_text, writing
from lingbot_eval.files.reading import kind_of_bytes

if TYPE_CHECKING:
    import requests

HUB = "hf://"
TIMEOUT_S = 30.0
"""Seconds without a byte, or without an answer, after which a connection counts as cut."""
PAUSE_S = 2.0
"""Seconds before the first new attempt; each further one without a byte waits as much longer."""
LONGEST_WAIT_S = 120.0
"""Seconds that a server may ask to wait before a new attempt; who asks for more is told of, and not waited for."""
_ATTEMPTS = 5  # in a row that bring no byte
_REDIRECTS = 5
_CHUNK = 1 << 18

DownloadProgress = Callable[[int, int | None], object]
"""Told the bytes that are there, and those that there will be if that is known."""


def _silent(done: int, total: int | None) -> None: ...


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    hosts: Iterable[str] = (),
    progress: DownloadProgress = _silent,
) -> None:
    """Bring the file at ``url`` to ``path``, where it appears whole and checked, or not at all.

    What came before a cut stays in ``path.part``. The next attempt, of this call or a later one, asks for the rest as
    long as the server still has the same file by its ETag, date and length.

    Args:
        url: http or https.
        path: the file to be; one that is there already is taken when its size and hash are right.
        size: bytes that it must have, if known.
        checksum: its published hash, ``sha256:…`` or ``md5:…``.
        hosts: hosts that ``url`` may redirect to, besides its own.
        progress: told how far it is.

    Raises:
        DataError: the server refuses or has something else, or does not answer after several attempts.
        StoreError: the disk refuses.
        DependencyError: pooch (extra ``fetch``) is not installed.
    """
    pooch = _pooch()
    allowed = {*hosts, urlsplit(url).hostname}
    if size is not None and path.is_file() and path.stat().st_size != size:
        path.unlink()

    def transfer(url: str, output_file: str, pooch: object) -> None:
        part = path.with_name(f"{path.name}.part")
        _bring(url, part, size, allowed, progress)
        part.replace(output_file)

    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of hashes that nobody asked for
    try:
        with writing(path):
            pooch.retrieve(url, checksum, fname=path.name, path=path.parent, downloader=transfer)
    except ValueError as error:
        raise DataError(
            f"{url}: expected {_in_words(checksum)}, found another file (removed); compare with the publisher's page"
        ) from error
    finally:
        log.setLevel(level)


def stated_size(url: str, hosts: Iterable[str] = ()) -> int | None:
    """Bytes that the server says the file has; None where it does not say, or does not answer."""
    _pooch()
    import requests

    try:
        with _opened("HEAD", url, {}, {*hosts, urlsplit(url).hostname}) as response:
            return _length(response) if response.status_code == requests.codes.ok else None
    except (DataError, _CutError):
        return None


def from_hub(address: str) -> Path:
    """The local copy of a file on the hub, in the hub's own cache, which other programs share.

    Args:
        address: ``hf://owner/repository[@revision]/file``, or ``hf://datasets/…`` of a repository of data.

    Raises:
        DataError: the address is none, or the file cannot be fetched.
        DependencyError: huggingface_hub (extra ``hub``) is not installed.
    """
    rest = address.removeprefix(HUB)
    kind = "dataset" if rest.startswith("datasets/") else None
    owner, _, rest = rest.removeprefix("datasets/").partition("/")
    repository, _, name = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not (owner and repository and name):
        raise DataError(f"{address}: expected hf://owner/repo/file or hf://owner/repo@revision/file")
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging as hub_log
    except ImportError as error:
        raise DependencyError(
            f"{address}: needs huggingface_hub; pip install 'lingbot-eval[hub]', or give a local file"
        ) from error
    verbosity = hub_log.get_verbosity()
    hub_log.set_verbosity(logging.ERROR)  # it warns of every retry; what comes of them is the one line below
    try:
        found = huggingface_hub.hf_hub_download(
            f"{owner}/{repository}", name, repo_type=kind, revision=revision or None
        )
        return Path(found)
    except Exception as error:  # of the hub, of its HTTP library and of the system: they have no base in common
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{address}: could not be fetched from the hub ({why}); check the address and the network, "
            "or give a local file"
        ) from error
    finally:
        hub_log.set_verbosity(verbosity)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file. Raises OSError."""
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def check_file(
    path: Path, address: str, size: int | None, checksum: str | None, sha256: Callable[[Path], str] = file_sha256
) -> None:
    """Raises DataError when the file from ``address`` has another size or hash; OSError when it cannot be read.

    checksum: ``sha256:…`` or ``md5:…``. sha256: what hashes a file, or remembers.
    """
    there = path.stat().st_size
    wrong = "remove that file and fetch it again"
    if size is not None and there != size:
        raise DataError(f"expected the {size:,} bytes of {address}, found {there:,} in {path}; {wrong}")
    if checksum is None:
        return
    algorithm, _, expected = checksum.partition(":")
    found = sha256(path) if algorithm == "sha256" else _digest(path, algorithm)
    if found != expected:
        raise DataError(f"expected {_in_words(checksum)} of {address}, found {found} in {path}; {wrong}")


def _in_words(checksum: str | None) -> str:
    algorithm, _, value = (checksum or "").partition(":")
    return f"{'SHA-256' if algorithm == 'sha256' else algorithm.upper()} {value}"


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise DependencyError("downloads need pooch; pip install 'lingbot-eval[fetch]'") from error
    return pooch


class _CutError(Exception):
    """The connection ended early, or never came to be; what has arrived stays.

    wait: seconds that the server asks for.
    """

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class _Version:
    """What tells a file on a server from a later one under the same address."""

    url: str
    length: int | None
    etag: str | None
    last_modified: str | None


def _bring(url: str, part: Path, size: int | None, hosts: set[str | None], progress: DownloadProgress) -> None:
    """Fill ``part``, in as many attempts as bring something."""
    idle = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            return _receive(url, part, size, hosts, progress)
        except _CutError as error:
            after = part.stat().st_size if part.is_file() else 0
            idle = 0 if after > before else idle + 1
            if idle >= _ATTEMPTS or error.wait > LONGEST_WAIT_S:
                kept = f"the {after:,} bytes that came are kept: " if after else ""
                raise DataError(f"{url}: {error}; {kept}run the same command again") from error
            time.sleep(max(error.wait, PAUSE_S * (1 + idle)))


def _receive(url: str, part: Path, size: int | None, hosts: set[str | None], progress: DownloadProgress) -> None:
    """One attempt. Raises _CutError when another may bring more."""
    from urllib3.exceptions import HTTPError

    state = part.with_name(f"{part.name}.json")
    known = _known(state)
    have = part.stat().st_size if known is not None and part.is_file() else 0
    # Not with If-Range: to that a server answers without the date, which is then not there to compare.
    headers = {"Range": f"bytes={have}-"} if have else {}
    with _opened("GET", url, headers, hosts) as response:
        status = response.status_code
        if status == 416 and known is not None and have == known.length:
            state.unlink()
            return
        if status in (206, 416) and have:
            start, total = _range(response)
            found = _version(url, response, total)
            if status == 416 or start != have or found != known:
                part.unlink()
                raise _CutError("the file on the server changed meanwhile")
        elif status == 200:
            have = 0
            found = _version(url, response, _length(response))
        else:
            raise _refusal(url, response)
        _refuse_other(url, response)
        if size is not None and found.length not in (None, size):
            raise DataError(
                f"{url}: expected {size:,} bytes as the card says, the server has {found.length:,}; "
                "compare with the publisher's page"
            )
        write_text(state, json.dumps(asdict(found)))
        most = size if found.length is None else found.length
        # Errors of the network are no OSError here: urllib3's are its own.
        with writing(part), part.open("r+b" if have else "wb") as stream:
            stream.seek(have)
            try:
                # As it is sent, not as requests would decode it: a compressed archive is to stay one.
                for piece in response.raw.stream(_CHUNK, decode_content=False):
                    if not have and (kind_of_bytes(piece[:1024]) or "").startswith("an HTML page"):
                        part.unlink()
                        raise DataError(_WEB_PAGE.format(url))
                    have += stream.write(piece)
                    progress(have, most)
                    if most is not None and have > most:
                        part.unlink()
                        raise DataError(f"{url}: expected {most:,} bytes, the server sends more")
            except HTTPError as error:
                of = "" if most is None else f" of {most:,}"
                raise _CutError(f"the connection ended after {have:,}{of} bytes") from error
    if most is not None and have < most:
        raise _CutError(f"the connection ended after {have:,} of {most:,} bytes")
    state.unlink()


@contextlib.contextmanager
def _opened(method: str, url: str, headers: dict[str, str], hosts: set[str | None]) -> Iterator[requests.Response]:
    """The answer of ``url``, followed where it redirects to hosts that are allowed."""
    import requests

    # As they are: a server that compresses what is compressed would make the length another.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"lingbot-eval/{__version__}", **headers}
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(requests.Session())
        at = url
        for _ in range(_REDIRECTS + 1):
            try:
                response = session.request(
                    method, at, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=False
                )
            except requests.RequestException as error:
                raise _CutError(f"no answer ({reason(error)})") from error
            stack.callback(response.close)
            if not response.is_redirect:
                yield response
                return
            following = urljoin(at, response.headers["Location"])
            scheme, host = urlsplit(following).scheme, urlsplit(following).hostname
            if scheme not in ("http", "https") or (scheme == "http" and urlsplit(at).scheme == "https"):
                raise DataError(f"{url}: refused: it redirects to {following[:200]}, which is not https")
            if host not in hosts:
                raise DataError(
                    f"{url}: refused: it redirects to {host}, which the card does not name; see the dataset's page"
                )
            at = following
        raise DataError(f"{url}: it redirects more than {_REDIRECTS} times")


def _known(state: Path) -> _Version | None:
    """What an earlier attempt noted of the file; None where that is nothing."""
    try:
        return _Version(**json.loads(state.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _version(url: str, response: requests.Response, length: int | None) -> _Version:
    return _Version(url, length, response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and bytes in all, as ``Content-Range`` has them."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    start, total = found.groups()
    return (None if start is None else int(start)), (None if total == "*" else int(total))


_WEB_PAGE = "{}: expected a file, found a web page (a login or form?); see the dataset's page"


def _refuse_other(url: str, response: requests.Response) -> None:
    """Raises DataError for a web page, and for a file that the server packs although nobody asked for that."""
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise DataError(_WEB_PAGE.format(url))
    packed = response.headers.get("Content-Encoding", "identity").lower()
    # Of a .tgz some servers say so of the file itself, which is then as it should be.
    if packed not in ("", "identity") and not urlsplit(url).path.lower().endswith((".gz", ".tgz")):
        raise DataError(
            f"{url}: expected the file as it is, the server packs it on the way ({packed[:20]}), where it can neither"
            " be continued nor compared; fetch it by hand"
        )


def _asked_wait(response: requests.Response) -> float:
    """Seconds of ``Retry-After``, which has a number or a date; 0 without one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):  # no date, or one without a time zone
        return 0.0


def _refusal(url: str, response: requests.Response) -> Exception:
    status = response.status_code
    if status == 429 or status >= 500:
        wait = _asked_wait(response)
        asks = f" and asks to come back in {wait:.0f} s" if wait else ""
        return _CutError(f"the server answers HTTP {status}{asks}", wait)
    why = {401: " (it wants a login)", 403: " (forbidden: a login, a form, or not from here)", 404: " (not there)"}
    return DataError(f"{url}: expected the file, found HTTP {status}{why.get(status, '')}; see the dataset's page")
