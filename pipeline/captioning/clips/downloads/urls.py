"""Tells URLs from local paths, and keeps credentials out of messages. Opens nothing."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

SCHEMES = ("http", "https", "s3")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HIDDEN = "…"


def is_url(path: str) -> bool:
    """Whether a path of the table is a URL, of a known scheme or not: it has a scheme and `://`."""
    return _SCHEME.match(path) is not None


def scheme_of(url: str) -> str:
    """The scheme of a URL in lower case, for example `https`."""
    match = _SCHEME.match(url)
    assert match is not None, "not a URL"
    return match[1].lower()


def url_problem(url: str) -> str:
    """Why a URL can't be fetched, as far as its text shows; '' if nothing is wrong with it."""
    scheme = scheme_of(url)
    if scheme == "file":
        return "file:// is not supported; write the local path itself"
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        return f"{scheme}:// is not supported; a clip is a local file or one of {known}"
    if any(character < " " or character == "\x7f" for character in url):
        return "the URL contains a control character"
    if scheme == "s3":
        bucket, _, key = url[len("s3://") :].partition("/")
        return "" if bucket and key else "the URL has no bucket and key; write s3://BUCKET/KEY"
    parts = _split(url)
    if parts is None or not _has_valid_port(parts):  # the text of Python's error may contain a part of a password
        return "not a URL: the host is not valid, or a `:` after it is not followed by a port up to 65535"
    return "" if parts.hostname and parts.port != 0 else "the URL has no host"


def name_in(url: str) -> str:
    """The path of a URL without host, query and fragment. Its suffix tells an image from a video."""
    if scheme_of(url) == "s3":  # a key may contain any character
        return url[len("s3://") :].partition("?versionId=")[0]
    parts = _split(url)
    return "" if parts is None else unquote(parts.path)


def host_of(url: str) -> str:
    """Host and port of a URL in lower case; of an S3 URL its bucket."""
    parts = _split(url)
    return "" if parts is None else parts.netloc.rpartition("@")[2].lower()


def without_credentials(path: str) -> str:
    """A path of the table for the log. A URL is without its user, password, query and fragment; they may be secret."""
    if not is_url(path) or scheme_of(path) == "s3":
        return path
    parts = _split(path)
    if parts is None or not _has_valid_port(parts):  # a `/` in a password looks like the end of the host
        return f"{scheme_of(path)}://{_HIDDEN}"
    hidden = f"?{_HIDDEN}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{hidden}"


def redacted(text: str, url: str) -> str:
    """The text of a library without `url`, and without its user, password, query and fragment.

    Only for texts that may quote the URL: the name or the value of a parameter may be any word.
    """
    text = text.replace(url, "the URL")
    parts = _split(url)
    if parts is None or scheme_of(url) == "s3":
        return text
    user, at, _ = parts.netloc.rpartition("@")
    secrets = [user, *user.split(":", 1)] if at else []
    secrets += [parts.query, parts.fragment, *(value for _, _, value in _assignments(parts.query))]
    forms = {form for secret in secrets for form in (secret, unquote(secret)) if form}
    for form in sorted(forms, key=len, reverse=True):
        # A short one may be a part of any word, and is hidden where it stands alone.
        pattern = re.escape(form) if len(form) > 2 else rf"(?<!\w){re.escape(form)}(?!\w)"
        text = re.sub(pattern, _HIDDEN, text)
    return text


def _assignments(query: str) -> list[tuple[str, str, str]]:
    return [part.partition("=") for part in query.split("&")]


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port >= 0
    except ValueError:
        return False
