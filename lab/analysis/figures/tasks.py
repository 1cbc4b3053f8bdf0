"""Architectures over many tasks: scores at a glance, performance profiles, and how soon runs solve a task."""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import numpy as np
import pandas as pd
from matplotlib import colormaps

from lab.analysis.aggregate import normalised, performance_profile
from lab.analysis.canvas import COLUMN, INK, Chart, legend, log_axis, panels, sheet
from lab.analysis.labels import caption, columns_of, labelled, measure, quantity
from lab.analysis.solving import THETA, kaplan_meier, solve_runs
from lab.analysis.statistics import summary
from lab.analysis.styles import only, styles
from lab.analysis.text import wrapped_name


def task_matrix_chart(frame: pd.DataFrame) -> Chart | None:
    """Mean scores, tasks down and architectures across; colour: how far from chance to the best that is possible.

    None where fewer than two tasks have a score.
    """
    frame = labelled(frame)
    cells = summary(frame).dropna(subset="mean")
    columns, rows = columns_of(cells), columns_of(cells, "row") if len(cells) else []
    if len(columns) < 2:
        return None
    chances = frame.groupby("column")["chance"].first()
    best = {column: float(measure(frame[frame["column"] == column])[1]) for column in columns}
    cells["of_the_way"] = [
        (mean - chances[column]) / (best[column] - chances[column])
        for column, mean in zip(cells["column"], cells["mean"], strict=True)
    ]
    across = [len(max(wrapped_name(row, 14), key=len)) for row in rows]
    with sheet():
        chart, (axes,) = panels([""], height=0.35 + 0.075 * max(across) + 0.27 * len(columns),
                                width=max(COLUMN, 1.4 + 0.42 * len(rows)))  # fmt: skip
        shades = colormaps["cividis"]
        for cell in cells.itertuples():
            x, y, share = rows.index(cell.row), columns.index(cell.column), np.clip(np.nan_to_num(cell.of_the_way), 0, 1)
            axes.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=shades(share), linewidth=0)
            axes.text(x, y, f"{cell.mean:.2f}", ha="center", va="center", fontsize=7, color="white" if share < 0.55 else INK)
        axes.set_xticks(range(len(rows)), ["\n".join(wrapped_name(row, 14)) for row in rows], rotation=90)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(columns)), ["\n".join(wrapped_name(column, 18)) for column in columns])
        axes.set(xlim=(-0.55, len(rows) - 0.45), ylim=(len(columns) - 0.45, -0.55))
        axes.grid(False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    chart.data = cells.sort_values(["column", "row"], ignore_index=True)
    chart.caption = caption(
        frame,
        "Mean test score at equal training compute. Colour: from chance (dark) to the best that is possible (light), which is 1 "
        "for shares of right answers and 0 for losses.",
        interval=False,
    )
    chart.alt = "Mean test scores. " + "; ".join(
        f"{column}: " + ", ".join(f"{cell.row} {cell.mean:.3f}" for cell in part.itertuples())
        for column, part in chart.data.groupby("column")
    )
    return chart


def performance_profile_chart(frame: pd.DataFrame) -> Chart | None:
    """The share of runs over all tasks that score above each threshold; None where fewer than two tasks score right answers."""
    scores = normalised(frame).dropna(subset="normalised")
    tasks = set(scores["column"])
    whole = [row for row, part in scores.groupby("row") if set(part["column"]) == tasks]
    if len(tasks) < 2 or not whole:
        return None
    looks, tables = styles(whole), []
    with sheet():
        chart, (axes,) = panels([f"{len(tasks)} tasks"], height=2.3, width=COLUMN)
        for row in whole:
            part = scores[scores["row"] == row]
            made = performance_profile({str(k): v.to_numpy() for k, v in part.groupby("column")["normalised"]})
            style = looks[row]
            axes.plot(made["threshold"], made["share"], color=style.colour, linestyle=style.dash)
            axes.plot(made["threshold"][::20], made["share"][::20], marker=style.marker, color=style.colour, linestyle="none")
            axes.fill_between(made["threshold"], made["low"], made["high"], color=style.colour, alpha=0.15, linewidth=0)
            tables.append(made.assign(row=row))
        axes.set(xlabel="score from chance (0) to all right (1)", ylabel="share of runs above it", ylim=(-0.03, 1.03))
        legend(chart, only(looks, whole))
    chart.data = pd.concat(tables, ignore_index=True)
    left = sorted(set(scores["row"]) - set(whole))
    chart.caption = caption(
        labelled(frame)[lambda made: made["column"].isin(tasks)],
        f"Performance profile over {', '.join(sorted(tasks))}: the share of runs that score above each threshold, diverged runs "
        "as chance. Band: pointwise 95 %, bootstrap within tasks."
        + (f" Left out, without a run on every task: {', '.join(left)}." if left else ""),
        interval=False,
    )
    half = chart.data[np.isclose(chart.data["threshold"], 0.5)]
    chart.alt = "Share of runs above half of the way. " + "; ".join(f"{each.row} {each.share:.2f}" for each in half.itertuples())
    return chart


def solve_times_chart(frame: pd.DataFrame, curves: pd.DataFrame) -> Chart | None:
    """The share of runs that have not solved their task against training FLOPs; None where no run solved one."""
    frame = labelled(frame)
    runs = solve_runs(frame, curves)
    solved = runs.groupby("column")["solved"].any()
    runs = runs[runs["column"].isin(solved.index[solved])]
    if runs.empty:
        return None
    looks, titles, tables = styles(runs["row"]), columns_of(runs), []
    with sheet():
        chart, every = panels(titles, height=2.2, **({"width": COLUMN} if len(titles) == 1 else {}))
        for axes, title in zip(every, titles, strict=True):
            part = runs[runs["column"] == title]
            ends = float(part["flops"].min()) / 1.3, float(part["flops"].max())
            for row, mine in part.groupby("row"):
                style, made = looks[str(row)], kaplan_meier(mine["flops"], mine["solved"])
                start = {"flops": ends[0], "unsolved": 1.0, "low": 1.0, "high": 1.0}
                steps = pd.concat([pd.DataFrame([start]), made], ignore_index=True)
                steps = pd.concat([steps, steps.iloc[[-1]].assign(flops=mine["flops"].max())], ignore_index=True)
                axes.step(steps["flops"], steps["unsolved"], where="post", color=style.colour, linestyle=style.dash)
                axes.fill_between(steps["flops"], steps["low"], steps["high"], step="post", color=style.colour, alpha=0.12,
                                  linewidth=0)  # fmt: skip
                lost = mine[~mine["solved"]]
                left = [float(steps.loc[steps["flops"] <= flops, "unsolved"].iloc[-1]) for flops in lost["flops"]]
                axes.plot(
                    lost["flops"], left, marker="|", markersize=7, markeredgewidth=1.2, color=style.colour, linestyle="none"
                )
                tables.append(made.assign(column=title, row=row, runs=len(mine)))
            log_axis(axes.xaxis, *ends)
            axes.set(xlabel="training FLOPs", ylabel="share not solved", ylim=(-0.03, 1.05))
        legend(chart, {name: look for name, look in looks.items()})
    chart.data = pd.concat(tables, ignore_index=True)
    chart.caption = caption(
        frame[frame["column"].isin(titles)],
        f"Kaplan-Meier curves: the share of runs that have not solved the task, {100 * THETA:.0f} % of the way from chance to "
        "all right at three evaluations in a row. Ticks: runs that ended unsolved. Band: 95 %, Greenwood's variance on the "
        "log-log scale.",
        interval=False,
    )
    medians = runs.groupby(["column", "row"]).agg(solved=("solved", "sum"), runs=("solved", "size"))
    chart.alt = "Runs that solved. " + "; ".join(
        f"{row} on {column} {int(each.solved)} of {int(each.runs)}, the first after "
        f"{quantity(runs.loc[(runs['column'] == column) & (runs['row'] == row), 'flops'].min())} FLOPs"
        for (column, row), each in medians.iterrows()
    )
    return chart
