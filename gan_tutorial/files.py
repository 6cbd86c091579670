"""Files that are complete or absent, and output in any encoding. No PyTorch."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` if the block succeeds.

    A reader of ``path`` sees the old file or the complete new one, never a part, even if the
    process is killed or the disk is full. Missing folders are created. The temporary name is always
    the same, so what a killed process leaves behind is overwritten by the next one, and only one
    process at a time may write ``path``.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
        ValueError: ``path`` is something else, such as /dev/null, which a file must not replace.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is not a regular file, so it is not replaced; give another")
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        kept = "; the previous file is kept" if path.is_file() else ""
        reason = os.strerror(error.errno) + kept
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def escape_output() -> None:
    """Let stdout and stderr print any text; what their encoding lacks becomes an escape.

    Otherwise a letter such as γ, or a file name that is not UTF-8, would abort a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not a notebook's
            stream.reconfigure(errors="backslashreplace")
