"""S3 clients with time-outs, conditional writes and one-line errors."""

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from rasterloom.errors import StorageError, StorageUnusable
from rasterloom.utils.retry import RetryPolicy

CONNECT_S, REQUEST_S = 10, 60
TRIES = 6  # of a request
ABSENT, CONFLICT, EXISTS = 404, 409, 412


class _Contended(StorageError):
    """A conditional write met another one, and neither is there."""


# boto3 tries a request again by itself; this is for what it takes to be done.
WRITES = RetryPolicy(lambda error: isinstance(error, _Contended), TRIES)
READS = RetryPolicy(lambda error: _is_cut_off(error), TRIES)

_ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or name another in the recipe's workspace",
    "AccessDenied": "the credentials do not allow it",
    "InvalidAccessKeyId": "the access key is not known there: see AWS_ACCESS_KEY_ID or the AWS profile",
    "SignatureDoesNotMatch": "the secret key is wrong: see AWS_SECRET_ACCESS_KEY or the AWS profile",
    "ExpiredToken": "the session token has expired: get new credentials and run again",
    "NoCredentialsError": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "EndpointConnectionError": "nobody answers: see AWS_ENDPOINT_URL",
    "SlowDown": "the server kept asking for fewer requests: run again later",
}
_LASTING = ("NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch")  # until somebody changes something


def endpoint() -> str | None:
    """Return the environment's S3 endpoint, as boto3; None for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def filesystem() -> pafs.FileSystem:
    """The pyarrow file system that reads and writes data files."""
    options: dict[str, Any] = {}
    if address := endpoint():
        parts = urlsplit(address)
        options = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    return pafs.S3FileSystem(
        region=region(),
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        allow_delayed_open=True,  # a file of few megabytes is one request, not three
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
        **options,
    )


def client() -> Any:
    """The boto3 client for conditional writes and for looking objects up."""
    import boto3  # heavy
    from botocore.config import Config  # heavy

    retries = {"mode": "standard", "max_attempts": TRIES}
    config = Config(retries=retries, connect_timeout=CONNECT_S, read_timeout=REQUEST_S)
    # A session of its own: boto3's default one keeps the credentials that it first saw.
    return boto3.session.Session().client("s3", region_name=region(), config=config)


def check_bucket(client: Any, bucket: str) -> None:
    """Raise StorageError if a bucket is missing or not accessible.

    Some servers make a bucket of any name that is written to: a typing error would go unnoticed.
    """
    with storage_errors(f"s3://{bucket}"):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != ABSENT:
                return  # a HEAD has no body to say why, and listing need not be allowed: the write will tell
            raise StorageUnusable(f"s3://{bucket}: NoSuchBucket: {_ADVICE['NoSuchBucket']}") from None


def put_if_absent(client: Any, bucket: str, key: str, data: bytes) -> bool:
    """Write an object unless it exists; return whether this call did.

    An answer can be lost on its way: the request is made again, and finds the object that it wrote itself.
    So one of the very same bytes counts as written by this call.

    Raises:
        StorageError: the server cannot be reached or refuses.
    """
    with storage_errors(f"s3://{bucket}/{key}"):
        for attempt in WRITES.attempts(f"write of s3://{bucket}/{key}"):
            with attempt:
                try:
                    client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status not in (CONFLICT, EXISTS):
                        raise
                try:
                    return get(client, bucket, key) == data
                except FileNotFoundError:  # a write in conflict with this one came to nothing
                    said = f"s3://{bucket}/{key}: others kept writing to it at the same time"
                    raise _Contended(said) from None
    raise AssertionError("unreachable")


def get(client: Any, bucket: str, key: str) -> bytes:
    """Read an object, with retries of a body that breaks off.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the server cannot be reached or refuses.
    """

    def read() -> bytes:
        try:
            found: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return found
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != ABSENT:
                raise
            if error.response["Error"].get("Code") == "NoSuchBucket":
                raise
            raise FileNotFoundError(key) from None

    with storage_errors(f"s3://{bucket}/{key}"):
        return READS.call(f"read of s3://{bucket}/{key}", read)


def _is_cut_off(error: BaseException) -> bool:
    """Return whether the body of an answer broke off."""
    return isinstance(error, IncompleteReadError | ReadTimeoutError | ResponseStreamingError)


def uploads(client: Any, bucket: str, prefix: str) -> Iterator[tuple[str, str, datetime]]:
    """Yield unfinished multipart uploads: key, upload id, start (UTC).

    Raises:
        StorageError: the server cannot be reached or refuses.
    """
    with storage_errors(f"s3://{bucket}/{prefix}: s3:ListBucketMultipartUploads"):
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for found in page.get("Uploads", ()):
                yield found["Key"], found["UploadId"], found["Initiated"]


def uploaded(client: Any, bucket: str, key: str, upload: str) -> int:
    """Return the size of an unfinished upload; 0 if it has ended."""
    with storage_errors(f"s3://{bucket}/{key}"):
        try:
            pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload)
            return sum(part["Size"] for page in pages for part in page.get("Parts", ()))
        except client.exceptions.NoSuchUpload:
            return 0


def abort(client: Any, bucket: str, key: str, upload: str) -> None:
    """Abort an unfinished upload; one that has ended is no error."""
    with storage_errors(f"s3://{bucket}/{key}"), contextlib.suppress(client.exceptions.NoSuchUpload):
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)


@contextlib.contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turn boto3's errors into a StorageError of one line, without secrets."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "")) or "an error"
        said = _ADVICE.get(code) or " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
        kind = StorageUnusable if code in _LASTING else StorageError
        raise kind(f"{place}: {code}{': ' if said else ''}{said}") from None
    except BotoCoreError as error:
        code = type(error).__name__
        raise StorageError(f"{place}: {_ADVICE.get(code) or ' '.join(str(error).split())}") from None
