"""Runs Python on a file system that refuses some calls: a small library, loaded first, answers with an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

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
/* Opening a file whose path has REFUSE_PATH in it, and reading it, fail the first REFUSE_TIMES times. */
static int watched = -1, used = 0;
static int fails(const char *variable) {
    const char *times = getenv("REFUSE_TIMES");
    int error = refused(variable);
    return error && used++ < (times ? atoi(times) : 1 << 30) ? error : 0;
}
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, int);
    const char *wanted = getenv("REFUSE_PATH");
    int error, is_wanted = wanted && strstr(path, wanted);
    if (is_wanted && (error = fails("REFUSE_OPEN"))) { errno = error; return -1; }
    int fd = REAL("open64")(path, flags, mode);
    if (is_wanted) watched = fd; else if (fd == watched) watched = -1;
    return fd;
}
int close(int fd) {
    if (fd == watched) watched = -1;
    return REAL("close")(fd);
}
ssize_t read(int fd, void *buffer, size_t size) {
    int error;
    const char *hang = getenv("REFUSE_HANG");
    if (fd == watched && hang && !access(hang, F_OK)) for (;;) pause();
    if (fd == watched && (error = fails("REFUSE_READ"))) { errno = error; return -1; }
    return ((ssize_t (*)(int, void *, size_t)) dlsym(RTLD_NEXT, "read"))(fd, buffer, size);
}
int fsync(int fd) {
    struct stat found;
    fstat(fd, &found);
    if (S_ISDIR(found.st_mode)) REFUSE("REFUSE_FOLDER_FSYNC"); else REFUSE("REFUSE_FILE_FSYNC");
    return REAL("fsync")(fd);
}
"""


def library(folder: Path) -> Path:
    """Compile the library in a folder, and return its path.

    In a process with REFUSE_HANG, reading a file whose path contains REFUSE_PATH hangs if the file REFUSE_HANG exists.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "a C compiler is needed: make prerequisites"
    made = folder / "refusing.so"
    source = made.with_suffix(".c")
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", made, source, "-ldl"], check=True)
    return made


def python(code: str, *arguments: object, folder: Path, **refused: object) -> subprocess.CompletedProcess[str]:
    """Run Python code while calls are refused.

    Args:
        code: the program.
        arguments: its arguments.
        folder: where the library is compiled.
        refused: a call (flock, chmod, folder_fsync, file_fsync, open, read) and the error number that it gives; open
            and read fail for files whose paths contain `path`, the first `times` times.
    """
    variables = {f"REFUSE_{call.upper()}": str(error) for call, error in refused.items()}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **variables, "LD_PRELOAD": str(library(folder))},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def as_user(*command: object) -> list[str]:
    """The same command without root's right to ignore the modes of files and folders."""
    drop = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); [libc.prctl(24, right, 0, 0, 0) for right in (1, 2)]; "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", drop, *map(str, command)]
