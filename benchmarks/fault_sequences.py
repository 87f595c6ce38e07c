"""Random sequences of calls and faults against real PostgreSQL, each by its seed, then the truth.

    .venv/bin/python benchmarks/fault_sequences.py [--sequences 200] [--seed N] [--minutes M]

Every sequence drives one store behind a proxy (tests/faults/world.py): calls, bursts, cuts,
stalls, refusals, slowness, dropped replies to COMMIT, restarts and kills. Then everything passes,
and what lies in PostgreSQL is compared with what was told. ``--minutes`` goes on until they are
over. Writes ``benchmarks/results/fault_sequences.json``; ends with 1 on a violation. A sequence
is played again with ``--sequences 1 --seed`` its seed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import circumstances  # noqa: E402  # the same
from tests.conftest import migrate  # noqa: E402  # the tests are no package that is installed
from tests.faults.world import FAULTS, World, scaled_down  # noqa: E402
from tests.postgres import Cluster, template_of  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "fault_sequences.json"
STEPS = 40
WEIGHTS = {
    "fault": 5, "time": 4, "start_again": 1, "add": 4, "add_under_key": 2, "rate": 5,
    "orphan": 1, "arrives": 1, "burst": 3, "knowledge": 2, "read": 3, "totals": 3,
    "list": 2, "read_knowledge": 1,
}  # fmt: skip


def step(world: World, chance: random.Random) -> str:  # one list of what can be done
    """Do one thing; its name."""
    name = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    known = list(world.told)
    match name:
        case "fault":
            name = chance.choice(FAULTS)
            world.fault(name)
        case "time":
            world.let_time_pass(chance.choice([0.02, 0.1, 0.4]))
        case "start_again":
            name = chance.choice(["kill", "restart"])
            getattr(world, name)()
        case "add":
            world.add(f"dialogue {chance.random()}")
        case "add_under_key":
            world.add_under_key("dialogue", bytes([chance.randrange(3)]) * 15)
        case "rate" if known:
            world.rate(chance.choice(known), chance.randint(1, 5))
        case "orphan":
            world.rate_orphan(chance.randint(1, 5))
        case "arrives":
            world.orphan_arrives(chance.randrange(8), "late")
        case "burst":
            rated = chance.sample(known, min(len(known), chance.randrange(8)))
            ratings = [(log_id, chance.randint(1, 5)) for log_id in rated]
            adds, steps = chance.randrange(8), chance.randrange(12)
            end = chance.choice(["wait", "wait", "cancel", "kill"])
            if adds or ratings:
                world.burst(adds, ratings, steps, end)
        case "knowledge":
            titles = [f"title {n}" for n in range(chance.randrange(3))]
            world.replace_knowledge(chance.choice(["a.csv", "b.md"]), titles)
        case "read" if known:
            world.read(chance.choice(known))
        case "totals":
            world.read_totals()
        case "list":
            world.list_rated(chance.randint(1, 5))
        case "read_knowledge":
            world.read_knowledge()
    return name


def play(cluster: Cluster, database: str, seed: int) -> tuple[Counter[str], dict[str, int]]:
    """One sequence; how often what was done, and how much was told."""
    chance = random.Random(seed)
    done: list[str] = []
    world = World(cluster, database)
    try:
        try:
            for _ in range(STEPS):
                faulthandler.dump_traceback_later(60, exit=True)
                done.append(step(world, chance))  # told when one fails
            world.verify()
        except BaseException:
            print(f"seed {seed}: {' '.join(done)}", file=sys.stderr)
            raise
        told = {
            "acknowledged": len(world.told) + len(world.rated_marks),
            "unknown": len(world.unknown),
            "attempted": len(world.attempted) + len(world.rating_attempts),
        }
    finally:
        world.close()
    return Counter(done), told


class Part(NamedTuple):
    """What one process plays: so many sequences from a seed on, and on until a moment."""

    seed: int
    sequences: int
    until: float


def play_part(part: Part) -> tuple[int, Counter[str], Counter[str], list[dict[str, object]]]:
    """How many sequences were played, what was done, how much was told, what went wrong."""
    logging.disable(logging.ERROR)  # the driver tells of every cut
    warnings.simplefilter("ignore", ResourceWarning)  # a killed store closes nothing
    done: Counter[str] = Counter()
    told: Counter[str] = Counter()
    violations: list[dict[str, object]] = []
    seed = part.seed
    with Cluster() as cluster, scaled_down():
        template = template_of(cluster, migrate)
        while seed < part.seed + part.sequences or time.time() < part.until:
            with cluster.database(template) as database:
                try:
                    steps, numbers = play(cluster, database, seed)
                    done += steps
                    told += Counter(numbers)
                except Exception as error:  # noqa: BLE001  # told with its seed; the others go on
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    where = f"{Path(last.filename).name}:{last.lineno} {last.line}"
                    violations.append({"seed": seed, "error": repr(error)[:500], "where": where})
                    traceback.print_exc()
            seed += 1
    faulthandler.cancel_dump_traceback_later()
    return seed - part.seed, done, told, violations


def main() -> int:
    """Play them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    began = time.time()
    until = began + 60 * arguments.minutes
    print(f"seed {arguments.seed}", flush=True)
    jobs = min(arguments.jobs, arguments.sequences)
    # Far enough apart that no seed is played twice, however long it goes on.
    share = -(-arguments.sequences // jobs)
    apart = share if not arguments.minutes else 1_000_000
    parts = [
        Part(arguments.seed + job * apart, min(share, arguments.sequences - job * share), until)
        for job in range(jobs)
        if job * share < arguments.sequences
    ]
    if len(parts) == 1:
        played = [play_part(parts[0])]
    else:
        with get_context("spawn").Pool(len(parts)) as pool:
            played = pool.map(play_part, parts, chunksize=1)
    sequences = sum(one[0] for one in played)
    done = sum((one[1] for one in played), Counter())
    told = sum((one[2] for one in played), Counter())
    violations = [each for one in played for each in one[3]]
    result = {
        **circumstances(),
        "seed": arguments.seed,
        "sequences": sequences,
        "steps": done.total(),
        "violations": violations,
        **told,
        "faults": {name: done[name] for name in (*FAULTS, "kill", "restart", "burst")},
        "seconds": round(time.time() - began, 1),
    }
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{sequences} random fault sequences by seed, {len(violations)} violations", flush=True)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
