"""One measured run of one program."""

import contextlib
import os
import select
import shlex
import subprocess
import time

from .programs import Failure

SAMPLE_MS = 20


def clean_environment(home):
    """What a program under measurement sees: no proxies, and a home of its own, so that no
    configuration, cache or store of the user, nor one of an earlier run, changes the result."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C.UTF-8"}


def peak_memory(process):
    """The highest resident memory of a process so far, in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_of(process):
    """Seconds of CPU that a server took so far: its own, and those of its children, running or ended and waited for."""
    with open(f"/proc/{process}/schedstat") as own, open(f"/proc/{process}/stat") as stat:
        # Nanoseconds of the only thread; of ended children there are ticks, in the 14th and 15th field after the name.
        running, ended = int(own.read().split()[0]), map(int, stat.read().rpartition(")")[2].split()[13:15])
    with open(f"/proc/{process}/task/{process}/children") as children:
        return running / 1e9 + sum(ended) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_of, children.read().split()))


def measure(command, folder):
    """Runs a command to its end and returns its figures. Its output stays in the folder."""
    # The kernel counts what a child held before exec, that is this interpreter, into ru_maxrss. So
    # that figure means something only above our own peak; below it, samples have to do.
    own_peak = peak_memory("self")
    sampled = 0
    with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
        started = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=clean_environment(folder),
                                 stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            ended = os.pidfd_open(child.pid)
            try:
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                while True:
                    sampled = max(sampled, peak_memory(child.pid))
                    if poll.poll(SAMPLE_MS):
                        break
            finally:
                os.close(ended)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            child.kill()
            child.wait()
            raise
        wall = time.perf_counter() - started
    if child.returncode != 0:
        said = (folder / "stderr").read_text(errors="replace")[-2000:]
        raise Failure(f"exit {child.returncode}: {shlex.join(command)}\n{said}")
    peak = usage.ru_maxrss * 1024
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "user_s": usage.ru_utime,
        "sys_s": usage.ru_stime,
        "peak_bytes": peak if peak > own_peak else sampled,
    }
