"""`lab generate`."""

from lab.commands.common import Names, add_plugins
from lab.errors import UsageError


def generate(
    run: str,
    /,
    *,
    prompt: str,
    tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    plugin: Names | None = None,
    results: str = "results",
) -> None:
    """Continue a text with the model of a run, byte by byte as it comes.

    Parameters
    ----------
    run
        Id of a run on a language task, or its folder.
    prompt
        What the text begins with.
    tokens
        Bytes to generate.
    temperature
        Divides the logits before drawing: 1 draws as the model predicts, 0 takes the likeliest byte.
    seed
        Seed of the draws.
    plugin
        Python files with an architecture or a task that the run used. Their code is run.
    results
        Folder of the runs.
    """
    if not prompt:
        raise UsageError("--prompt: give at least one character to begin with")
    if tokens < 1:
        raise UsageError(f"--tokens {tokens}: at least 1")
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"--temperature {temperature}: must be 0 or more")
    from lab import generation
    from lab.run import Store

    add_plugins(plugin)
    model = generation.load(run, Store(results))
    given = prompt.encode("utf-8", "surrogateescape")
    print(given.decode("utf-8", "replace"), end="", flush=True)
    found = generation.symbols(model, given, temperature=temperature, seed=seed)
    for piece in generation.text(found, tokens):
        print(piece, end="", flush=True)
    print()
