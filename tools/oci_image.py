#!/usr/bin/env python3
"""Writes an OCI image of one static program, as a tar with the image layout: the same input gives the same bytes.

    tools/oci_image.py PROGRAM CERTIFICATES VERSION OUT      for podman load, docker load, skopeo copy oci-archive:OUT

From scratch: the program, the authorities that it trusts, and folders that any user may write. SOURCE_DATE_EPOCH is the time of all.
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

# What image/index.json and manifests name: github.com/opencontainers/image-spec, 1.0.
LAYOUT = {"imageLayoutVersion": "1.0.0"}
TYPES = "application/vnd.oci.image."


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def tar_of(entries, time):
    """A tar of (name, mode, content) entries; of folders the content is None."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime, entry.size = mode, time, len(content or b"")
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            tar.addfile(entry, io.BytesIO(content or b""))
    return packed.getvalue()


def image(program, certificates, version, time):
    """The entries of the image layout."""
    layer = tar_of([
        ("data", 0o1777, None),
        ("etc", 0o755, None),
        ("etc/ssl", 0o755, None),
        ("etc/ssl/certs", 0o755, None),
        ("etc/ssl/certs/ca-certificates.crt", 0o644, certificates),
        # The store, where no volume is mounted.
        ("home", 0o1777, None),
        ("tmp", 0o1777, None),
        ("usr", 0o755, None),
        ("usr/bin", 0o755, None),
        ("usr/bin/sapwood", 0o755, program),
    ], time)
    blobs = {}

    def blob(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": TYPES + kind, "digest": f"sha256:{digest}", "size": len(content)}

    config = blob(compact({
        "created": datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/sapwood"],
            "Env": ["PATH=/usr/bin", "HOME=/home"],
            "WorkingDir": "/data",
            "Labels": {"org.opencontainers.image.title": "sapwood", "org.opencontainers.image.version": version},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "tools/oci_image.py"}],
    }), "config.v1+json")
    layers = [blob(gzip.compress(layer, 9, mtime=0), "layer.v1.tar+gzip")]
    manifest = blob(compact({"schemaVersion": 2, "mediaType": TYPES + "manifest.v1+json", "config": config, "layers": layers}),
                    "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": f"sapwood:{version}", "io.containerd.image.name": f"sapwood:{version}"}
    index = {"schemaVersion": 2, "mediaType": TYPES + "index.v1+json", "manifests": [manifest]}
    yield "oci-layout", 0o644, compact(LAYOUT)
    yield "index.json", 0o644, compact(index)
    yield "blobs", 0o755, None
    yield "blobs/sha256", 0o755, None
    for name, content in sorted(blobs.items()):
        yield name, 0o644, content


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    program, certificates, version, out = sys.argv[1:]
    time = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    Path(out).write_bytes(tar_of(image(Path(program).read_bytes(), Path(certificates).read_bytes(), version, time), time))


if __name__ == "__main__":
    main()
