"""The options of a run that do not depend on the model, checked and stored in a frozen dataclass.

Knows nothing about the model; the flags are in `run_flags`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..clips.downloads.limits import DOWNLOAD_TIMEOUT, MAX_DOWNLOAD, DownloadLimits
from ..clips.killable import DecoderLimits
from ..journal.run_journals import pad_length_problem
from ..meta.files import backup_of
from ..meta.marks import SHORT_WORDS
from ..meta.names import TEXT_COLUMN, check_output, default_output, failures_path, outcomes_path, report_path
from ..process.errors import UsageError
from ..workers.leases import MAX_LEASE_ROWS

AUTO = "auto"


@dataclass(frozen=True)
class JobOptions:
    """The options of a run that do not depend on the model.

    output: the captioned table.
    batch_size: clips that each worker captions at the same time; None for as many as suit the device.
    pad_length: maximum size of a gathered record, in int32 words of 4 bytes.
    limit: consider this many rows at most, without the kept rows; None for all.
    decode_timeout: time limit for decoding one clip with one decoder, in seconds.
    decode_workers: decoding processes of each worker; None to choose from the number of CPU cores.
    max_failure_rate: share of a worker's last 1,000 rows that may fail.
    stall_timeout: seconds without progress after which a worker is ended.
    framework, device, dtype: None to choose from launcher and hardware.
    max_download: largest size of a clip that is downloaded, in bytes.
    download_timeout: time limit for downloading one clip, all attempts together, in seconds.
    redo: captions with one of these marks are not kept but made again, in the order of `marks.CAPTION_MARKS`.
    short_words: a caption with fewer words has the mark `short`.
    times_rows: record how long each row took, in its result.
    lease_rows: rows that a rank leases at a time at most.
    whole_files: the columns `start` and `end` of the table are ignored: every row is a whole file.

    Raises:
        UsageError: the output can't be written, or writing it would replace the meta table.
    """

    meta_path: Path
    output: Path
    batch_size: int | None
    pad_length: int
    skip_if_existing: bool
    restart: bool
    limit: int | None
    decode_timeout: float
    decode_workers: int | None
    max_failure_rate: float
    stall_timeout: float
    framework: str | None
    device: str | None
    dtype: str | None
    max_download: int = MAX_DOWNLOAD
    download_timeout: float = DOWNLOAD_TIMEOUT
    redo: tuple[str, ...] = ()
    short_words: int = SHORT_WORDS
    times_rows: bool = False
    lease_rows: int = MAX_LEASE_ROWS
    whole_files: bool = False

    @property
    def decoder_limits(self) -> DecoderLimits:
        """The limits of each decoding process."""
        return DecoderLimits(self.decode_timeout, download=DownloadLimits(self.max_download, self.download_timeout))

    def __post_init__(self) -> None:
        meta_file = os.path.realpath(self.meta_path)  # pathlib's resolve raises an error for a link to itself
        if os.path.realpath(self.output) == meta_file:
            raise UsageError(f"--output {self.output} is the meta file itself, which is never overwritten")
        check_output(self.output)
        names = (failures_path, report_path, outcomes_path, backup_of)
        for other in (name(self.output) for name in names):
            if os.path.realpath(other) == meta_file:
                raise UsageError(
                    f"--output {self.output} would replace the meta file: the run writes {other.name} next to its "
                    "output; give --output another name"
                )


def job_options(flags: argparse.Namespace, columns: Sequence[str] = (TEXT_COLUMN,)) -> JobOptions:
    """Check the flags of the run.

    columns: the columns that receive captions.

    Raises:
        UsageError: values that do not go together, or a folder that does not exist.
    """
    problem = pad_length_problem(flags.pad_length, flags.max_new_tokens, columns)
    if problem:
        raise UsageError(problem)
    if flags.redo and not flags.skip_if_existing:
        raise UsageError(
            f"--redo {','.join(flags.redo)}: without --skip_if_existing all rows are captioned again; give it, too"
        )
    if flags.short_words is not None and "short" not in (flags.redo or ()):
        raise UsageError(f"--short_words {flags.short_words} has an effect only with --redo short; give it, too")
    if flags.output is None and not os.path.isdir(flags.meta_path.parent):
        raise UsageError(f"meta file {flags.meta_path} does not exist, and its folder does not exist")
    return JobOptions(
        meta_path=flags.meta_path,
        output=flags.output or default_output(flags.meta_path),
        batch_size=None if flags.bs == AUTO else flags.bs,
        pad_length=flags.pad_length,
        skip_if_existing=flags.skip_if_existing,
        restart=flags.restart,
        limit=flags.limit,
        decode_timeout=flags.decode_timeout,
        decode_workers=flags.decode_workers,
        max_failure_rate=flags.max_failure_rate,
        stall_timeout=flags.stall_timeout,
        framework=flags.framework,
        device=flags.device,
        dtype=flags.dtype,
        max_download=flags.max_download,
        download_timeout=flags.download_timeout,
        redo=flags.redo or (),
        short_words=flags.short_words or SHORT_WORDS,
        whole_files=flags.whole_files,
    )
