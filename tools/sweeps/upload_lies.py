"""Uploads through a relay that stalls, refuses, cuts, flips, loses, delays and repeats."""

import time

from .relay import Lie
from .scene import MIB, Wrong
from .site import Client, Site, write_random
from .sweep import Sweep

PART = 5 * MIB
LENGTH = 2 * PART + MIB + 77
NAME = "talk.mp4"
OPERATIONS = ("open", "targets", "part", "checkpoint", "finalize", "list")
EVER = 10**9
# A stall is ten seconds in which nothing moves.
STALL_S = 10
SHORT_PATIENCE_S, PATIENCE_S = 3, 15
# For all that is no waiting, on a machine that has much to do.
SLACK_S = 60


class UploadLies(Sweep):
    name = "upload-lies"
    unit = "pushes"
    full = 250
    short = 6

    def steps(self):
        self.source = self.folder / "source"
        write_random(self.source, LENGTH)
        self.site = Site(self.program, self.folder)
        self.site.must_serve()
        cases = self.cases()
        if self.is_short:
            # Those that wait for a stall take long.
            cases = [case for case in cases if case[0].kind not in ("stall",) and case[0].seconds < 5]
            self.random.shuffle(cases)
        for lie, exits, flags, seconds in cases:
            yield from self.told([lie], exits, flags, seconds)
        while True:
            lies = [self.any_lie() for _ in range(self.random.randrange(1, 6))]
            yield from self.told(lies, (0,), (), STALL_S * len(lies) + 30)

    def cases(self):
        """A lie, the exits that are right, flags, and how long it may take."""
        inside = PART // 2 + 77
        once, ever = (), ("--patience", f"{SHORT_PATIENCE_S}s", "--tries", "2")
        stalls = ("--patience", f"{PATIENCE_S}s")
        cases = [
            (Lie("part", "413", inside), (1,), once, 5),
            (Lie("part", "413", inside, times=EVER), (1,), once, 5),
            (Lie("finalize", "413"), (1,), once, 5),
            (Lie("part", "flip", inside), (0,), once, 10),
            (Lie("part", "flip", times=EVER), (3, 5), ever, SHORT_PATIENCE_S + 10),
            (Lie("part", "swallow"), (0,), once, 10),
            (Lie("part", "swallow", times=EVER), (3, 5), ever, SHORT_PATIENCE_S + 10),
            (Lie("part", "stall", inside), (0,), once, STALL_S + 10),
            (Lie("part", "stall", inside, times=EVER), (5,), stalls, PATIENCE_S + STALL_S),
            (Lie("checkpoint", "delay", seconds=STALL_S + 3, skip=1), (0,), once, 2 * STALL_S + 10),
            (Lie("finalize", "delay", seconds=STALL_S + 3), (0,), once, 2 * STALL_S + 10),
        ]
        for operation in OPERATIONS:
            for kind in ("cut", "lose", "half", "twice", "stall"):
                takes = STALL_S if kind == "stall" else 0
                cases.append((Lie(operation, kind, inside if operation == "part" else 0), (0,), once, takes + 10))
            cases.append((Lie(operation, "delay", seconds=2), (0,), once, 15))
            for kind in ("cut", "lose", "half"):
                cases.append((Lie(operation, kind, inside if operation == "part" else 0, times=EVER), (5,), ever, SHORT_PATIENCE_S + 10))
        return cases

    def any_lie(self):
        operation = self.random.choice((*OPERATIONS, "part", "checkpoint", "finalize"))
        kinds = ["cut", "lose", "half", "twice", "delay"]
        if operation == "part":
            kinds += ["flip", "swallow", "cut"]
            if not self.is_short:
                kinds.append("stall")
        after = self.random.randrange(PART) if operation == "part" else 0
        return Lie(operation, self.random.choice(kinds), after, self.random.uniform(0, 2), skip=self.random.randrange(3))

    def told(self, lies, exits, flags, seconds):
        said = ", ".join(map(str, lies))
        try:
            self.one(lies, exits, flags, seconds)
        except Wrong as error:
            self.wrong(f"{said}: {error}")
            self.site.give_up_all()
        self.site.relay.lies = []
        self.add("pushes")
        yield

    def one(self, lies, exits, flags, seconds):
        site = self.site
        number = self["pushes"]
        site.relay.forget()
        site.relay.lies = lies
        name = f"{number}-{NAME}"
        client = Client(self.program, self.folder / "client", site, self.source, name, "--part-size", "5MiB", *flags)
        began = time.monotonic()
        ended = client.push()
        took = time.monotonic() - began
        self.add("lies", sum(lie.told for lie in lies))
        self.add(f"exit_{ended.exit}")
        ended.must(*exits)
        if took > seconds + SLACK_S:
            raise Wrong(f"it took {took:.0f} s")
        self.counts["longest"] = max(self["longest"], round(took))
        published, at = ended.event("published"), site.at / name
        if published is None and ended.exit == 0 or published is not None and ended.exit != 0:
            raise Wrong(f"exit {ended.exit}, and published: {published}")
        if ended.exit == 0:
            site.check_published(name, self.source)
        else:
            if at.exists() and at.read_bytes() != self.source.read_bytes():
                raise Wrong("another content is published")
            site.relay.lies = []
            client.flags = client.flags[: len(client.flags) - len(flags)]
            client.push().must(0)
            site.check_published(name, self.source)
        site.check_nothing_is_staged()
        at.unlink()
        at.with_name(name + ".sapwood").unlink()

    def close(self):
        if hasattr(self, "site"):
            self.site.close()

    def figure(self):
        exits = ", ".join(f"exit {code}: {self[f'exit_{code}']}" for code in range(8) if self[f"exit_{code}"])
        return (f"{self['pushes']} pushes through a relay that told {self['lies']} lies ({exits}): {self['wrong']} wrong, stuck or falsely "
                f"acknowledged; the longest took {self['longest']} s")
