"""Training speed: a frame of results in, a Chart out."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lab.analysis.canvas import FULL, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.labels import caption, columns_of, family, labelled, quantity, several
from lab.analysis.styles import Style, only, styles
from lab.analysis.text import wrapped_name


def throughput_against_length(frame: pd.DataFrame) -> Chart | None:
    """Training tokens a second against length: as measured of each backbone at several lengths, or else over the lengths that a
    task was trained at; where there is one length only, `speed_by_task`. None where no run finished.
    """
    frame = labelled(frame)
    data, measured = by_length(frame)
    if data.empty:
        return speed_by_task(frame)
    looks = styles([*frame["row"], *data["row"]])
    titles = columns_of(data, "panel")
    with sheet():
        chart, every = panels(titles, height=2.3)
        for axes, title in zip(every, titles, strict=True):
            _speed_lines(axes, data[data["panel"] == title], looks)
        legend(chart, only(looks, data["row"]))
    chart.data = data.sort_values(["panel", "row", "length", "seed"], ignore_index=True)
    what = (
        "through the backbone, forward and backward, measured after training" if measured else "of the runs, evaluation left out"
    )
    chart.caption = caption(
        frame,
        f"Training speed against length, both logarithmic: tokens a second {what}, on {_machines(frame)}; it depends on the "
        "machine and on what else it did. Lines: means over seeds; dots: seeds.",
        interval=False,
    )
    means = data.groupby(["panel", "row", "length"])["tokens_per_second"].mean()
    chart.alt = "Training tokens a second: " + ", ".join(
        f"{row} on {panel} at length {length:.0f} {quantity(value)}" for (panel, row, length), value in means.items()
    )
    return chart


def by_length(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Long: panel, row, length, seed, tokens_per_second, of what was recorded at two lengths or more; and whether that was
    measured of the backbone, not taken from whole runs.
    """
    rows = [
        {"panel": column, "row": row, "length": float(length), "seed": seed, "tokens_per_second": float(speed)}
        for column, row, seed, named in zip(frame["column"], frame["row"], frame["seed"], frame["throughput"], strict=True)
        for length, speed in named.items()
        if speed
    ]
    measured = pd.DataFrame(rows, columns=["panel", "row", "length", "seed", "tokens_per_second"])
    if measured["length"].nunique() > 1:
        return measured, True
    ran = _finished(frame).rename(columns={"family": "panel"}).assign(row=lambda made: made["architecture"])
    lengths = ran.groupby("panel")["length"].nunique()
    return ran.loc[ran["panel"].isin(lengths.index[lengths > 1]), list(measured.columns)], False


def speed_by_task(frame: pd.DataFrame) -> Chart | None:
    """A bar for each architecture and task: training tokens a second, and the seconds that the budget took.

    None where no run finished.
    """
    frame = labelled(frame)
    ran = _finished(frame)
    if ran.empty:
        return None
    with sheet():
        chart = _speed_bars(ran, styles(frame["row"]))
    names = ["column", "row", "length", "seed", "tokens_per_second", "seconds", "tokens", "device", "processor", "threads"]
    chart.data = ran[names].sort_values(names[:4], ignore_index=True)
    chart.caption = caption(
        frame,
        f"Training speed of the runs, evaluation left out, on {_machines(frame)}; it depends on the machine and on what else it "
        "did. Bars: means over seeds; dots: seeds.",
        interval=False,
    )
    means = ran.groupby(["column", "row"])["tokens_per_second"].mean()
    chart.alt = "Training tokens a second: " + ", ".join(
        f"{row} on {column} {quantity(value)}" for (column, row), value in means.items()
    )
    return chart


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    ran = frame[(frame["status"] == "done") & (frame["seconds"] > 0) & frame["length"].notna()]
    return ran.assign(tokens_per_second=ran["tokens"] / ran["seconds"], family=ran["task"].map(family))


def _machines(frame: pd.DataFrame) -> str:
    known = zip(frame["device"], frame["processor"], strict=True)
    return several(sorted({f"{device} ({name})" if device == "cpu" else str(device) for device, name in known}))


def _speed_lines(axes: Axes, part: pd.DataFrame, looks: dict[str, Style]) -> None:
    for name, mine in part.groupby("row", sort=True):
        style = looks[str(name)]
        means = mine.groupby("length")["tokens_per_second"].mean()
        axes.plot(means.index, means, **style.line)
        axes.plot(mine["length"], mine["tokens_per_second"], marker=".", linestyle="none", color=style.colour, markersize=3)
    log_axis(axes.xaxis, float(part["length"].min()), float(part["length"].max()))
    low, high = float(part["tokens_per_second"].min()), float(part["tokens_per_second"].max())
    log_axis(axes.yaxis, low, high)
    if high < 2 * low:  # a range that narrow would blow noise up to fill the panel
        axes.set_ylim((low * high) ** 0.5 / 1.7, (low * high) ** 0.5 * 1.7)
    axes.set(xlabel="length, positions", ylabel="training tokens a second")
    lengths = sorted(part["length"].unique())
    axes.set_xticks(lengths, [f"{length:.0f}" for length in lengths])


def _speed_bars(ran: pd.DataFrame, looks: dict[str, Style]) -> Chart:
    pairs = ran[["column", "row"]].drop_duplicates().sort_values(["column", "row"])
    columns = columns_of(ran)
    places, ticks, at = {}, [], 0.0
    for column in columns:
        names = list(pairs.loc[pairs["column"] == column, "row"])
        places |= {(column, name): at + i for i, name in enumerate(names)}
        ticks.append(at + (len(names) - 1) / 2)
        at += len(names) + 0.8
    chart, (left, right) = panels(["speed", "time"], height=1.0 + 0.17 * at, across=2, sharey=True)
    chart.set_figwidth(FULL)
    chart.get_layout_engine().set(wspace=0.09)  # pyright: ignore[reportOptionalMemberAccess]
    kinds = (("tokens_per_second", "training tokens a second"), ("seconds", "seconds to spend the budget"))
    for axes, (value, words) in zip((left, right), kinds, strict=True):
        for (column, row), mine in ran.groupby(["column", "row"]):
            place, mean, colour = places[column, row], mine[value].mean(), looks[str(row)].colour
            axes.barh(place, mean, height=0.8, color=colour, alpha=0.55, linewidth=0)
            axes.plot(
                mine[value],
                [place] * len(mine),
                marker=looks[str(row)].marker,
                linestyle="none",
                color=colour,
                markersize=3.2,
                markeredgecolor="white",
                markeredgewidth=0.3,
            )
            edge = max(mean, mine[value].max())
            axes.annotate(
                quantity(mean),
                (edge, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color=INK,
            )
        axes.set(xlabel=words)
        axes.set_title("", loc="left")
        axes.grid(False, axis="y")
        axes.margins(x=0.14)
        axes.set_xlim(0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_amount))
    left.set_yticks(ticks, ["\n".join(wrapped_name(column, 18)) for column in columns])
    left.set_ylim(at - 1.2, -0.7)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
    legend(chart, only(looks, ran["row"]), line=False)
    return chart


def _amount(value: float, place: int | None = None) -> str:
    return quantity(value)
