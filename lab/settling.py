"""Runs that depend on what came of others: whoever asks is asked again after each run, until nobody wants more."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lab.engines import Start
from lab.planning import Planned
from lab.progress import Display
from lab.run import FINAL, Spec, Store

Outcomes = Mapping[str, float | None]
"""Validation loss in nats by run id; None of a run that has none: it diverged or failed."""


@runtime_checkable
class Asker(Protocol):
    """Something that runs are done for."""

    def wanted(self, outcomes: Outcomes) -> list[Planned]:
        """What is to be done now, as far as it follows from the outcomes; nothing where all is done."""
        ...


def settle(askers: Sequence[Asker], store: Store, start_pool: Start, expected: int, started: float) -> Outcomes:
    """Do what is missing until nobody wants more; all outcomes that were asked for.

    start_pool: called only if there is anything to do. expected: number of runs, for the time left.
    """
    outcomes: dict[str, float | None] = {}
    handed: set[str] = set()
    ended: set[str] = set()

    def more() -> list[Spec]:
        """What became possible; reads in the store what is there already."""
        fresh: dict[str, Spec] = {}
        for asker in askers:
            while True:
                wanted = asker.wanted(outcomes)
                found = {
                    each.spec.id: _loss(record)
                    for each in wanted
                    if (record := store.find(each.spec.id)) and (record["status"] in FINAL or each.spec.id in ended)
                }
                outcomes.update(found)
                if not found:
                    break
            fresh |= {each.spec.id: each.spec for each in wanted if each.spec.id not in handed}
        handed.update(fresh)
        return list(fresh.values())

    first = more()
    if not first:
        return outcomes
    pool = start_pool(store)
    try:
        with Display(first, started) as display:
            display.expect(max(expected - len(outcomes), len(first)))

            def listen(spec: Spec, event: dict[str, Any]) -> None:
                if event["event"] == "end" and event["status"] != "interrupted":
                    ended.add(spec.id)
                display.expect(max(display.total, len(handed)))
                display(spec, event)

            pool.carry_out(first, listen, more)
        display.summarise()
    finally:
        pool.close()
    return outcomes


def _loss(record: Mapping[str, Any]) -> float | None:
    return record["scores"].get("validation", {}).get("loss")
