"""Runs Python on a file system that refuses some calls: a small library, loaded first, answers with an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

/* The error number that REFUSE_<call> holds; 0: the call is made. */
static int refused(const char *variable) {
    const char *value = getenv(variable);
    return value ? atoi(value) : 0;
}
#define REFUSE(variable) do { int error = refused(variable); if (error) { errno = error; return -1; } } while (0)
#define REAL(name) ((int (*)()) dlsym(RTLD_NEXT, name))

int flock(int fd, int operation) { REFUSE("REFUSE_FLOCK"); return REAL("flock")(fd, operation); }
int chmod(const char *path, mode_t mode) { REFUSE("REFUSE_CHMOD"); return REAL("chmod")(path, mode); }
int fchmodat(int fd, const char *path, mode_t mode, int flags) {
    REFUSE("REFUSE_CHMOD");
    return REAL("fchmodat")(fd, path, mode, flags);
}
int fsync(int fd) {
    struct stat found;
    fstat(fd, &found);
    if (S_ISDIR(found.st_mode)) REFUSE("REFUSE_FOLDER_FSYNC"); else REFUSE("REFUSE_FILE_FSYNC");
    return REAL("fsync")(fd);
}
"""


def python(code: str, *arguments: object, folder: Path, **refused: int) -> subprocess.CompletedProcess[str]:
    """Run Python code while calls are refused.

    Args:
        code: the program.
        arguments: its arguments.
        folder: where the library is compiled.
        refused: a call (flock, chmod, folder_fsync, file_fsync) and the error number that it gives.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "refusing.so"
    source = library.with_suffix(".c")
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"], check=True)
    variables = {f"REFUSE_{call.upper()}": str(error) for call, error in refused.items()}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **variables, "LD_PRELOAD": str(library)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def as_user(*command: object) -> list[str]:
    """The same command without root's right to ignore the modes of files and folders."""
    drop = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); [libc.prctl(24, right, 0, 0, 0) for right in (1, 2)]; "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", drop, *map(str, command)]
