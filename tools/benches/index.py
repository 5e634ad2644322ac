"""The index over contents at scale."""

import json

from .section import Contender, Section

MIB = 1 << 20


class Index(Section):
    """The index over contents with 10 million blocks: rates, bytes a block, memory, and what it finds of what all anchors would."""

    name = "index"
    peer = "index"
    rounds_max = 1
    contenders = (Contender("index", "index_count {run}/store --blocks 10000000"),)
    goals = ()

    def enter(self, stack):
        return {}

    def check(self, contender, run, first):
        found = json.loads((run / "stdout").read_text())
        print(f"\n  {found['blocks']:.0f} blocks, {found['samples']:.0f} of their tags: "
              f"{found['inserted_a_second'] / 1e6:.2f} million blocks inserted a second, "
              f"{found['looked_up_a_second']:.0f} objects of 10,000 blocks looked up a second, "
              f"{found['bytes_a_block']:.1f} bytes a block, peak memory {found['peak_bytes'] / MIB:.0f} MiB")
        for run_blocks, (by_nodes, by_sample) in found["recall"].items():
            print(f"  found that share {run_blocks} blocks: {by_nodes:.1f} % by nodes, {by_sample:.1f} % by a sample of all anchors")
        return {name: figure for name, figure in found.items() if name != "recall"}
