"""Runs on clusters of Ray."""

from __future__ import annotations

from contextlib import contextmanager

from ray.cluster_utils import Cluster
from run_cases import Silent

from benchmark import executors
from benchmark.run import runner


@contextmanager
def two_machines():
    """Of one CPU each, as processes of this one."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.second = made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def run_by_ray(grid, out, address, display=None, loaded=(), **arguments):
    display = display or Silent()
    with executors.create("ray", ray_address=address, threads=1, **arguments) as executor:
        plan = runner.prepare(grid, out, executor.device("cpu"), load_on=executor.loads_on, plugins=loaded)
        return runner.run(plan, display, executor)
