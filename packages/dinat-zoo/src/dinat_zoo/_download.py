"""Files at plain URLs: a cache whose contents are verified, and downloads that resume.

Nobody published hashes of the authors' files, so the first copy's sha256 is recorded beside it, as `sha256sum -c` reads
it, and every later use and download is held to the record.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import tqdm

from dinat_zoo._weights_file import WeightsError, examine, first_line

ATTEMPTS = 4  # without a byte of progress
BACKOFF = 1.0  # seconds before the second attempt, doubled for each one after
TIMEOUT = 15.0  # seconds without an answer
_CHUNK = 1 << 20
_TRANSIENT = (408, 416, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def cached(url: str, cache_dir: str | Path | None = None) -> Path:
    """A local, verified copy of a file, downloaded if there is none; any number of processes may ask at once.

    Args:
        url: http, https or file. With `DINAT_ZOO_MIRROR` set to a URL or a directory, its path is looked up there.
        cache_dir: where copies lie; `DINAT_ZOO_CACHE` by default, and else `dinat_zoo` in torch.hub's `checkpoints`.

    Returns:
        The copy's path: below the cache, the URL's host and path.

    Raises:
        WeightsError: if it cannot be had, is no file of weights, or differs from what was recorded of it.
    """
    copy = cache_path(url, cache_dir)
    if copy.exists():
        _verify(copy, copy)
        return copy
    source = mirrored(url)
    if is_offline() and not source.startswith("file:"):
        raise WeightsError(f"{url} is not in the cache, and this is offline; its place there is {str(copy)!r}")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(copy.with_name(copy.name + ".lock")):
            if copy.exists():  # another process was faster
                _verify(copy, copy)
                return copy
            part = copy.with_name(copy.name + ".part")
            _transfer(source, part)
            try:
                examine(part)
                _verify(part, copy)
            except WeightsError as error:
                part.unlink()
                raise WeightsError(f"{source} gave something else than expected: {error}") from error
            part.replace(copy)
            _validator(part).unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot keep {url} in {str(copy.parent)!r}: {first_line(error)}") from error
    return copy


def cache_path(url: str, cache_dir: str | Path | None = None) -> Path:
    """Where the cache has, or would have, the copy of a URL."""
    if cache_dir is None:
        cache_dir = os.environ.get("DINAT_ZOO_CACHE") or Path(torch.hub.get_dir()) / "checkpoints" / "dinat_zoo"
    parts = urlsplit(url)
    names = [name for name in PurePosixPath(unquote(parts.path)).parts if name != "/"]
    if not names or ".." in names:
        raise WeightsError(f"{url!r} names no file")
    if parts.query:
        names[-1] += "-" + hashlib.sha256(parts.query.encode()).hexdigest()[:8]
    return Path(cache_dir).joinpath(parts.netloc.rpartition("@")[2] or "localhost", *names)


def mirrored(url: str) -> str:
    """The URL to read, which is another one where `DINAT_ZOO_MIRROR` is set."""
    mirror = os.environ.get("DINAT_ZOO_MIRROR")
    if not mirror or url.startswith("file:"):
        return url
    if "://" not in mirror:
        mirror = Path(mirror).expanduser().resolve().as_uri()
    return mirror.rstrip("/") + urlsplit(url).path


def is_offline() -> bool:
    """Whether `DINAT_ZOO_OFFLINE` or Hugging Face's `HF_HUB_OFFLINE` forbids the network."""
    own = os.environ.get("DINAT_ZOO_OFFLINE", "").lower()
    return own in ("1", "true", "yes", "on") or bool(constants.HF_HUB_OFFLINE)


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _verify(path: Path, copy: Path) -> None:
    """Hold a file to the digest recorded for the cache's copy, or record it if it is the first."""
    record = copy.with_name(copy.name + ".sha256")
    actual = sha256(path)
    if not record.exists():
        fresh = record.with_name(f"{record.name}.{os.getpid()}")
        fresh.write_text(f"{actual}  {copy.name}\n")
        fresh.replace(record)
        return
    expected = record.read_text().split(maxsplit=1)[0]
    if actual != expected:
        raise WeightsError(
            f"the sha256 of {str(path)!r} is {actual}, but {expected} was recorded at its first use: it is damaged or "
            f"was replaced. Remove it to download it again; remove {str(record)!r} to accept what is new"
        )


def _transfer(url: str, part: Path) -> None:
    """Complete the partial file, in as many attempts as make progress."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part)
            return
        except HTTPError as error:
            error.close()
            if error.code not in _TRANSIENT:
                raise WeightsError(f"cannot download {url}: {first_line(error)}") from error
            if error.code == 416:  # the part is not of this file
                part.unlink(missing_ok=True)
            failure: Exception = error
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            failure = error
        failures = 0 if _size(part) > before else failures + 1
        if failures == ATTEMPTS:
            reason = first_line(failure)
            raise WeightsError(f"cannot download {url}: {reason} ({ATTEMPTS} attempts)") from failure
        time.sleep(BACKOFF * 2 ** max(failures - 1, 0))


def _attempt(url: str, part: Path) -> None:
    headers = {"User-Agent": "dinat-zoo", "Accept-Encoding": "identity"}
    validator = _validator(part)
    if _size(part) and validator.exists():  # without one, nobody could tell whether it is still the same file
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": validator.read_text()}
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        begins, total = _extent(response.status, response.headers)
        if not begins:
            _remember(validator, response.headers)
        elif begins != _size(part):
            raise ConnectionError(f"the server answered from byte {begins}, not {_size(part)}")
        with (
            part.open("ab" if begins else "wb") as file,
            tqdm(total=total, initial=begins, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")


def _extent(status: int | None, headers: Message) -> tuple[int, int | None]:
    """Where in the file the answer's content begins, and the size of the whole file if it is known."""
    if status == 206:
        found = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise ConnectionError(f"the server's Content-Range is {headers.get('Content-Range')!r}")
        return int(found[1]), int(found[2])
    length = headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _remember(validator: Path, headers: Message) -> None:
    """Keep what tells this version of the file from others, for an attempt that resumes; weak ETags may not serve."""
    etag: Any = headers.get("ETag")
    mark = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    if mark:
        validator.write_text(mark)
    else:
        validator.unlink(missing_ok=True)


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
