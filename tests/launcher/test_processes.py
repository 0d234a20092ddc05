"""What the kernel tells of a process that ends."""

from __future__ import annotations

import os
import subprocess
import sys

from launcher import processes

NAMED = "from launcher.processes import set_title; set_title('a) R 1 (4'); print(flush=True); input()"


def test_a_process_is_exiting_from_its_end_on_and_when_it_is_gone() -> None:
    command = [sys.executable, "-c", NAMED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not processes.is_exiting(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        assert processes.is_exiting(process.pid)
    assert processes.is_exiting(process.pid)
