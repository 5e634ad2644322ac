"""Garage, a real S3 server, as one node in a folder of its own, and the few signed requests that its users here need.

It is a program of its own (AGPL): built once by cargo, started, asked over HTTP, never linked.

    python3 tools/garage.py run COMMAND...      a command while a node runs; its environment has what the AWS tools want
    python3 tools/garage.py cors RULES.json     inside of it: gives the bucket these CORS rules, in the form of the AWS tools
"""

import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import quote

from links import Links

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
VERSION = "2.5.0"
HOME = TARGET / "tools" / "garage"
BINARY = HOME / "bin" / "garage"

REGION, BUCKET = "garage", "bucket"
KEY_ID, SECRET = "GK00112233445566778899aabb", hashlib.sha256(b"the only key of a node that lives for a test").hexdigest()
START_TIMEOUT_S = 60
UNSIGNED = "UNSIGNED-PAYLOAD"
PIECE = 1 << 20

CONFIGURATION = """
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
replication_factor = 1
# What is stored here is random: to try to compress it would only take time from the programs that are measured.
compression_level = "none"
disable_scrub = true
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "{region}"
api_bind_addr = "{address}:{port}"
"""


class Failure(Exception):
    """Garage cannot be built, does not start, or answers with an error."""


def build():
    """The program; built if it is not there, which takes 10 to 20 minutes on two cores."""
    if BINARY.exists() and f"{VERSION} [" in subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout:
        return BINARY
    # Beside it, because the profile of this project's release would take far longer, and nobody needs the rest later.
    made = TARGET / "tools" / "garage-build"
    settings = {"CARGO_TARGET_DIR": str(made), "CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_DEBUG": "0"}
    command = ["cargo", "install", "--quiet", "garage", "--version", VERSION, "--locked", "--force", "--no-default-features",
               "--features", "bundled-libs,sqlite,lmdb", "--root", str(HOME)]
    print(f"garage is missing; 10 to 20 minutes: {' '.join(command)}", file=sys.stderr, flush=True)
    if subprocess.run(command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL).returncode != 0:
        raise Failure(f"{' '.join(command)} failed")
    shutil.rmtree(made, ignore_errors=True)
    return BINARY


def free_port(address="127.0.0.1"):
    with socket.socket() as free:
        free.bind((address, 0))
        return free.getsockname()[1]


class Refused(Failure):
    """An answer that is no success."""

    def __init__(self, status, body):
        super().__init__(f"HTTP {status}: {body[:500].decode(errors='replace')}")
        self.status, self.body = status, body


class Garage:
    """One node with one bucket and one key: on loopback, or in a network namespace of tools/links.py."""

    def __init__(self, folder, space=None, address="127.0.0.1"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.space, self.address = space, address
        # In a namespace of its own every port is free.
        self.port = free_port()
        self.configuration = self.folder / "garage.toml"
        self.configuration.write_text(CONFIGURATION.format(
            folder=self.folder, rpc=free_port(), secret=hashlib.sha256(b"no other node").hexdigest(), region=REGION,
            address=self.address, port=self.port))
        # It holds a secret, so it wants nobody else to read it.
        self.configuration.chmod(0o600)
        self.server = None

    @property
    def endpoint(self):
        return f"http://{self.address}:{self.port}"

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        """Starts it, or starts it again with all that it had."""
        inside = Links.inside(self.space) if self.space else []
        settings = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "RUST_LOG": "garage=warn",
                    "GARAGE_DEFAULT_ACCESS_KEY": KEY_ID, "GARAGE_DEFAULT_SECRET_KEY": SECRET, "GARAGE_DEFAULT_BUCKET": BUCKET}
        with open(self.folder / "log", "ab") as log:
            # A session of its own: Ctrl-C is for us, and we stop it in our order.
            self.server = subprocess.Popen(
                [*inside, build(), "-c", self.configuration, "server", "--single-node", "--default-bucket"], env=settings,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"garage did not start\n{(self.folder / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def is_ready(self):
        try:
            self.keys()
            return True
        except (OSError, http.client.HTTPException, Failure):
            return False

    def kill(self):
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None

    def start_empty(self):
        """Starts it again with nothing: Garage keeps what was deleted for ten minutes, and stores no block twice."""
        self.kill()
        for name in ("meta", "data"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.start()

    @property
    def cpu_s(self):
        """Processor time since it was started."""
        with open(f"/proc/{self.server.pid}/stat") as stat:
            # After the name, which may have blanks: utime and stime are fields 14 and 15.
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connection(self):
        connection = http.client.HTTPConnection(self.address, self.port, timeout=60)
        if self.space:
            connection.sock = Links.connected(self.space, (self.address, self.port))
        return connection

    @contextlib.contextmanager
    def response(self, method, path, query=(), body=b"", fields=()):
        """Of a signed request: path is that of the URL, not encoded."""
        connection = self.connection()
        try:
            target, fields = signed(method, f"{self.address}:{self.port}", path, dict(query), dict(fields), body)
            connection.request(method, target, body=body or None, headers=fields)
            yield connection.getresponse()
        finally:
            connection.close()

    def request(self, method, path, query=(), body=b"", fields=()):
        """The body of the response; anything but a success is Refused."""
        with self.response(method, path, query, body, fields) as response:
            content = response.read()
            if response.status // 100 != 2:
                raise Refused(response.status, content)
            return content

    def pieces(self, key):
        """An object, read through."""
        with self.response("GET", f"/{BUCKET}/{key}") as response:
            if response.status != 200:
                raise Refused(response.status, response.read())
            while piece := response.read(PIECE):
                yield piece

    def keys(self, prefix=""):
        """Every object: its key and length. There are never so many here that a list has a second page."""
        listed = self.request("GET", f"/{BUCKET}", {"list-type": "2", "prefix": prefix})
        return {found["Key"]: int(found["Size"]) for found in elements(listed, "Contents")}

    def uploads(self, prefix=""):
        """Every multipart upload that is under way: its key and ID."""
        listed = self.request("GET", f"/{BUCKET}", {"uploads": "", "prefix": prefix})
        return [(found["Key"], found["UploadId"]) for found in elements(listed, "Upload")]

    def parts(self, key, upload):
        """The parts of a multipart upload: number and length."""
        listed = self.request("GET", f"/{BUCKET}/{key}", {"uploadId": upload})
        return {int(found["PartNumber"]): int(found["Size"]) for found in elements(listed, "Part")}


def write_aws(home, endpoint):
    """The files of the AWS tools below this home, which sapwood and awscli read, and rclone for the most part."""
    folder = Path(home) / ".aws"
    folder.mkdir(exist_ok=True)
    (folder / "credentials").write_text(f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    (folder / "config").write_text(f"[default]\nregion = {REGION}\nendpoint_url = {endpoint}\n")


def elements(xml, name):
    """The elements of this name, each as a dict of the texts below it."""
    local = lambda element: element.tag.rpartition("}")[2]
    return [{local(child): child.text or "" for child in element}
            for element in ElementTree.fromstring(xml).iter() if local(element) == name]


# ---------------------------------------------------------------------------------------------------
# Signature version 4


def encoded_query(query):
    return "&".join(f"{quote(name, safe='-_.~')}={quote(str(value), safe='-_.~')}" for name, value in sorted(query.items()))


def signature(now, canonical):
    day, scope = now[:8], f"{now[:8]}/{REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for word in (day, REGION, "s3", "aws4_request", text):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return scope, key.hex()


def canonical_request(method, path, query, fields, payload):
    names = sorted(fields)
    return ("\n".join([method, path, query, *(f"{name}:{fields[name]}" for name in names), "", ";".join(names), payload]),
            ";".join(names))


def clock():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def signed(method, host, path, query, fields, body):
    """The target of the request line, and all fields."""
    now, path, query = clock(), quote(path, safe="/-_.~"), encoded_query(query)
    payload = hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else UNSIGNED
    fields = {name.lower(): str(value) for name, value in fields.items()}
    fields |= {"host": host, "x-amz-date": now, "x-amz-content-sha256": payload}
    canonical, names = canonical_request(method, path, query, fields, payload)
    scope, proof = signature(now, canonical)
    fields["authorization"] = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, Signature={proof}"
    return f"{path}?{query}" if query else path, fields


# ---------------------------------------------------------------------------------------------------
# The command line


def run(command):
    """Returns the exit code of the command."""
    with tempfile.TemporaryDirectory(prefix="garage-") as folder, Garage(Path(folder) / "node") as node:
        own = {"AWS_ENDPOINT_URL": node.endpoint, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION,
               "SAPWOOD_STORAGE": f"s3://{BUCKET}"}
        return subprocess.run(command, env={**os.environ, **own}).returncode


def set_cors(rules):
    """Of the node in the environment."""
    root = ElementTree.Element("CORSConfiguration")
    for rule in rules["CORSRules"]:
        element = ElementTree.SubElement(root, "CORSRule")
        # In the form of the AWS tools lists have a plural.
        for name, value in rule.items():
            for one in value if isinstance(value, list) else [value]:
                ElementTree.SubElement(element, name.removesuffix("s") if isinstance(value, list) else name).text = str(one)
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    body = ElementTree.tostring(root)
    target, fields = signed("PUT", host, f"/{BUCKET}", {"cors": ""}, {}, body)
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("PUT", target, body=body, headers=fields)
    response = connection.getresponse()
    content = response.read()
    if response.status // 100 != 2:
        raise Refused(response.status, content)


def main(words):
    match words:
        case ["run", *command] if command:
            return run(command)
        case ["cors", rules]:
            set_cors(json.loads(Path(rules).read_text()))
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
