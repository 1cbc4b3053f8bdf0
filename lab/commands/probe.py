"""`lab probe`: what is inside a trained model."""

from dataclasses import asdict

from cyclopts import App

from lab.commands.common import Flag, Names, add_plugins, print_json
from lab.errors import UsageError

probe = App(name="probe", help="Look inside a trained model of a stored run.", help_format="plaintext")


@probe.command
def noise_scale(
    run: str, /, *, measurements: int = 16, results: str = "results", plugin: Names | None = None, json: Flag = False
) -> None:
    """Measure the gradient noise scale at a run's last weights, and the batch that it suggests.

    Parameters
    ----------
    run
        Id, or folder, of a run.
    measurements
        Pairs of gradients, of the run's batch and of sixteen of them.
    results
        Folder of the runs.
    plugin
        Python files with an architecture or a task that the run used. Their code is run.
    json
        Print JSON.
    """
    if not 2 <= measurements <= 1 << 16:
        raise UsageError(f"--measurements {measurements}: from 2 to {1 << 16}")
    from lab.probes.noise_scale import measure
    from lab.run import Store

    add_plugins(plugin)
    found = measure(run, Store(results), measurements)
    if json:
        print_json(asdict(found) | {"batch": found.batch})
    else:
        print(found)
