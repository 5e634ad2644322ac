"""An update beside a fetch of everything: it must never take longer."""

import random
import shutil
import subprocess

from links import Link, Links

from .delta import DeltaData
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of, serve_object

PAGE = 4096
# At a gigabit the search costs as much as some of the bytes that it saves.
GIGABIT_MAX = 1.1
SIZE = 100_000_000
FETCH = "sapwood fetch {object} -o {out} --json --quiet --no-store"


class NeverSlower(Section):
    """100 MB over loopback: all of it, over a file of which 1 % of the pages differ, and over one that has nothing in common with it."""

    name = "never-slower"
    peer = "sapwood-whole"
    contenders = tuple(Contender(f"sapwood-{name}", FETCH) for name in ("whole", "pages", "strange"))
    goals = (Goal("sapwood-pages", "wall_s", 1.05, peer), Goal("sapwood-strange", "wall_s", 1.05, peer))

    def programs(self):
        return {"nginx", *super().programs()}

    def enter(self, stack):
        self.origin = stack.enter_context(self.make_origin(stack))
        self.root = serve_object(self.bench, [self.origin], "object", SIZE)
        content = bytearray((self.origin.www / "object").read_bytes())
        chance = random.Random(1)
        self.old = {name: self.bench.work / f"old-{name}" for name in ("pages", "strange")}
        self.old["strange"].write_bytes(chance.randbytes(SIZE))
        for number in chance.sample(range(SIZE // PAGE), SIZE // PAGE // 100):
            content[number * PAGE:(number + 1) * PAGE] = chance.randbytes(PAGE)
        self.old["pages"].write_bytes(content)
        return {"object": self.origin.url("object")}

    def make_origin(self, _):
        return Origin(self.bench.work)

    def prepare(self, contender, run):
        old = self.old.get(contender.name.rsplit("-", 1)[1])
        if old:
            shutil.copyfile(old, run / "out")
        self.origin.sent()

    def check(self, contender, run, first):
        if hash_of(run / "out") != self.root:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        return self.origin.sent()


class NeverSlowerFar(NeverSlower):
    """The same over 40 ms and 80 Mbit/s."""

    name = "never-slower-far"
    rounds_max = 3
    LINK = Link(delay_ms=40, loss_permille=0, mbit_s=80, queue_kib=800)

    def programs(self):
        return {"relay", *super().programs()}

    def make_origin(self, stack):
        links = stack.enter_context(Links(program_path("relay"), [self.LINK]))
        self.inside = links.inside(links.client)
        return Origin(self.bench.work, links)


class NeverSlowerGigabit(NeverSlowerFar):
    """Updates over 1 ms and 1 Gbit/s: the 100 MB of before, and the wheel and the JSON of delta-data, each beside a fetch of everything."""

    name = "never-slower-gigabit"
    rounds_max = 9
    LINK = Link(delay_ms=1, loss_permille=0, mbit_s=1000, queue_kib=2000)
    DATA = ("wheel", "json")
    contenders = (*NeverSlower.contenders, *(Contender(f"sapwood-{name}{kind}", f"sapwood fetch {{{name}}} -o {{out}} --json --quiet --no-store")
                                             for name in ("wheel", "json") for kind in ("-whole", "")))
    goals = (*(Goal(f"sapwood-{name}", "wall_s", GIGABIT_MAX, "sapwood-whole") for name in ("pages", "strange")),
             *(Goal(f"sapwood-{name}", "wall_s", GIGABIT_MAX, f"sapwood-{name}-whole") for name in ("wheel", "json")))

    def programs(self):
        return {"pip", *super().programs()}

    def enter(self, stack):
        words = super().enter(stack)
        self.roots = {}
        data = DeltaData(self.bench)
        data.begin()
        for pair in data.PAIRS:
            if pair.name in self.DATA:
                self.old[pair.name], new = data.make(pair)
                shutil.copyfile(new, self.origin.www / pair.name)
                subprocess.run([program_path("sapwood"), "manifest", self.origin.www / pair.name], capture_output=True, check=True)
                self.roots[pair.name] = hash_of(new)
                words[pair.name] = self.origin.url(pair.name)
        return words

    def check(self, contender, run, first):
        name = contender.name.split("-")[1]
        if hash_of(run / "out") != self.roots.get(name, self.root):
            raise Failure(f"{contender.name} wrote other bytes than were served")
        return self.origin.sent()
