"""A proof's pictures: how it learned, what it risks by answering, whether its word holds."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from audiobot.domain import Language
from audiobot.proving.arms import DRAWN, FROZEN, RISK, Lived
from audiobot.proving.experiment import Measured, Proof
from audiobot.proving.words import arm_name, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes", Measured, Language], None]

_COLOURS: Final = {
    "both": "#1b7f5c",
    "corrections": "#3a6fb7",
    "ratings": "#c77d0a",
    "nearest": "#a04a8a",
    FROZEN: "#6b6b6b",
}


def picture(proof: Proof, language: Language) -> bytes:
    """All of it as one PNG: a row for each company, a column for each question."""
    return _png(
        [(draw, measured) for measured in proof.measured for draw in DRAWINGS.values()],
        language,
        columns=len(DRAWINGS),
        size=(4.6, 3.7),
        titled=True,
    )


def single(name: str, measured: Measured, language: Language) -> bytes:
    """One of them, as wide as a phone."""
    return _png([(DRAWINGS[name], measured)], language, columns=1, size=(5.0, 3.8), titled=False)


def _png(
    drawings: Sequence[tuple[Draw, Measured]],
    language: Language,
    *,
    columns: int,
    size: tuple[float, float],
    titled: bool,
) -> bytes:
    # Half a second of imports that no other command needs; no window is ever opened.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = len(drawings) // columns
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (draw, measured) in enumerate(drawings):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.grid(visible=True, color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, measured, language)
        if titled and place % columns == 0:
            axes.set_title(word(f"set_{measured.name}", language), loc="left", weight="bold")
        axes.legend(frameon=False, fontsize=8.5)
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": "audiobot"})
    return written.getvalue()


def _learning(axes: Axes, measured: Measured, language: Language) -> None:
    """Accuracy over turns, with its bounds."""
    for lived in sorted(measured.arms, key=_rank):
        colour = _COLOURS.get(lived.arm)
        if colour is None:
            continue
        turns = [point.turns for point in lived.curve]
        values = [100 * point.accuracy.value for point in lived.curve]
        style = "--" if lived.arm == FROZEN else "-"
        axes.plot(turns, values, style, color=colour, label=arm_name(lived.arm, language))
        axes.fill_between(
            turns,
            [100 * point.accuracy.low for point in lived.curve],
            [100 * point.accuracy.high for point in lived.curve],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    _name(axes, "axis_turns", "axis_right", language)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low - 0.45 * (high - low)), min(100.0, high + 3))


def _risk(axes: Axes, measured: Measured, language: Language) -> None:
    """How much is wrong when so much is answered; what the shipped threshold makes of it."""
    for lived in _judged(measured):
        colour = _COLOURS[lived.arm]
        axes.plot(
            [100 * coverage for coverage, _ in lived.risk],
            [100 * wrong for _, wrong in lived.risk],
            "--" if lived.arm == FROZEN else "-",
            color=colour,
            label=arm_name(lived.arm, language),
        )
        if lived.told is not None and lived.told.wrong is not None:
            coverage, wrong = lived.told.coverage.value, lived.told.wrong.value
            label = word("shipped", language) if lived.arm == "both" else None
            axes.plot(100 * coverage, 100 * wrong, "o", color=colour, label=label)
    axes.axhline(100 * RISK, color="#b3261e", linewidth=1, linestyle=":")
    axes.text(1, 100 * RISK, f"{RISK:.0%}", color="#b3261e", fontsize=8.5, va="bottom")
    axes.set_xlim(0, 101)
    axes.set_ylim(0, None)
    _name(axes, "axis_coverage", "axis_wrong", language)


def _reliability(axes: Axes, measured: Measured, language: Language) -> None:
    """Told probability against what came true."""
    axes.plot([0, 100], [0, 100], color="#b3261e", linewidth=1, linestyle=":")
    for lived in _judged(measured):
        count = sum(bin_.count for bin_ in lived.reliability)
        places = [100 * bin_.probability for bin_ in lived.reliability]
        shares = [100 * bin_.right for bin_ in lived.reliability]
        colour = _COLOURS[lived.arm]
        axes.plot(
            places, shares, "--" if lived.arm == FROZEN else "-", color=colour, linewidth=1,
            label=arm_name(lived.arm, language),
        )  # fmt: skip
        sizes = [12 + 500 * bin_.count / count for bin_ in lived.reliability]
        axes.scatter(places, shares, s=sizes, color=colour, alpha=0.6, linewidth=0)
    axes.set_xlim(0, 102)
    axes.set_ylim(0, 104)
    _name(axes, "axis_probability", "axis_share", language)


DRAWINGS: Final[dict[str, Draw]] = {
    "learning": _learning,
    "risk": _risk,
    "reliability": _reliability,
}


def _rank(lived: Lived) -> int:
    return DRAWN.index(lived.arm) if lived.arm in DRAWN else len(DRAWN)


def _judged(measured: Measured) -> list[Lived]:
    """The two whose probabilities are worth a look: taught, and untaught."""
    return [one for one in sorted(measured.arms, key=_rank) if one.arm in {"both", FROZEN}]


def _name(axes: Axes, x: str, y: str, language: Language) -> None:
    named: dict[str, Any] = {"xlabel": word(x, language), "ylabel": word(y, language)}
    axes.set(**named)
