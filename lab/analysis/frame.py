"""Records on disk as data frames: a row a run, or a row a point of a curve. The only part of the analysis that reads files."""

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from lab.run import SCHEMA

CURVE_COLUMNS = ["id", "architecture", "task", "budget", "seed", "step", "tokens", "flops", "seconds", "loss"]


def results(path: str | Path = "results") -> pd.DataFrame:
    """A row for every run that ended, below `<path>/runs`.

    Columns: id, status, architecture, task, dim, depth, seed, budget, batch, precision, lr, match of sizes (params, flops,
    tokens, steps, planned_steps, flops_per_token, state_size), cost (seconds, peak_memory), score (test score by `metric`),
    loss (test, nats), chance, higher_is_better, reason, baselines, refused, environment, and every score as `test.<name>` or
    `validation.<name>`. Records that cannot be read are left out with one warning that names them.
    """
    rows, broken = [], []
    for file in sorted(Path(path).glob("runs/*/run.json")):
        try:
            record = json.loads(file.read_bytes())
            if record["schema"] > SCHEMA:
                raise ValueError(f"made by a newer lab (schema {record['schema']}, this one reads {SCHEMA})")
            rows.append(_row(record))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            broken.append(f"{file.parent.name} ({type(error).__name__}: {error})")
    if broken:
        warnings.warn(f"{len(broken)} records left out: {'; '.join(broken)}", stacklevel=2)
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.sort_values(["task", "architecture", "budget", "seed"], ignore_index=True)


def curves(path: str | Path = "results") -> pd.DataFrame:
    """A row for every point of every training curve: loss is the mean in nats since the point before, flops are training FLOPs."""
    rows = []
    for file in sorted(Path(path).glob("runs/*/curve.jsonl")):
        try:
            spec = json.loads((file.parent / "spec.json").read_bytes())
            run = [file.parent.name, *(spec[key] for key in ("architecture", "task", "budget", "seed"))]
        except (ValueError, KeyError, OSError):
            continue
        for line in file.read_text("utf-8", errors="replace").splitlines():
            try:
                point = json.loads(line)
                rows.append([*run, *(point[key] for key in CURVE_COLUMNS[5:])])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was killed may be cut off
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    spec, scores = record["spec"], record["scores"]
    metric, test = record["metric"], record["scores"].get("test", {})
    row = {
        "id": record["id"],
        "status": record["status"],
        **{name: spec[name] for name in ("architecture", "task", "dim", "depth", "seed", "budget", "batch", "precision")},
        "lr": spec["recipe"].get("lr"),
        "params": record["parameters"],
        **{
            name: record[name]
            for name in ("flops", "tokens", "steps", "planned_steps", "flops_per_token", "state_size", "seconds")
        },
        "peak_memory": record["peak_memory"],
        "metric": metric,
        "higher_is_better": record["higher_is_better"],
        "score": test.get(metric),
        "loss": test.get("loss"),
        "chance": record["baselines"].get("chance"),
        "baselines": record["baselines"],
        "refused": record["refused"],
        "reason": record["reason"],
        "data": spec["data"],
        "environment": record["environment"],
    }
    return row | {f"{split}.{name}": value for split, part in scores.items() for name, value in part.items()}
