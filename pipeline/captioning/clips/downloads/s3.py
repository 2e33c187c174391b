"""Downloads from S3: the file system of s3fs, and what its errors mean. s3fs is optional."""

from __future__ import annotations

from typing import Any

import fsspec

from . import http
from .attempt import Failure, Progress, Refused, is_temporary_status
from .limits import DownloadLimits

_TEMPORARY_CODES = ("RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "ThrottlingException")
_MISSING = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such key in the bucket",
}


def file_system(url: str, limits: DownloadLimits) -> Any:
    """The file system that fetches `url`; fsspec keeps it, with its connections, for the next URL.

    Raises:
        Refused: s3fs is not installed.
    """
    try:
        import s3fs
    except ImportError as error:
        raise Refused(
            f"s3:// needs the package s3fs, which can't be imported ({error}); install it: "
            f"pip install s3fs=={fsspec.__version__}"
        ) from error
    system = fsspec.filesystem(
        "s3",
        config_kwargs={
            "connect_timeout": limits.stall,
            "read_timeout": limits.stall,
            "retries": {"total_max_attempts": 1},
        },
    )
    assert isinstance(system, s3fs.S3FileSystem)
    system.retries = 1  # the only retries are those of `download.py`, which knows the deadline
    return system


def arguments(progress: Progress) -> dict[str, Any]:
    """Arguments of `get_file` for one attempt. S3 announces the size of every object."""
    return {}


def failure(error: BaseException | None, limits: DownloadLimits) -> Failure | None:
    """What an error of s3fs and botocore means; None if it is another error."""
    from botocore import exceptions

    # s3fs raises Python's own errors, with botocore's as the cause.
    answer = error if isinstance(error, exceptions.ClientError) else getattr(error, "__cause__", None)
    if isinstance(answer, exceptions.ClientError):
        return _failure_of_answer(answer.response)
    if isinstance(error, exceptions.NoCredentialsError):
        return Failure(
            "no credentials for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials"
        )
    if isinstance(error, exceptions.ReadTimeoutError):
        return Failure(f"no data for {limits.stall:g} s", is_temporary=True)
    if isinstance(error, exceptions.ConnectTimeoutError):
        return Failure(f"no connection within {limits.stall:g} s", is_temporary=True)
    if isinstance(error, exceptions.SSLError):
        return Failure("no secure connection to S3", detail=str(error))
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return Failure("no connection to S3, or it was cut", is_temporary=True, detail=str(error))
    if isinstance(error, exceptions.BotoCoreError):
        return Failure(type(error).__name__, detail=str(error))
    return http.failure(error, limits)  # while the content is read, aiohttp's errors come through


def _failure_of_answer(response: Any) -> Failure:
    """What an answer of the server with an error means."""
    error, status = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.get("Code", ""))
    name = f"HTTP {status}" if code == str(status) else f"HTTP {status} {code}"
    is_temporary = is_temporary_status(status) or code in _TEMPORARY_CODES
    if code in _MISSING:
        return Failure(_MISSING[code], is_temporary)
    return Failure(name, is_temporary, detail=str(error.get("Message", "")))
