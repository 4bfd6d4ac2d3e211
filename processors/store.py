"""A prefix of an S3 bucket (`factory.store`): tables, weights and checkpoints lie there, not in the data directory.

Who we are is said by the standard AWS variables of the environment and by nothing else: no setting holds a credential,
and our sentences do not repeat what a server answers (it may name a key). A commit of a table rests on one thing, that
of two writers of one new name the second is refused; a store that does not do that would lose rows in silence, so
whoever writes tries it first.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import obstore
from deltalake.exceptions import CommitFailedError, DeltaError
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from schemas.errors import Told

QUICK_S = 15.0
"""How long a store may be silent before the first answer."""
PATIENT_S = 180.0
"""And later, in the midst of work."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""One of them says who we are."""
FENCE = ".fence"
"""The object with which it is tried whether a name can be taken twice."""
_STATUS = re.compile(r"status (\d{3})")


class StoreFailed(Told, RuntimeError):
    """The store cannot be used; the text says what to look at, and never what the server said."""


class Store:
    """A prefix of a bucket.

    Args:
        url: s3://BUCKET[/PREFIX].

    Raises:
        StoreFailed: no variable of the environment says who we are.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not any(os.environ.get(name) for name in CREDENTIALS):
            raise StoreFailed(
                f"factory.store = {self.url}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                "environment (and AWS_REGION; AWS_ENDPOINT_URL for a store other than Amazon's)"
            )
        self._region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self._http = endpoint.startswith("http://")

    @property
    def options(self) -> dict[str, str]:
        """What deltalake has to be told beside what it finds in the environment."""
        return {"aws_region": self._region, "aws_conditional_put": "etag"} | (
            {"aws_allow_http": "true"} if self._http else {}
        )

    @cached_property
    def files(self) -> S3Store:
        """The client, which waits patiently."""
        return self._client(PATIENT_S)

    def _client(self, retry_s: float) -> S3Store:
        return S3Store.from_url(
            self.url,
            region=self._region,
            client_options={"allow_http": self._http, "connect_timeout": timedelta(seconds=5)},
            retry_config={"retry_timeout": timedelta(seconds=retry_s)},
        )

    def folder(self, name: str) -> "Folder":
        """A directory of it."""
        return Folder(self, name)

    def names(self, under: str) -> list[str]:
        """The names of the directories in a directory; for the first answer it does not wait long."""
        with self.failing():
            found = obstore.list_with_delimiter(self._client(QUICK_S), f"{under}/")["common_prefixes"]
        return [str(prefix).rstrip("/").rpartition("/")[2] for prefix in found]

    def upload(self, folder: Path, to: str) -> None:
        """A directory's files, in place of whatever lies at `to`."""
        with self.failing():
            there = [str(item["path"]) for item in obstore.list(self.files, f"{to}/").collect()]
            wanted = {f"{to}/{file.relative_to(folder)}": file for file in sorted(folder.rglob("*")) if file.is_file()}
            for key, file in wanted.items():
                obstore.put(self.files, key, file)
        self.delete([key for key in there if key not in wanted])

    def put(self, key: str, file: Path) -> None:
        """A file, in place of what is there."""
        with self.failing():
            obstore.put(self.files, key, file)

    def take(self, key: str, data: bytes) -> bool:
        """Make an object, if its name is free; whether it was. (A retry after a lost answer may find its own.)"""
        with self.failing():
            try:
                obstore.put(self.files, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def delete(self, keys: list[str]) -> None:
        """Remove objects, in this order."""
        with self.failing():
            for key in keys:
                obstore.delete(self.files, key)

    def download(self, folder: str, to: Path) -> None:
        """A directory's files; `to` is created.

        Raises:
            FileNotFoundError: there are none.
        """
        sizes = self.folder(folder).sizes()
        if not sizes:
            raise FileNotFoundError(f"{self.url}/{folder}: nothing is there")
        for name in sizes:
            file = to / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with self.failing(), file.open("wb") as target:
                for block in obstore.get(self.files, f"{folder}/{name}").stream():
                    target.write(block)

    def fence(self) -> None:
        """Pass for a store that lets a name be taken once.

        Raises:
            StoreFailed: it does not, or cannot be written.
        """
        self.names("datasets")  # which is told soon when the store is not there
        if all(self.take(FENCE, b"") for _ in range(2)):
            raise StoreFailed(
                f"{self.url}: the store overwrites what is there though it is asked not to (If-None-Match), so two "
                "sinks would lose rows: take one that does conditional puts (Amazon S3, MinIO, R2, ...)"
            )

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """What fails of the store's inside is told in a sentence.

        Raises:
            StoreFailed: as it says.
        """
        try:
            yield
        except CommitFailedError:
            raise
        except (BaseError, DeltaError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # this machine's, a full disk
                raise
            raise self.failed(error) from None

    def failed(self, error: Exception, what: str = "") -> StoreFailed:
        """What is told of an error of the clients'."""
        return StoreFailed(f"{self.url}: {what}{_why(error)}")


def _why(error: Exception) -> str:
    """What is wrong, in our own words: the server's may name a key."""
    text = str(error)
    status = match[1] if (match := _STATUS.search(text.lower().replace("status code: ", "status "))) else ""
    if "NoSuchBucket" in text:
        return "there is no such bucket: make it, or correct factory.store"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in {"401", "403"}:
        return "access is refused: do the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and AWS_REGION fit?"
    if isinstance(error, NotFoundError | FileNotFoundError) or status == "404":
        return "something that should be there is not (the bucket, or a file that was removed)"
    if status:
        return f"the store answers with status {status}: is AWS_ENDPOINT_URL right?"
    return "the store does not answer: is AWS_ENDPOINT_URL right, and the network up?"


class Folder:
    """A directory of a store, with as much of a Path's ways as reading a table's log takes.

    Args:
        store: where.
        key: its path there.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, key
        self.name = key.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.store.url}/{self.key}"

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.store, f"{self.key}/{name}")

    def iterdir(self) -> Iterator["Folder"]:
        """The files in it (not what lies deeper)."""
        with self.store.failing():
            found = obstore.list_with_delimiter(self.store.files, f"{self.key}/")["objects"]
        return (self / str(item["path"]).rpartition("/")[2] for item in found)

    def sizes(self) -> dict[str, int]:
        """The files under it by their path from here, in bytes."""
        start = len(self.key) + 1
        with self.store.failing():
            found = obstore.list(self.store.files, f"{self.key}/").collect()
        return {str(item["path"])[start:]: int(item["size"]) for item in found}

    def read_bytes(self) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self.store.failing():
            try:
                return bytes(obstore.get(self.store.files, self.key).bytes())
            except (NotFoundError, FileNotFoundError):
                missing = True
        assert missing
        raise FileNotFoundError(str(self))
