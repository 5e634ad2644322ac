#!/usr/bin/env python3
"""Describes files with all workers of a Dask cluster, large ones in ranges: the same manifests as of `sapwood manifest FILE...`.

    manifest_on_dask.py PATH... --scheduler tcp://HOST:8786     on the workers of this scheduler
    manifest_on_dask.py PATH...                                 on this machine alone, without Dask

A folder stands for all files below it. All workers see the files under the same paths (a shared file system, a mounted bucket) and
have sapwood on their PATH, or where --program says. Any other batch system needs the same three steps: ranges, batches, joins.
"""
import argparse, contextlib, os, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A multiple of every block size that a manifest may have.
RANGE_BYTES = 16 << 30
BATCH_FILES, BATCH_BYTES = 200, 1 << 30


def run(words):
    """On a worker."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()}")


def files_of(paths):
    # Workers have other current folders.
    for path in (Path(path).absolute() for path in paths):
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (str(file) for file in found if file.is_file() and not file.is_symlink() and file.suffix != ".sapwood")


def batches(files):
    """Lists of small files, each enough work for one run of the program."""
    batch, size = [], 0
    for file in files:
        batch.append(file)
        size += os.path.getsize(file)
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def version(file):
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ino


def describe(files, map_on_workers, program, range_bytes):
    """`map_on_workers` is that of a concurrent.futures.Executor."""
    large = [file for file in files if os.path.getsize(file) > range_bytes]
    before = {file: version(file) for file in large}
    words = [[program, "--quiet", "manifest", "--", *batch] for batch in batches(file for file in files if file not in before)]
    joins = []
    with contextlib.ExitStack() as stack:
        for file in large:
            # Beside the file, where all workers see it.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".manifest-", dir=os.path.dirname(file)))
            parts = []
            for start in range(0, before[file][0], range_bytes):
                end = min(start + range_bytes, before[file][0])
                parts.append(os.path.join(folder, str(start)))
                words.append([program, "--quiet", "manifest", f"--range={start}-{end - 1}", "-o", parts[-1], "--", file])
            joins.append([program, "--quiet", "manifest", "--join", *parts, "-o", f"{file}.sapwood"])
        # Each list of results is waited for, and a failure ends the run.
        list(map_on_workers(run, words))
        for file in large:
            if version(file) != before[file]:
                raise RuntimeError(f"{file} changed while it was described: run it again")
        list(map_on_workers(run, joins))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--scheduler")
    parser.add_argument("--program", default="sapwood")
    parser.add_argument("--range-bytes", type=int, default=RANGE_BYTES, help="of a large file in one run, a multiple of 16 MiB")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if arguments.scheduler:
            from distributed import Client
            client = stack.enter_context(Client(arguments.scheduler))
            # A worker that dies is no failure: another one does its work again.
            executor = stack.enter_context(client.get_executor(retries=2))
        else:
            executor = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        try:
            describe(list(files_of(arguments.paths)), executor.map, arguments.program, arguments.range_bytes)
        except (OSError, RuntimeError) as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
