"""Processes made to be killed while they make and pin objects. Run as a script it serves a Nursery.

    request   {"namespace": name, "seed": n}
"""

from __future__ import annotations

import random


def run_victim(request: dict, ready) -> None:
    from shmbpf.errors import PinError
    from shmbpf.maps.map import Map
    from shmbpf.shm.namespace import Namespace
    from shmbpf.shm.pins import PinTree
    from shmbpf.spec import MapSpec

    rng = random.Random(request["seed"])
    ready()
    while True:
        with Namespace(request["namespace"]) as namespace:
            tree = PinTree(namespace)
            namespace.fix_cpus(2)
            with Map.create(namespace, MapSpec("made", rng.choice((1, 2, 5, 6)), 4, 8, 64)) as made:
                made.update(bytes(4), bytes(made.value_bytes))
                try:
                    tree.pin("map", made.id, f"p{rng.randrange(3)}", parents=True)
                    tree.unpin(f"p{rng.randrange(3)}")
                except PinError:
                    pass  # the name is taken, or nothing has it


if __name__ == "__main__":
    import shmbpf.maps.map  # noqa: F401  before the forks, which are many
    import shmbpf.shm.pins  # noqa: F401
    from nursery import serve

    serve(run_victim)
