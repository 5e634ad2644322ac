"""Describing a file."""

from .programs import Failure
from .section import Contender, Goal, Section


class Manifest(Section):
    """Describing one file that is in memory already."""

    name = "manifest"
    peer = "b3sum"
    contenders = (
        Contender("b3sum", "b3sum {object}"),
        Contender("b3sum-1", "b3sum --num-threads 1 {object}"),
        Contender("b3sum-reads", "b3sum --no-mmap {object}"),
        Contender("sapwood", "sapwood manifest {object} -o {out}"),
        Contender("sapwood-no-hints", "sapwood manifest {object} -o {out} --no-hints"),
        Contender("mktorrent", "mktorrent -a http://localhost/announce -o {out} {object}"),
        Contender("zsyncmake", "zsyncmake -u http://localhost/object.bin -o {out} {object}"),
    )
    goals = (
        Goal("sapwood-no-hints", "cpu_s", 1.1, "b3sum"),
        Goal("sapwood", "wall_s", 2.0, "b3sum"),
    )

    def enter(self, stack):
        return {"object": self.bench.object}

    def check(self, contender, run, first):
        if contender.program == "b3sum":
            if (run / "stdout").read_text().split()[0] != self.bench.root:
                raise Failure(f"{contender.name} prints another hash")
            return {}
        manifest = run / "out"
        with open(manifest, "rb") as file:
            statement = file.read(1024)
        if contender.program == "sapwood" and bytes.fromhex(self.bench.root) not in statement:
            raise Failure(f"{contender.name} wrote a manifest whose statement does not name the root")
        return {"result_bytes": manifest.stat().st_size}
