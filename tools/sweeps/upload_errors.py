"""Uploads to a folder whose disk fails: the n-th call of the server, once and for ever."""

import subprocess

from .scene import LONG_ENOUGH_S, Wrong
from .upload import NAME, Acknowledged, attached

CALLS = ("pwrite64,pwritev", "fsync,fdatasync,syncfs", "renameat,renameat2,rename", "unlinkat,unlink,rmdir", "mkdirat,mkdir", "openat",
         "ftruncate,fallocate", "pread64", "linkat", "fchmod")
# Storage full is a state of its own (507); everything else is a failure of the server.
ERRORS = ("EIO", "ENOSPC")
CALLS_MAX = 60
# Of the run that meets the error: it may give up, and then the same command goes on.
PATIENCE = ("--patience", "4s")


class UploadErrors(Acknowledged):
    name = "upload-errors"
    programs = ("strace",)
    unit = "errors"
    full = 10**9
    short = 6

    def steps(self):
        old = self.set_up()
        cases = [(calls, error, ever, older) for older in (None, old) for calls in CALLS for error in ERRORS for ever in (False, True)]
        if self.is_short:
            # Found: what was begun for an upload when a sync failed stayed for an hour after that was given up.
            yield from self.every(CALLS[1], "ENOSPC", False, old, number=1)
            self.random.shuffle(cases)
        for calls, error, ever, older in cases:
            yield from self.every(calls, error, ever, older)

    def every(self, calls, error, ever, old, number=None):
        """In the short form one call alone, by default any of the first ones."""
        numbers = range(1, CALLS_MAX)
        for number in [number or self.random.randrange(1, 8)] if self.is_short else numbers:
            try:
                failed = self.one(calls, f"error={error}:when={number}{'+' if ever else ''}", old)
            except Wrong as cause:
                failed = True
                self.wrong(f"{error} from call {number}{'+' if ever else ''} of {calls}, an older object: {old is not None}: {cause}")
                self.site.kill()
            yield
            if not failed:
                return

    def one(self, calls, injected, old):
        """Returns whether a call failed."""
        site, client = self.site, self.client
        self.prepare(site, old)
        site.must_serve()
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        tracer = attached(["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", f"inject={calls}:{injected}"],
                          site.server.pid)
        child = client.start(*PATIENCE)
        try:
            child.wait(LONG_ENOUGH_S)
        except subprocess.TimeoutExpired:
            raise Wrong("the client hangs") from None
        finally:
            tracer.terminate()
            tracer.wait()
        ended = client.ended(child).must(0, 1, 5, 7)
        self.add(f"exit_{ended.exit}")
        site.check_no_panic()
        self.check_state(site, client.source, old)
        failed = "(INJECTED)" in trace.read_text(errors="replace")
        if ended.exit == 0:
            site.check_published(NAME, client.source)
        if not failed:
            return False
        self.add("errors")
        # The disk works again. What was acknowledged is there, before and after another server starts. What could not be removed is
        # removed by the next round of the collector, or at the next start.
        self.check_acknowledged(site)
        client.push().must(0)
        site.check_published(NAME, client.source)
        site.kill()
        site.must_serve()
        self.check_state(site, client.source, old)
        client.push().must(0)
        site.check_published(NAME, client.source)
        # A run that ended before it had sent a part leaves a session that nobody goes on with: it is open until it expires.
        site.give_up_all()
        if orphans := int(site.metrics().get("sapwood_upload_orphans", 0)):
            # The session was not stored, and what was begun for it could not be removed: the collector counts it, and removes it in time.
            self.add("orphans", orphans)
            if len(site.staged()) > orphans:
                raise Wrong(f"{orphans} orphans are counted, and there are {site.staged()}")
        else:
            site.check_nothing_is_staged()
        return True

    def close(self):
        if hasattr(self, "site"):
            self.site.close()

    def figure(self):
        exits = ", ".join(f"exit {code}: {self[f'exit_{code}']}" for code in (0, 1, 5, 7) if self[f"exit_{code}"])
        return (f"{self['errors']} calls of a server that failed, once and for ever (pushes with {exits}), "
                f"{self['acknowledged']} acknowledgements, {self['orphans']} orphans counted: {self['wrong']} panics, false successes or stuck")
