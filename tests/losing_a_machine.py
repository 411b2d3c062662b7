"""A run on a cluster of two machines, of which one is lost when three attacks are done. A program of its own: a process that asked Ray
for something may be ended with the machine, and with it all tests that it would still have run.

    python tests/losing_a_machine.py IMAGES OUT

It prints what became of the run, as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import ray
from ray_cases import run_by_ray, two_machines
from run_cases import Silent, grid_of

from benchmark.store import recording


def grid(images):
    return grid_of(images, models=["mlp", "lenet"], seeds=[0, 1], attacks=["inverting-gradients(iterations=40)", "dlg(iterations=5)"])


def main(images: str, out: str) -> None:
    stored, put, written, write, display = [], ray.put, [], recording.write_attacked, Silent()
    ray.put = lambda value: (stored.append(value), put(value))[1]
    with two_machines() as cluster:

        def lose_then_write(run, key, attack, **content):
            written.append((key, attack))
            if len(written) == 3:
                cluster.remove_node(cluster.second, allow_graceful=False)
            write(run, key, attack, **content)

        recording.write_attacked = lose_then_write
        outcome = run_by_ray(grid(images), Path(out), cluster.address, display)
    print(json.dumps({"outcome": asdict(outcome), "stored": len(stored), "written": written, "cells": display.cells}))


if __name__ == "__main__":
    main(*sys.argv[1:])
