# SPDX-License-Identifier: GPL-2.0
"""Which process holds a socket, and under which file descriptor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from drgn import Object, Program, cast
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.pid import for_each_task

from .memory import READ_ERRORS, read_pointers

_MAX_TASKS = 1 << 22
_MAX_FDS = 1 << 30
_BATCH = 1 << 16
_ERRORS = (*READ_ERRORS, LookupError, AttributeError)


@dataclass(frozen=True)
class Owner:
    """A process with a file descriptor of a socket; the process id is that of the initial namespace."""

    pid: int
    comm: str
    fd: int

    def __str__(self) -> str:
        return f"{self.comm}/{self.pid} fd {self.fd}"


class Owners:
    """
    The owners of all sockets.

    :ivar complete: False if the files of some processes could not be read
    """

    def __init__(self, prog: Program) -> None:
        self.complete = True
        self._by_socket: dict[int, list[Owner]] = {}
        try:
            self._socket_ops = prog["socket_file_ops"].address_
            self._scan(prog)
        except _ERRORS:
            self.complete = False

    def of(self, socket: int) -> list[Owner]:
        """:param socket: ``struct socket *``"""
        return self._by_socket.get(socket, [])

    def _scan(self, prog: Program) -> None:
        seen: set[int] = set()
        for task in islice(for_each_task(prog), _MAX_TASKS):
            try:
                files = task.files.value_()
                if files and files not in seen:
                    seen.add(files)
                    self._scan_task(task)
            except _ERRORS:
                self.complete = False

    def _scan_task(self, task: Object) -> None:
        """:param task: ``struct task_struct *``"""
        table = task.files.fdt.read_()
        count = table.max_fds.value_()
        if not 0 <= count <= _MAX_FDS:
            self.complete = False
            return
        pid = task.tgid.value_()
        comm = escape_ascii_string(task.comm.string_(), escape_backslash=True)
        array = table.fd.value_()
        width = task.prog_.type("void *").size
        for first in range(0, count, _BATCH):
            batch = read_pointers(task.prog_, array + first * width, min(_BATCH, count - first))
            for fd, file in enumerate(batch, first):
                if file:
                    self._add(Object(task.prog_, "struct file *", file), pid, comm, fd)

    def _add(self, file: Object, pid: int, comm: str, fd: int) -> None:
        """:param file: ``struct file *``"""
        try:
            if file.f_op.value_() != self._socket_ops:
                return
            socket = cast("struct socket *", file.private_data).value_()
        except _ERRORS:
            self.complete = False
            return
        self._by_socket.setdefault(socket, []).append(Owner(pid, comm, fd))
