"""A whole file over TLS."""

import os
import shutil
import subprocess

from .measure import measure
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of


class Tls(Section):
    """A whole file over TLS on loopback, to a destination that does not exist."""

    name = "tls"
    peer = "curl-tls"
    contenders = (
        Contender("curl-tls", "curl --silent --show-error --fail --cacert {ca} -o {out} {url}"),
        Contender("aria2c-x8-tls", "aria2c --no-conf --quiet -x8 -s8 -k1M --file-allocation=none --ca-certificate={ca} "
                                   "-d {run} -o out {url}"),
        Contender("sapwood-tls", "sapwood fetch {url} -o {out} --cacert {ca} --json --quiet"),
    )
    goals = (
        Goal("sapwood-tls", "wall_s", 1.0, "curl-tls"),
        Goal("sapwood-tls", "wall_s", 1.0, "aria2c-x8-tls"),
    )

    def programs(self):
        return {"nginx", "openssl", *super().programs()}

    def enter(self, stack):
        ca, server = self.bench.work / "ca", self.bench.work / "server"
        key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        extensions = self.bench.work / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost\n")
        for words in (f"req -x509 {key} -keyout {ca}.key -out {ca}.crt -days 2 -subj /CN=bench",
                      f"req {key} -keyout {server}.key -out {server}.csr -subj /CN=localhost",
                      f"x509 -req -in {server}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial -days 2 "
                      f"-extfile {extensions} -out {server}.crt"):
            subprocess.run([program_path("openssl"), *words.split()], check=True, capture_output=True)
        self.origin = stack.enter_context(Origin(self.bench.work, tls=server))
        served = self.origin.www / "object.bin"
        os.link(self.bench.object, served)
        run = self.bench.fresh_run()
        measure([program_path("sapwood"), "manifest", served, "-o", f"{served}.sapwood"], run)
        shutil.rmtree(run)
        return {"url": self.origin.url("object.bin"), "ca": f"{ca}.crt"}

    def check(self, contender, run, first):
        if (run / "out").stat().st_size != self.bench.size or first and hash_of(run / "out") != self.bench.root:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        return self.origin.sent()
