"""Whether what was measured supports a claim: each rule of a study becomes a clause with a number and its interval.

A clause is supported where the whole 95 % interval lies on the side of the bound that the rule names, not supported where it
lies on the other, else undecided. Replicates are seeds (of a speed: repeated measurements). Rows `of` and `against` are paired
where they agree in everything that neither names and that varies on a side, seed included; the differences of a seed are
averaged (or the greatest, or the least, stands for them), and the interval is a t-interval over seeds. A row that has an interval
of its own (a multiplier, from its bootstrap) keeps it.

The claim is supported where all clauses are: each is tested at 2.5 % a side, so all together at no more (an intersection-union
test; Berger, 1982). It is not supported where one clause is not, else undecided.
"""

# what pandas' own hints say of a selection is a union of everything
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportReturnType=false

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lab.analysis.labels import several, span
from lab.analysis.statistics import FEWEST, bounded, half_width
from lab.errors import UsageError, nearest
from lab.study import Rule

KEYS = ("part", "architecture", "task", "budget", "length", "step", "against")
"""What tells rows apart, besides the seed."""
TAKEN = {"mean": "mean", "greatest": "max", "least": "min"}
Verdict = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Clause:
    """A rule and what came of it: value with its 95 % interval, from so many replicates; lost: runs without the quantity.

    reason: why there is no value, or no interval; a value that is not known may still be between bounds.
    """

    rule: Rule
    value: float
    low: float
    high: float
    count: int
    lost: int
    reason: str = ""

    @property
    def bound(self) -> float:
        return float(self.rule.above if self.rule.above is not None else self.rule.below)  # pyright: ignore[reportArgumentType]

    @property
    def verdict(self) -> Verdict:
        side = {"supported": self.low > self.bound, "not supported": self.high <= self.bound}
        if self.rule.below is not None:
            side = {"supported": self.high < self.bound, "not supported": self.low >= self.bound}
        return next((name for name, holds in side.items() if holds), "undecided")

    @property
    def measure(self) -> str:
        """What the number is."""
        name = self.rule.quantity.replace("_", " ").replace(".", ": ")
        name = f"{self.rule.by} of {name}" if self.rule.against else name
        return name if self.rule.take == "mean" else f"{self.rule.take} {name}"

    @property
    def asked(self) -> str:
        return f"{'above' if self.rule.above is not None else 'below'} {self.bound:g}"

    @property
    def told(self) -> str:
        """The number with its interval, or why there is none; what was lost."""
        lost = f"; {self.lost} runs have no such number" if self.lost else ""
        if known := math.isnan(self.value) and bounded(self.low, self.high):
            return f"{known}, {self.reason}{lost}"
        if math.isnan(self.low):
            return (f"{self.value:.3g}, " if self.value == self.value else "") + self.reason + lost
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]{lost}"


def decide(rules: Sequence[Rule], rows: pd.DataFrame) -> list[Clause]:
    """A clause for each rule.

    Raises:
        UsageError: a rule names a column that there is not.
    """
    return [_clause(rule, rows) for rule in rules]


def verdict(clauses: Sequence[Clause]) -> Verdict:
    """Of the claim."""
    found = {clause.verdict for clause in clauses}
    return "not supported" if "not supported" in found else "undecided" if "undecided" in found else "supported"


def sentence(clauses: Sequence[Clause], rows: pd.DataFrame) -> str:
    """What the data say of the claim, with numbers, intervals and the range in which they hold."""
    told = [f"{each.rule.said}: {each.verdict} ({each.measure} {each.told}, asked {each.asked})" for each in clauses]
    where = f" {scope(rows)}" if scope(rows) else ""
    return f"{verdict(clauses).capitalize()}{where}: {'; '.join(told)}."


def scope(rows: pd.DataFrame) -> str:
    """The range of budgets, lengths and seeds that was measured, in words."""
    found = []
    if "budget" in rows and rows["budget"].notna().any():
        found.append(f"at {span(rows['budget'])} FLOPs a run")
    if "length" in rows and rows["length"].notna().any():
        found.append(f"at lengths of {span(rows['length'])}")
    if "seed" in rows and (counts := rows.groupby("part")["seed"].nunique().pipe(lambda n: n[n > 0])).any():
        found.append(f"with {span(counts)} seeds")
    return ", ".join(found)


def _clause(rule: Rule, rows: pd.DataFrame) -> Clause:
    if rule.quantity not in rows:
        raise UsageError(_unknown(rule, rule.quantity, rows))
    of = _chosen(rule, rule.of, rows)
    if not rule.against and (ends := [f"{rule.quantity}_{end}" for end in ("low", "high")]) and set(ends) <= set(rows):
        return _by_its_own(rule, of, ends)
    others = _chosen(rule, rule.against, rows) if rule.against else of
    keys = [key for key in KEYS if key in rows and key not in rule.of and key not in rule.against]
    keys = [key for key in keys if max(of[key].nunique(dropna=False), others[key].nunique(dropna=False)) > 1]
    values, lost = _by_seed(of, keys, rule), int(of[rule.quantity].isna().sum())
    if rule.against:
        values, lost = values - _by_seed(others, keys, rule), lost + int(others[rule.quantity].isna().sum())
    values = values.replace([np.inf, -np.inf], np.nan).dropna().groupby(level="seed").agg(TAKEN[rule.take])
    mean, half = values.mean(), float(half_width(np.array([values.std(ddof=1)]), np.array([len(values)]))[0])
    value, low, high = np.array([mean, mean - half, mean + half], float)
    if rule.by == "ratio" and rule.against:
        value, low, high = np.exp([value, low, high])
    reason = "" if len(values) >= FEWEST else f"{len(values)} of {FEWEST} seeds needed"
    return Clause(rule, float(value), float(low), float(high), len(values), lost, reason)


def _by_its_own(rule: Rule, rows: pd.DataFrame, ends: Sequence[str]) -> Clause:
    if len(rows) != 1:
        raise UsageError(f"rule {rule.said!r}: {len(rows)} rows are meant where one is needed; say more in its of")
    row = rows.iloc[0]
    value, low, high = (float(row[name]) for name in (rule.quantity, *ends))
    reason = str(row.get("reason") or "no interval") if math.isnan(value) or math.isnan(low) else ""
    return Clause(rule, value, low, high, 1, 0, reason)


def _chosen(rule: Rule, wanted: Mapping[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    for key, value in wanted.items():
        if key not in rows:
            raise UsageError(_unknown(rule, key, rows))
        known, rows = rows[key].dropna().unique(), rows.loc[rows[key].isin(value if isinstance(value, list) else [value])]
        if rows.empty:
            there = several([str(each) for each in known])
            raise UsageError(f"rule {rule.said!r}: nothing measured has {key} {value!r}; there are {there}")
    return rows


def _unknown(rule: Rule, name: str, rows: pd.DataFrame) -> str:
    return f"rule {rule.said!r}: nothing measured is called {name!r}; {nearest(name, list(rows))}"


def _by_seed(rows: pd.DataFrame, keys: list[str], rule: Rule) -> pd.Series:
    """Means of the quantity, of its logarithm for a ratio, by keys and seed."""
    values = rows[rule.quantity].astype(float)
    if rule.by == "ratio" and rule.against:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log(values)
    return values.groupby([rows[key] for key in (*keys, "seed")], dropna=False).mean()


def table(clauses: Sequence[Clause]) -> pd.DataFrame:
    """A row a clause: said, quantity, value, low, high, asked, verdict, replicates, lost, reason."""
    rows = [
        (
            each.rule.said,
            each.measure,
            each.value,
            each.low,
            each.high,
            each.asked,
            each.verdict,
            each.count,
            each.lost,
            each.reason,
        )
        for each in clauses
    ]
    columns = ["said", "quantity", "value", "low", "high", "asked", "verdict", "replicates", "lost", "reason"]
    return pd.DataFrame(rows, columns=columns)
