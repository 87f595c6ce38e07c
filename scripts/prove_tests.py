"""The mutation proof: without any one of the things that keep the promises the tests are red.

A copy of the tree is made in a temporary directory; one thing at a time is taken out of it, and
the smallest set of tests that must notice is run there. First the same tests run on the copy as
it is: they must be green. Writes docs/mutation-proof.md; ends with 1 when a mutant survives.

    .venv/bin/python scripts/prove_tests.py [NAME …]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "mutation-proof.md"
STORAGE = "src/audiobot/storage/"
SECONDS = 150
LATE = "tests/faults/test_late_writes.py"
CARRYING = "tests/faults/test_carrying.py"


class Mutant(NamedTuple):
    """What is taken out: each (file, text, text instead); and the tests that must notice."""

    name: str
    says: str
    changes: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


GUARD = """(rating_version IS NULL
            OR (newest.version, newest.op_id) > (rating_version, rating_op))"""
MUTANTS = [
    Mutant("fsync", "the journal's fsync",
           ((STORAGE + "journal.py",
             "        os.fdatasync(self._fd)\n        self._durable += len(data)",
             "        self._durable += len(data)"),),
           ("tests/unit/test_storage_power.py",)),
    Mutant("guard-postgres", "the version guard of ratings in PostgreSQL",
           ((STORAGE + "statements.py", GUARD, "true"),),
           (LATE,)),
    Mutant("guard-index", "the version guard of ratings in the index",
           ((STORAGE + "index.py",
             ' WHERE dialogue.version IS NULL"\n            " OR (excluded.version, excluded.op_id)'
             ' > (dialogue.version, dialogue.op_id)"', '"'),),
           ("tests/unit/test_storage_parts.py",)),
    Mutant("high-water", "the high-water mark",
           ((STORAGE + "journal.py", "value >= best", "value < best"),),
           ("tests/unit/test_journal.py",)),
    Mutant("cursor", "the limit to what PostgreSQL may say of a journal",
           ((STORAGE + "local.py",
             "min(sequence, self.replayed)", "min(sequence, self.journal.last_sequence)"),),
           (CARRYING,)),
    Mutant("durable", "the end of what replay may read",
           ((STORAGE + "journal.py", "part.sequence > last):", "part.sequence < 0):"),),
           ("tests/unit/test_journal.py",)),
    Mutant("aside", "the damaged segment that is set aside when the rest goes",
           ((STORAGE + "journal.py",
             'path.rename(self._aside(path, ".damaged"))', "path.unlink()"),),
           (CARRYING,)),
    Mutant("own-keys", "the look at one's own keys before PostgreSQL's",
           ((STORAGE + "adapter.py",
             "return self._recent_under(key) or await self._commit_once(operation)",
             "return await self._commit_once(operation)"),),
           (CARRYING,)),
    Mutant("text", "the validation of text at the edge",
           (("src/audiobot/domain.py", "    if len(value) > limit:\n", "    return value\n"
             "    if len(value) > limit:\n"),),
           ("tests/conformance/test_local_store.py",)),
    Mutant("rating", "the validation of ratings at the edge",
           (("src/audiobot/domain.py", "or not 1 <= value <= 5", ""),),
           ("tests/conformance/test_local_store.py",)),
    Mutant("vector", "the validation of vectors at the edge",
           (("src/audiobot/domain.py", "    if not embedding.vector or", "    return embedding\n"
             "    if not embedding.vector or"),),
           ("tests/conformance/test_local_store.py", "tests/unit/test_storage_edges.py")),
    Mutant("deadline", "the deadline of what PostgreSQL is asked",
           ((STORAGE + "postgres.py", "bound = seconds or self.write_seconds\n        deadline",
             "bound = 3600\n        deadline"),
            (STORAGE + "postgres.py", "asyncio.wait(either, timeout=seconds,",
             "asyncio.wait(either, timeout=None,")),
           (LATE,)),
    Mutant("insert-dialogue", "the idempotent insert of dialogues",
           ((STORAGE + "statements.py",
             "        ORDER BY id\n        ON CONFLICT (id) DO NOTHING\n",
             "        ORDER BY id\n"),),
           (LATE,)),
    Mutant("insert-rating", "the idempotent insert of ratings",
           ((STORAGE + "statements.py", "        ON CONFLICT (op_id) DO NOTHING\n"
             "        RETURNING op_id, log_id", "        RETURNING op_id, log_id"),),
           (LATE,)),
    Mutant("same-operation", "the same op_id for what was not answered",
           ((STORAGE + "adapter.py", "        try:\n            committed = await self._local",
             "        operation = msgspec.structs.replace(operation, op_id=self._op_ids.new())\n"
             "        try:\n            committed = await self._local"),),
           (LATE,)),
    Mutant("write-probe", "the write in the probe",
           ((STORAGE + "postgres.py",
             '(sql.BEAT, {"replica": self.replica})', '(TextClause("SELECT 1"), {})'),),
           (LATE,)),
    Mutant("lock", "the advisory lock of careful batches",
           ((STORAGE + "batch.py", "        await self._lock(operations)\n", ""),),
           (LATE,)),
    Mutant("settled", "readers' wait for the index",
           ((STORAGE + "index.py", "        self._settled.clear()\n", "        pass\n"),),
           ("tests/unit/test_storage_edges.py",)),
    Mutant("told-early", "the sync before the callers are told",
           ((STORAGE + "local.py",
             "            self.index.prepare()\n            self.journal.commit()\n",
             "            self.index.prepare()\n"),
            (STORAGE + "local.py", "            self.index.commit()\n",
             "            self.journal.commit()\n            self.index.commit()\n")),
           ("tests/unit/test_storage_power.py",)),
    Mutant("keep", "the operations of callers who gave up",
           ((STORAGE + "batching.py", "if self._keep or not", "if not"),),
           ("tests/unit/test_storage_edges.py", "tests/conformance/test_local_store.py")),
    Mutant("doubt", "the doubt about what was not answered, in the totals",
           ((STORAGE + "tally.py", "        self.doubtful[operation.op_id] = operation\n",
             "        pass\n"),),
           ("tests/unit/test_tally.py",)),
    Mutant("circuit", "the circuit's three misses",
           ((STORAGE + "circuit.py", "or self._misses >= MISSES", ""),),
           ("tests/unit/test_circuit.py", "tests/unit/test_switch.py")),
    Mutant("confirmation", "the second heartbeat that confirms the first",
           ((STORAGE + "switch.py", "await self._beat() and await self._beat()",
             "await self._beat()"),),
           ("tests/unit/test_switch.py",)),
]  # fmt: skip


class Verdict(NamedTuple):
    """How a run of tests ended: whether green, which test was red first, how long it took."""

    green: bool
    first: str
    seconds: float


def copy_tree(to: Path) -> None:
    """What git knows of or would add, and nothing that was built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  # whichever git is at hand
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run(tree: Path, tests: tuple[str, ...]) -> Verdict:
    """Run tests in a tree until the first one is red, for a bounded time."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["--timeout", "60", "--tb", "no", *tests]
    began = time.monotonic()
    process = subprocess.Popen(  # noqa: S603  # our own tests
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return Verdict(False, "none ended in time", time.monotonic() - began)
    seconds = time.monotonic() - began
    found = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(.+?)(?: - .*)?$", output, re.MULTILINE)
    if process.returncode == 0:
        return Verdict(True, "", seconds)
    first = found[1] if found else next(iter(re.findall(r"in (test_\w+)", output)), "?")
    return Verdict(False, first, seconds)


def mutate(tree: Path, mutant: Mutant) -> None:
    """Take the thing out; a text that is not there is an error of the mutant's."""
    for name, text, instead in mutant.changes:
        path = tree / name
        whole = path.read_text(encoding="utf-8")
        if text not in whole:
            sys.exit(f"{mutant.name}: not found in {name}: {text!r}")
        path.write_text(whole.replace(text, instead, 1), encoding="utf-8")


def restore(tree: Path, mutant: Mutant) -> None:
    """Put it back."""
    for name, _, _ in mutant.changes:
        shutil.copy2(ROOT / name, tree / name)


def page(verdicts: list[tuple[Mutant, Verdict]]) -> str:
    """The report."""
    lines = [
        "# The tests, put to the test",
        "",
        "Written by `make prove-tests`: in a copy of the tree one thing that keeps a promise is "
        "taken out at a time, and the tests must turn red.",
        "",
        "| taken out | where | red first | seconds |",
        "|---|---|---|---|",
    ]
    for mutant, verdict in verdicts:
        where = ", ".join(
            sorted({f"`{name.removeprefix('src/')}`" for name, _, _ in mutant.changes})
        )
        first = "**nothing: it survived**" if verdict.green else f"`{verdict.first}`"
        lines.append(f"| {mutant.says} | {where} | {first} | {verdict.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Prove the tests; the names of mutants on the command line choose some."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="audiobot-proof-") as temporary:
        tree = Path(temporary)
        copy_tree(tree)
        for tests in sorted({test for mutant in chosen for test in mutant.tests}):
            verdict = run(tree, (tests,))
            sys.stderr.write(f"as it is: {tests}: {verdict}\n")
            if not verdict.green:
                return 1
        verdicts = []
        for mutant in chosen:
            mutate(tree, mutant)
            verdict = run(tree, mutant.tests)
            restore(tree, mutant)
            verdicts.append((mutant, verdict))
            sys.stderr.write(f"without {mutant.says}: {verdict}\n")
    if len(chosen) == len(MUTANTS):
        PAGE.write_text(page(verdicts), encoding="utf-8")
    return 1 if any(verdict.green for _, verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
