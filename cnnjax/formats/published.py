"""The published weights of VGG16 on ImageNet: downloaded once, verified, and kept in the cache folder.

pooch makes the temporary file, verifies the hash and only then gives the file its name. Its own download starts over
when the connection breaks, so `_Download` replaces it: what was received stays in NAME.part, and the rest is requested
by an HTTP range, in the same call or a later one. A file that was put into the folder by hand is verified and used; it
needs neither a network nor pooch.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cnnjax import runtime
from cnnjax.errors import UserError, unknown

logger = logging.getLogger(__name__)

_TIMEOUT = (10, 60)  # seconds to connect, and without a byte
_DELAY = 0.5  # seconds before there is a bar: none where there is no network
_PAUSE = 1.0  # seconds before the rest is asked for
_CHUNK = 2**16  # bytes; less than one is lost when a connection breaks


class File(NamedTuple):
    """A file as its makers publish it. hash: "algorithm:hex digits"; size: bytes."""

    url: str
    hash: str
    size: int

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels"
FILES: dict[str, File] = {
    "imagenet-keras": File(f"{_KERAS}.h5", "md5:64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
    "imagenet-notop": File(f"{_KERAS}_notop.h5", "md5:6d6bbae143d832006294945121d1f1fc", 58_889_256),
    "imagenet-torchvision": File(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
    ),
}
"""The names that `formats.resolve` accepts beside a path.

Keras publishes MD5 sums (keras/src/applications/vgg16.py) and no SHA-256: they detect any damage, and no method is
known to make another file with the MD5 sum of a given one. torchvision publishes the first eight digits of the SHA-256
in the file's name; the other digits are those on which projects that pin the file agree.
"""
# Simonyan and Zisserman's own parameters: filter 40 of block3_conv3 is the article's. torchvision trained anew.
FILES["imagenet"] = FILES["imagenet-keras"]


def folder() -> Path:
    """The folder of downloaded weights."""
    return runtime.cache_dir() / "weights"


def fetch(name: str, files: Mapping[str, File] = FILES) -> Path:
    """The path of the file that `name` stands for, its hash verified; downloaded if it is not in the cache folder.

    Raises UserError for an unknown name, and if the file cannot be downloaded, is not what was published, or cannot be
    written; each message says where the file can be put by hand.
    """
    if name not in files:
        raise unknown("weights", name, files)
    file = files[name]
    path = folder() / file.name
    if _is_right(path, file):
        return path
    by_hand = f"{'replace the damaged' if path.exists() else 'put it as'} {path} by hand"
    try:
        import filelock
        import pooch
        import requests
    except ImportError as error:
        raise UserError(
            f"weights {name!r} need {error.name} to download {file.url}: pip install 'cnnjax[fetch]', or {by_hand}"
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(filelock, path):
            if not _is_right(path, file):
                pooch.get_logger().setLevel(logging.WARNING)
                _retrieve(pooch, path, file)
                print(f"fetched {path}")
    except requests.RequestException as error:
        kept = _length(_part(path))
        on = f"run this again to continue after {kept / 1e6:.1f} MB, or " if kept else "get it elsewhere and "
        raise UserError(f"cannot download {file.url} ({_reason(requests, error)}): {on}{by_hand}") from None
    except OSError as error:
        raise UserError(
            f"cannot write {path}, {file.size / 1e6:.0f} MB ({error.strerror or error}): make room, or set "
            "CNNJAX_CACHE to a folder that you may write to"
        ) from None
    except ValueError:  # pooch's word for a wrong hash; it has deleted what came
        raise UserError(
            f"what {file.url} sent is not the file that was published (its hash is not {file.hash}) and was deleted: "
            f"try again later, or {by_hand}"
        ) from None
    return path


def _retrieve(pooch: Any, path: Path, file: File) -> None:
    kept = _part(path).exists()
    if path.exists():
        logger.warning("%s is damaged or not the file that was published: downloading it anew", path)
    try:
        pooch.retrieve(file.url, file.hash, path.name, path.parent, downloader=_Download(_part(path), file.size))
    except ValueError:
        if not kept:
            raise
        _retrieve(pooch, path, file)  # what an earlier run left was another file's, and is deleted now


class _Download(NamedTuple):
    """A downloader for pooch that continues after what `part` holds, as long as every attempt receives something."""

    part: Path
    size: int

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        import requests

        breaks = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        name = url.rpartition("/")[2]
        came = _length(self.part)
        with tqdm(desc=name, total=self.size, initial=came, unit="B", unit_scale=True, delay=_DELAY) as bar:
            while (start := _length(self.part)) < self.size:
                try:
                    self._more(url, start, bar)
                except breaks:
                    if _length(self.part) <= start:
                        raise
                    time.sleep(_PAUSE)
                if _length(self.part) <= start:
                    break  # the server has no more: the hash will be wrong
        self.part.replace(output_file)

    def _more(self, url: str, start: int, bar: tqdm) -> None:
        import requests

        # A range counts bytes as they are sent, so nothing may be compressed on the way.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if start and response.status_code == 416:
                return
            response.raise_for_status()
            # A server without ranges sends the whole file, with status 200; one may send another range than asked for.
            partial = response.status_code == 206
            goes_on = partial and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if start and partial and not goes_on:
                self.part.unlink()
                self._more(url, 0, bar)
                return
            if bar.n and not goes_on:
                bar.reset()
                bar.initial = 0
            with self.part.open("ab" if goes_on else "wb") as out:
                for chunk in response.iter_content(_CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))


def _is_right(path: Path, file: File) -> bool:
    """Whether the file is there, with the published hash."""
    if not path.is_file():
        return False
    algorithm, _, digits = file.hash.partition(":")
    try:
        with path.open("rb") as contents:
            return hashlib.file_digest(contents, algorithm).hexdigest() == digits
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check its permissions") from None


def _alone(filelock: Any, path: Path) -> Any:
    """A lock on the download: runs that start together fetch it once."""
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.warning("another process is downloading %s: waiting for it", path.name)
        return lock.acquire()


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(requests: Any, error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    return "no connection to the server"
