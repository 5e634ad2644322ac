"""`sapwood serve` beside nginx: requests a second for ranges of one file."""

import contextlib
import http.client
import re
import ssl
import statistics
import subprocess
from dataclasses import dataclass

from .measure import clean_environment
from .programs import Failure, program_path, say
from .section import Section
from .serving import READY, Server, Serving

# At the same time, from two threads, as wrk does it by default for its own examples.
CONNECTIONS = 64
THREADS = 2
SECONDS = 4
OBJECT = "object.bin"
KIB, MIB = 1 << 10, 1 << 20
SIZES = {"4 KB": 4 * KIB, "1 MB": MIB}
GOAL = 0.5
# Ranges at random places: the same one again and again would be served from the processor's own cache.
SCRIPT = """
local length, size = {length}, {size}
function init(args)
    math.randomseed(os.time())
end
function request()
    local first = math.random(0, length - size)
    return wrk.format("GET", "/{name}", {{["Range"] = string.format("bytes=%d-%d", first, first + size - 1)}})
end
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format("figures %d %d %d %d\\n", summary.requests, summary.bytes, summary.duration,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
NGINX = """
daemon off; pid nginx.pid; worker_processes auto;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    server {
        listen 127.0.0.1:{port} LISTEN;
        ssl_certificate CERTIFICATE.crt; ssl_certificate_key CERTIFICATE.key;
        root {www};
    }
}
"""


@dataclass(frozen=True)
class Served:
    """A row of the table. It is a contender, for the choice by name."""

    name: str
    program: str
    scheme: str

    def server(self, certificate):
        if self.program == "nginx":
            listen = "ssl" if self.scheme == "https" else ""
            text = NGINX.replace("LISTEN", listen).replace("CERTIFICATE", str(certificate))
            command = "nginx -p {here} -c {here}/nginx.conf -e error.log"
            return Server(self.name, "debian", "nginx-light", command, {"nginx.conf": text})
        tls = f" --tls-cert {certificate}.crt --tls-key {certificate}.key" if self.scheme == "https" else ""
        return Server(self.name, "ours", "sapwood", "{sapwood} serve {www} --listen 127.0.0.1:{port}" + tls)


class SecureServing(Serving):
    """One that is asked over TLS whether it serves."""

    def serves(self):
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
        try:
            connection.request("GET", f"/{READY}")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Serve(Section):
    """Requests a second of `sapwood serve` and nginx for ranges at random places of one file, by wrk on the same machine."""

    name = "serve"
    peer = "nginx"
    contenders = tuple(Served(f"{program}{'-tls' if scheme == 'https' else ''}", program.split("-")[0], scheme)
                       for scheme in ("http", "https") for program in ("nginx", "sapwood"))

    def programs(self):
        return {"b3sum", "wrk", "openssl", "nginx", "sapwood"}

    def run(self):
        work = self.bench.work / "serve"
        www = work / "www"
        www.mkdir(parents=True)
        # nginx leaves root behind.
        for folder in (self.bench.work, work, www):
            folder.chmod(0o755)
        (www / READY).write_text("ready\n")
        (www / OBJECT).hardlink_to(self.bench.object)
        certificate = work / "tls"
        subprocess.run([program_path("openssl"), *f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
                        f"-keyout {certificate}.key -out {certificate}.crt -days 2 -subj /CN=localhost".split()],
                       check=True, capture_output=True)
        certificate.with_suffix(".key").chmod(0o644)
        rates = {}
        with contextlib.ExitStack() as stack:
            servings = {}
            for row in self.selected:
                here = work / row.name
                here.mkdir()
                kind = SecureServing if row.scheme == "https" else Serving
                servings[row] = stack.enter_context(kind(row.server(certificate), here, www, 0))
            for number in range(self.bench.rounds):
                for size in SIZES:
                    for row, serving in servings.items():
                        say(f"serve: round {number + 1} of {self.bench.rounds}, {row.name}, {size}")
                        rate = self.rate(work, f"{row.scheme}://127.0.0.1:{serving.port}/", SIZES[size])
                        rates.setdefault(size, {}).setdefault(row.name, []).append(rate)
        return {"peer": self.peer, "rates": rates}

    def rate(self, work, url, size):
        """Requests a second; any error is a failure."""
        script = work / "ranges.lua"
        script.write_text(SCRIPT.format(length=self.bench.size, size=size, name=OBJECT))
        command = [program_path("wrk"), f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--timeout", "30s", "-s", script, url]
        run = subprocess.run(command, env=clean_environment(work), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        found = re.search(r"^figures (\d+) (\d+) (\d+) (\d+)$", run.stdout, re.MULTILINE)
        if run.returncode != 0 or not found:
            raise Failure(f"wrk: exit {run.returncode}: {run.stdout}{run.stderr}")
        requests, received, microseconds, errors = map(int, found.groups())
        if errors or received < requests * size:
            raise Failure(f"{url}: {errors} errors, {received} bytes for {requests} requests of {size}")
        return requests / microseconds * 1e6

    def show(self, report):
        print(f"  {CONNECTIONS} connections, {SECONDS} s a turn")
        for size, rows in report["rates"].items():
            for name, rates in rows.items():
                line = f"  {size}  {name:12} {statistics.median(rates):10.0f}/s  ({min(rates):.0f} to {max(rates):.0f})"
                peer = rows.get(name.replace("sapwood", "nginx"))
                if name.startswith("sapwood") and peer:
                    ratio = statistics.median(rates) / statistics.median(peer)
                    rounds = statistics.median(a / b for a, b in zip(rates, peer))
                    met = "met" if ratio >= GOAL else "MISSED"
                    line += f"  {ratio:.2f} x nginx (rounds {rounds:.2f}), goal {GOAL}: {met}"
                print(line)
