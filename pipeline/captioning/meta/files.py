"""Write files atomically: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..process.errors import RunError


@contextlib.contextmanager
def atomic_write(output: Path, keep_backup: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file in the folder of `output`. On success, sync it to disk and rename it.

    keep_backup: keep an earlier `output` as `<output>.bak`.

    Raises:
        RunError: the disk is full, the folder does not exist, …; an earlier `output` is unchanged.
    """
    try:
        with _temporary_file(output, keep_backup) as temporary:
            yield temporary
    except OSError as error:
        raise RunError(
            f"can't write {output}: {error}; an earlier file is unchanged, finished rows are safe"
        ) from error


@contextlib.contextmanager
def _temporary_file(output: Path, keep_backup: bool) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        _fsync(temporary)
        if keep_backup and output.exists():
            backup_of(output).unlink(missing_ok=True)
            try:
                os.link(output, backup_of(output))
            except OSError:  # the file system has no hard links
                shutil.copy2(output, backup_of(output))
        os.replace(temporary, output)
        with contextlib.suppress(OSError):  # some file systems can't sync a folder
            _fsync(output.parent)
    finally:
        temporary.unlink(missing_ok=True)


def backup_of(output: Path) -> Path:
    """Where `atomic_write` keeps an earlier `output`."""
    return output.with_name(output.name + ".bak")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
