"""A made-up store that looks like a real one: records and curves, written without torch."""

import json
from dataclasses import asdict, replace

import numpy as np

from lab.run import Run, Spec, Store

RECIPE = {"lr": 3e-3, "warmup": 0.05, "final": 0.1, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.13.0",
    "lightning": "2.6.6",
    "numpy": "2.4.6",
    "commit": "1f3a9c07d2" * 4,
    "system": "Linux-6.1-x86_64",
    "processor": "Example CPU @ 2.50GHz",
    "device": "cpu",
    "cores": 2,
    "threads": 1,
    "process": {"malloc_keeps_blocks": True, "matmul_precision": "highest"},
}
QUALITY = {  # mean score of transformer, linear_rnn, lstm
    "recall": (0.962, 0.431, 0.118),
    "copying": (0.871, 0.655, 0.648),
    "text": (2.31, 2.27, 2.52),
    "digits": (0.935, 0.948, 0.941),
}
BASELINES = {
    "recall": {"chance": 0.03125, "a value of the context": 0.25},
    "copying": {"chance": 1 / 14},
    "text": {"chance": 8.0, "order-3 n-gram": 2.62},
    "digits": {"chance": 0.1},
}
LENGTHS = {"recall": 64, "copying": 64, "text": 256, "digits": 64}
SPEED = {"transformer": 1.0, "linear_rnn": 0.8, "lstm": 0.22}


def spec(architecture="transformer", task="recall", seed=0, **changes):
    """A spec as the planner would make it."""
    name = task.partition(":")[0]
    made = Spec(
        architecture=architecture,
        settings={},
        dim=64,
        depth=2,
        task=task,
        task_settings={},
        code={},
        data="",
        budget=1e11,
        batch=512 // LENGTHS.get(name, 64),
        seed=seed,
        precision="float32",
        recipe=RECIPE,
    )
    return replace(made, **{"data": "9f2c41aa7b" * 6 if name == "text" else ""} | changes)


def run(of: Spec, score: float | None, **changes) -> Run:
    """A finished run with every kind of score that the lab gives, around `score`."""
    architecture, task = of.names
    text, length = task == "text", LENGTHS.get(task, 64)
    metric = "bits_per_byte" if text else "accuracy"
    per_token = {"transformer": 2.4e5, "linear_rnn": 2.2e5, "lstm": 2.6e5}.get(architecture, 2.5e5)
    steps = int(of.budget / (3 * per_token * length * of.batch))
    tokens = steps * of.batch * length
    rng = np.random.default_rng([of.seed, *of.architecture.encode(), *of.task.encode()])
    test = {
        "loss": None if score is None else score * np.log(2) if text else float(2.4 * (1 - score) ** 1.2 + 0.02),
        metric: score,
    }
    shape = [] if score is None else np.linspace(1, 0.25, 4)
    better = dict(zip((64, 128, 256, 512), shape, strict=False))
    if score is not None and task == "recall":
        test |= {
            f"accuracy[gap={a}-{2 * a - 1}]": float(np.clip(score * better[64 << i] + rng.normal(0, 0.02), 0, 1))
            for i, a in enumerate((1, 2, 4, 8))
        } | {"accuracy[gap=16-]": score * 0.2}
        test |= {
            f"accuracy@pairs={p},length={n}": float(np.clip(score * f + rng.normal(0, 0.02), 0, 1))
            for p, n, f in ((4, 128, 0.8), (4, 256, 0.45), (8, 128, 0.5))
        }
    if score is not None and task == "copying":
        test |= {f"accuracy[place={i}]": float(np.clip(score * (1.1 - 0.05 * i), 0, 1)) for i in range(8)}
        test |= {"accuracy@tokens=8,length=128": score * 0.5, "accuracy@tokens=16,length=128": score * 0.3}
    if score is not None and task in ("recall", "copying"):
        test |= {name.replace("accuracy", "exact"): value / 2 for name, value in test.items() if name.startswith("accuracy")}
    if score is not None and text:
        test |= {"bits_per_byte@length=1024": score * (1.3 if architecture == "transformer" else 0.99)}
    made = Run(
        id=of.id,
        spec=of,
        status="done",
        scores={"validation": {"loss": test["loss"], metric: score}, "test": test},
        metric=metric,
        higher_is_better=not text,
        baselines=BASELINES.get(task, {"chance": 0.1}),
        flops=int(steps * 3 * per_token * length * of.batch),
        flops_by_kind={"contraction": 9, "mixing": 1, "pointwise": 0},
        evaluation_flops=10**9,
        flops_per_token=per_token,
        parameters=101_000 + 7 * len(architecture) * length,
        state_size={"transformer": 4 * 64 * length, "linear_rnn": 256}.get(architecture, 512),
        seconds=tokens / (1.4e5 * SPEED.get(architecture, 0.5)) * float(rng.uniform(0.97, 1.05)),
        tokens=tokens,
        steps=steps,
        planned_steps=steps,
        peak_memory=4 * 10**8,
        throughput={
            str(n): 1.5e5
            * SPEED.get(architecture, 0.5)
            / (1 + n / 700 * (architecture == "transformer"))
            * float(rng.uniform(0.95, 1.05))
            for n in (64, 256, 1024, 4096)
        },
        environment=ENVIRONMENT,
    )
    return replace(made, **changes)


def publish(root, made: Run, loss_from: float | None = None) -> Run:
    """Put a run and its curve into a store."""
    store = Store(root)
    store.publish(made)
    final = made.scores.get("test", {}).get("loss")
    start = loss_from or np.log({"text": 256, "recall": 64, "copying": 14}.get(made.spec.names[1], 10))
    rng = np.random.default_rng([made.spec.seed, made.steps])
    with open(store.folder(made.id) / "curve.jsonl", "w") as file:
        every = max(1, made.planned_steps // 200)
        for step in range(every, made.steps + 1, every):
            share = step / max(made.planned_steps, 1)
            loss = ((final or 1.0) + (start - (final or 1.0)) * np.exp(-9 * share**0.7)) * np.exp(rng.normal(0, 0.08))
            row = {
                "step": step,
                "tokens": made.tokens * step // made.steps,
                "flops": made.flops * step // made.steps,
                "seconds": made.seconds * step / made.steps,
                "loss": float(max(loss, 1e-3)),
            }
            file.write(json.dumps(row) + "\n")
    return made


def store(root, architectures=("transformer", "linear_rnn", "lstm"), tasks=tuple(QUALITY), seeds=3) -> list[Run]:
    """Three architectures on four tasks with three seeds: one diverged run, one failed run, one refused length."""
    made = []
    for i, architecture in enumerate(architectures):
        for task in tasks:
            for seed in range(seeds):
                rng = np.random.default_rng([seed, i, len(task)])
                means = QUALITY.get(task.partition(":")[0], (0.7, 0.6, 0.5))
                one = run(spec(architecture, task, seed), float(np.clip(means[i % 3] + rng.normal(0, 0.012), 0, 10)))
                if (architecture, task, seed) == ("lstm", "copying", 2):
                    one = replace(
                        one,
                        status="diverged",
                        scores={},
                        reason="loss was nan at step 121",
                        steps=120,
                        flops=one.flops * 120 // one.steps,
                        tokens=one.tokens * 120 // one.steps,
                    )
                if (architecture, task, seed) == ("linear_rnn", "digits", 1):
                    one = replace(
                        one,
                        status="failed",
                        scores={},
                        reason="MemoryError: out of memory",
                        steps=0,
                        tokens=0,
                        flops=0,
                        metric="",
                    )
                if (architecture, task) == ("transformer", "recall"):
                    test = {name: value for name, value in one.scores["test"].items() if name != "accuracy@pairs=4,length=256"}
                    refused = {"pairs=4,length=256": "positions are learned up to 128"}
                    one = replace(one, scores=one.scores | {"test": test}, refused=refused)
                made.append(publish(root, one))
    return made


def hostile(root) -> list[Run]:
    """Long names, variants, a lone run, a seed that is missing, an architecture that always diverged, null scores, markup."""
    long = "recall:length=128,pairs=8,vocabulary=64"
    made = [
        run(spec(name, long, seed), 0.9 - 0.2 * i + 0.01 * seed)
        for i, name in enumerate(("transformer", "transformer:preset=gpt2,heads=8", "my_architecture:width_of_kernel=15"))
        for seed in range(3 - (i == 1))
    ]
    diverged = {"status": "diverged", "scores": {}, "reason": "loss was <script>alert(1)</script>", "steps": 100}
    made += [replace(run(spec("lstm", long, seed), None), **diverged) for seed in range(3)]
    made += [run(spec("gru", long, 0), None), run(spec("s4", "digits", 0), 0.9)]
    made += [run(spec("<script>alert(2)</script>", "text", seed), 2.5 + 0.01 * seed) for seed in range(2)]
    return [publish(root, each) for each in made]


def as_json(made: Run) -> dict:
    """What run.json would hold."""
    return json.loads(json.dumps(asdict(made)))


SURFACES = {  # E, A, alpha, B, beta of bits per byte against params and tokens; seconds a GFLOP
    "transformer": (1.15, 34.0, 0.34, 95.0, 0.33, 0.02),
    "linear_rnn": (1.15, 37.0, 0.35, 85.0, 0.325, 0.03),
    "lstm": (1.15, 25.0, 0.29, 110.0, 0.33, 0.11),
}


def sweep(
    root, architectures=tuple(SURFACES), budgets=(1e11, 3.2e11, 1e12, 3.2e12, 1e13), sizes=7, seeds=2, task="text", noise=0.003
):
    """Iso-FLOP sweeps as `lab frontier` would leave them: sizes round the optimum of each budget, up to a factor of 5 away."""
    made = []
    for i, architecture in enumerate(architectures):
        e, a, alpha, b, beta, pace = SURFACES[architecture]
        for budget in budgets:
            best = ((alpha * a) / (beta * b)) ** (1 / (alpha + beta)) * (budget / 6) ** (beta / (alpha + beta))
            for place, ratio in enumerate(np.geomspace(1 / 5, 5, sizes)):
                for seed in range(seeds):
                    params, rng = int(best * ratio), np.random.default_rng([i, seed, place, int(np.log10(budget) * 10)])
                    tokens = int(budget / 6 / params)
                    loss = (e + a / params**alpha + b / tokens**beta) * np.exp(rng.normal(0, noise))
                    one = run(spec(architecture, task, seed, dim=int(np.sqrt(params / 24)), budget=budget), float(loss))
                    kinds = {
                        "contraction": int(budget * 0.9 * (1 - 0.1 * i)),
                        "mixing": int(budget * (1 - 0.9 * (1 - 0.1 * i))),
                        "pointwise": int(budget * 0.06 * (1 + i)),
                    }
                    made.append(
                        replace(
                            one,
                            parameters=params,
                            tokens=tokens,
                            flops=int(budget),
                            flops_by_kind=kinds,
                            minimum_flops=int(budget * (1 - 0.04 * i)),
                            parameters_by_part={
                                "embedding": params // 10,
                                "body": params - 2 * (params // 10),
                                "head": params // 10,
                            },
                            seconds=budget / 1e9 * pace * (ratio**-0.15) * float(rng.uniform(0.97, 1.03)),
                        )
                    )
    for each in made:
        Store(root).publish(each)
    return made
