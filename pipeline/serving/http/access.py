"""Which files and hosts a request may name. Downloads nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...captioning.clips.downloads.urls import is_url, scheme_of, url_problem
from ..settings import MediaAccess

_DEFAULT_PORTS = {"http": 80, "https": 443}


def checked_url(url: str, access: MediaAccess) -> str:
    """The path of a local file, or an http(s) URL, if the server may read it.

    The device process that downloads must refuse redirects to other hosts.

    Raises:
        ValueError: it may not, or it is none. Of files outside the allowed folders, the message does not tell whether
            they exist.
    """
    if not is_url(url):
        raise ValueError("is not a URL; send a data: URL")
    scheme = scheme_of(url)
    if scheme == "file":
        return _checked_file(url, access)
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"has the scheme {scheme[:20]}, which this server does not read; send a data: URL")
    _check_host(url, scheme, access)
    return url


def _check_host(url: str, scheme: str, access: MediaAccess) -> None:
    problem = url_problem(url)
    if problem:
        raise ValueError(f"can't be downloaded: {problem}")
    if "\\" in url or any(character.isspace() for character in url):  # parsers disagree about the host
        raise ValueError("contains a backslash or white space; write it as a percent code")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("contains a user or a password, which this server does not send")
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    default = _DEFAULT_PORTS[scheme]
    port = parts.port or default
    names = {f"{name}:{port}", name} if port == default else {f"{name}:{port}"}
    if not names & access.domains:
        raise ValueError(
            "names a host that this server does not allow; send a data: URL, or start the server with "
            "--allow_media_domain HOST"
        )


def _checked_file(url: str, access: MediaAccess) -> str:
    parts = urlsplit(url)
    refusal = ValueError(
        "names a file that is not in a folder which this server allows; send a data: URL, or start the server with "
        "--allow_media_path FOLDER"
    )
    if parts.netloc.lower() not in ("", "localhost") or parts.query or parts.fragment:
        raise ValueError("is not a URL of a local file; write file:///FOLDER/FILE, and ? and # as percent codes")
    try:
        path = Path(unquote(parts.path)).resolve()
        is_allowed = any(path.is_relative_to(folder) for folder in access.folders)
    except (OSError, RuntimeError, ValueError):  # circles of links, zero bytes
        raise refusal from None
    if not is_allowed:
        raise refusal
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        raise ValueError("names a file that does not exist")
    return str(path)
