"""Caches in a bucket of an S3 server, where BuildKit keeps them: `blobs/DIGEST`, and the record as `manifests/NAME`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, BinaryIO

from stagewright.content.blobs import BlobStore
from stagewright.content.remote import Progress
from stagewright.errors import CanceledError, IntegrityError, NotFoundError, RegistryError
from stagewright.image.descriptor import Descriptor
from stagewright.redaction import redact_text
from stagewright.travel.options import S3Place
from stagewright.travel.record import MAX_SIZE, CacheRecord

_BLOCK = 1 << 20
_ATTEMPTS = 4
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})


class S3Store:
    """One bucket. Needs boto3, the optional part `s3` of this project, which is loaded with the first request."""

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._lock = threading.Lock()

    def load(self, cancel: threading.Event) -> CacheRecord:
        """See `CacheStore`."""
        with self._errors(f"manifest {self._place.names[0]}"):
            answer = self._client.get_object(Bucket=self._place.bucket, Key=self._manifest(self._place.names[0]))
            with answer["Body"] as body:
                return CacheRecord.from_bytes(body.read(MAX_SIZE + 1))

    def fetch(
        self, blob: Descriptor, store: BlobStore, progress: Progress | None, cancel: threading.Event | None
    ) -> None:
        """See `CacheStore`. A broken download goes on where it was."""
        with store.writer(expected=blob.digest, size=blob.size) as writer:
            for attempt in range(_ATTEMPTS):
                try:
                    with self._errors(f"blob {blob.digest}"):
                        for block in self._read(self._blob(blob.digest), writer.offset, blob.size):
                            if cancel is not None and cancel.is_set():
                                raise CanceledError
                            writer.write(block)
                            if progress is not None:
                                progress(writer.offset, blob.size)
                    writer.commit()
                    return
                except RegistryError:
                    if attempt == _ATTEMPTS - 1:
                        raise

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], cancel: threading.Event) -> None:
        """See `CacheStore`."""
        key, what = self._blob(blob.digest), f"blob {blob.digest}"
        try:
            with self._errors(what):
                there = self._client.head_object(Bucket=self._place.bucket, Key=key)
            if there["ContentLength"] == blob.size:
                self._touch(key, there["LastModified"], what)
                return
        except NotFoundError:
            pass

        def check(sent: int) -> None:
            if cancel.is_set():
                raise CanceledError

        with self._errors(what), open_blob() as file:
            self._client.upload_fileobj(file, self._place.bucket, key, Callback=check)

    def _touch(self, key: str, modified: datetime, what: str) -> None:
        """Make what was written too long ago as good as new, by a copy onto itself."""
        now = datetime.now(UTC)
        if (now - modified).total_seconds() < self._place.touch_s:
            return
        here = {"Bucket": self._place.bucket, "Key": key}
        # Without other metadata a server takes no such copy.
        changes = {"MetadataDirective": "REPLACE", "Metadata": {"updated-at": now.isoformat()}}
        with self._errors(what):
            self._client.copy(here, *here.values(), ExtraArgs=changes)

    def publish(self, record: CacheRecord, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """See `CacheStore`."""
        for name in self._place.names:
            with self._errors(f"manifest {name}"):
                self._client.put_object(Bucket=self._place.bucket, Key=self._manifest(name), Body=record.to_bytes())

    def _read(self, key: str, offset: int, size: int) -> Iterator[bytes]:
        if offset == size and size:
            return
        ranged = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._client.get_object(Bucket=self._place.bucket, Key=key, **ranged)
        if offset and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            raise IntegrityError(f"{key}: the server has sent all of it where a part was asked for")
        with answer["Body"] as body:
            while block := body.read(_BLOCK):
                yield block

    def _blob(self, digest: str) -> str:
        return f"{self._place.prefix}{self._place.blobs_prefix}{digest}"

    def _manifest(self, name: str) -> str:
        return f"{self._place.prefix}{self._place.manifests_prefix}{name}"

    @property
    def _client(self) -> Any:
        with self._lock:  # Two threads must not make two.
            return self._made_client

    @cached_property
    def _made_client(self) -> Any:
        import boto3
        from botocore.config import Config

        place = self._place
        config = Config(
            s3={"addressing_style": "path" if place.path_style else "auto"},
            # Servers other than Amazon's know no checksums of later years.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        keys = {}
        if place.access_key_id and place.secret_access_key:
            keys["aws_access_key_id"] = place.access_key_id
            keys["aws_secret_access_key"] = place.secret_access_key
            if place.session_token:
                keys["aws_session_token"] = place.session_token
        with self._errors(f"bucket {place.bucket}"):
            return boto3.session.Session().client(
                "s3", region_name=place.region, endpoint_url=place.endpoint_url, config=config, **keys
            )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """What the server, and the way to it, have to say, as errors of ours."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            about = error.response.get("Error", {})
            code, said = str(about.get("Code", "")), redact_text(str(about.get("Message", "")))
            text = f"s3://{self._place.bucket}: {what}: {': '.join(part for part in (code, said) if part)}"
            raise (NotFoundError if code in _MISSING else RegistryError)(text) from error
        except (BotoCoreError, Boto3Error, ValueError, OSError) as error:
            raise RegistryError(f"s3://{self._place.bucket}: {what}: {redact_text(str(error))}") from error
