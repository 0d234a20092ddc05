"""What the kernel tells of a process that ends."""

from __future__ import annotations

import os
import subprocess
import sys

from launcher import processes

NAMED = "from launcher.processes import set_title; set_title('a) R 1 (4'); print(flush=True); input()"


SOWS = """
import os, signal, subprocess, sys, time
def sow(*_):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    os._exit(0)
signal.signal(signal.SIGTERM, sow)
print(flush=True)
time.sleep(300)
"""
ENDS = """
import subprocess, sys
from launcher import processes
processes.become_subreaper()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(processes.kill_children(grace=60.0), len(processes.strays()))
"""


def test_what_a_process_starts_while_it_is_ended_is_ended_too() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS, SOWS], capture_output=True, text=True, check=True)
    assert done.stdout == "1 0\n"


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
