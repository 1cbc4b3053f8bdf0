"""Recipes: published values, schedules by hand, optimizers against torch's own, resuming, dropout and tying, names and labels."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import records
import torch
from torch import nn

from architectures.backbone import Flops, SequenceMap, Tuning
from architectures.stack import Residual
from lab import analysis, optimizers, overhead, plugins, presets, training, verification
from lab.budget import newton_schulz_flops
from lab.commands.common import Setup
from lab.errors import UsageError
from lab.laws.subject import noise
from lab.model import Model, Tied, build, build_task, count_parameters
from lab.planning import Planner, Shape
from lab.recipe import Recipe
from lab.run import Store

PUBLISHED = {
    # optimizer, lr of the smallest, betas, weight decay, schedule, warm-up over the whole run, final, clip, dropout, tied
    "gpt1": ("adamw", 2.5e-4, (0.9, 0.999), 0.01, "cosine", 2000 / 3.005e6, 0.0, 1.0, 0.1, True),
    "gpt2": ("adamw", 2.5e-4, (0.9, 0.999), 0.01, "cosine", 0.01, 0.0, 1.0, 0.1, True),
    "gpt3": ("adamw", 6e-4, (0.9, 0.95), 0.1, "cosine", 375e6 / 300e9, 0.1, 1.0, 0.0, True),
    "gopher": ("adam", 6e-4, (0.9, 0.95), 0.0, "cosine", 1500 / 1.2e6, 0.1, 1.0, 0.0, True),
    "chinchilla": ("adamw", 6e-4, (0.9, 0.95), 0.1, "cosine", 1500 / 1.2e6, 0.1, 1.0, 0.0, True),
    "palm": ("adafactor", 1e-2, (0.9, 0.95), 0.01, "rsqrt", 10000 / 255000, 0.1, 1.0, 0.0, True),
    "llama": ("adamw", 3e-4, (0.9, 0.95), 0.1, "cosine", 2000 / 250e3, 0.1, 1.0, 0.0, False),
}
GPT3_RATES = {125e6: 6e-4, 350e6: 3e-4, 760e6: 2.5e-4, 1.3e9: 2e-4, 2.7e9: 1.6e-4, 6.7e9: 1.2e-4, 13e9: 1e-4, 175e9: 6e-5}
USUAL = Recipe()
PLANNER = Planner(Shape(dim=16, depth=1), batch=2)


def spec_for(recipe, architecture="transformer", task="selective_copying", steps=8, **changes):
    spec = overhead._spec_of(replace(PLANNER, recipe=presets.read(recipe)), architecture, task, steps)
    return replace(spec, **changes)


def trained(store, spec):
    return torch.load(store.folder(spec.id) / "checkpoint", weights_only=True)


def small_model(recipe=USUAL, task="text"):
    torch.manual_seed(0)
    return build("transformer", build_task(task, {}), dim=16, depth=1, settings={}, recipe=recipe)


@pytest.mark.parametrize("name", PUBLISHED)
def test_generations_are_as_published(name):
    recipe = presets.read(name)
    optimizer, lr, betas, decay, schedule, warmup, final, clip, dropout, tied = PUBLISHED[name]
    assert (recipe.optimizer, recipe.lr, recipe.betas, recipe.weight_decay) == (optimizer, lr, betas, decay)
    assert recipe.warmup == pytest.approx(max(0.01, warmup))
    assert (recipe.schedule, recipe.final, recipe.clip, recipe.dropout, recipe.tied) == (schedule, final, clip, dropout, tied)
    assert set(presets.preset(name).sources) >= {"lr", "optimizer", "betas", "eps", "weight_decay", "schedule", "warmup", "final",
                                                 "clip", "dropout", "tied", "batch"}  # fmt: skip
    assert all(presets.preset(name).sources.values())


def test_rates_by_size_are_those_of_the_nearest_published_model():
    gpt3 = presets.read("gpt3")
    assert {size: gpt3.at(int(size)).lr for size in GPT3_RATES} == GPT3_RATES
    assert gpt3.at(100_000).lr == 6e-4
    assert gpt3.at(10**13).lr == 6e-5
    assert gpt3.at(1).peaks == ()
    assert presets.read("gpt3:lr=0.01").at(10**12).lr == 0.01
    assert Recipe().at(10**9) == Recipe()


def test_the_shared_recipe_is_what_it_always_was():
    """Its record too, so that runs of older stores are found and not done again."""
    usual = {"lr": 3e-3, "warmup": 0.05, "final": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
    assert presets.read("shared") == presets.read("lab") == Recipe.read(records.RECIPE) == Recipe()
    assert Recipe().written() == usual
    changed = presets.read("gpt3:clip=none,schedule=wsd").at(1)
    assert Recipe.read(changed.written()) == changed
    assert changed.written()["clip"] is None
    assert list(Recipe(dropout=0.1).written()) == [*usual, "dropout"]


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        ("cosine", 59, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 50 / 90))),
        ("linear", 54, 0.1 + 0.9 * 0.5),
        ("linear", 99, 0.1),
        ("constant", 99, 1.0),
        ("wsd", 10, 1.0),
        ("wsd", 79, 1.0),
        ("wsd", 84, 0.1 + 0.9 * (1 - math.sqrt(0.25))),
        ("wsd", 99, 0.1),
        ("rsqrt", 0, 1.0),
        ("rsqrt", 9, 1.0),
        ("rsqrt", 39, 0.5),
        ("rsqrt", 89, 1 / 3),
    ],
)
def test_schedules_by_hand(schedule, step, rate):
    recipe = Recipe(schedule=schedule, warmup=0.1, final=0.1)
    assert recipe.rate(step, 100) == pytest.approx(rate)
    if schedule != "rsqrt":
        assert [recipe.rate(step, 100) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    rates = [recipe.rate(step, 100) for step in range(9, 100)]
    assert all(before >= after > 0 for before, after in pairwise(rates))
    assert recipe.rate(0, 1) > 0


class Ball(SequenceMap):
    """Holds two matrices and a vector that like to be one; one matrix is tuned by itself."""

    tuned = {"slow": Tuning(lr_scale=0.1, decay=False)}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix, self.slow = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(3, 3))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x):
        return x

    def flops(self, length):
        return Flops()


class Problem(nn.Module):
    """A model whose backbone is a ball."""

    def __init__(self):
        super().__init__()
        self.backbone = Ball()

    def loss(self):
        return sum((parameter - 1).square().sum() for parameter in self.parameters())


def updated(problem, *parts):
    """The parameters after a hundred steps of each optimizer."""
    for _ in range(100):
        problem.zero_grad()
        problem.loss().backward()
        for optimizer in parts:
            optimizer.step()
    return [parameter.detach() for parameter in problem.parameters()]


@pytest.mark.parametrize("name", ["adamw", "adam", "adafactor", "muon"])
def test_optimizers_are_torchs_own_and_go_down(name):
    recipe, problem, other = Recipe(optimizer=name, lr=0.1, weight_decay=0.05), Problem(), Problem()
    before = problem.loss().item()
    found = updated(problem, optimizers.optimizer(recipe, problem))
    assert problem.loss().item() < before / 2
    matrix, slow, bias = (
        {"params": [parameter], "lr": lr, "weight_decay": decay}
        for parameter, lr, decay in zip(other.parameters(), (0.1, 0.01, 0.1), (0.05, 0.0, 0.0), strict=True)
    )
    expected = {
        "adamw": lambda: [torch.optim.AdamW([matrix, slow, bias], betas=(0.9, 0.95))],
        "adam": lambda: [torch.optim.Adam([matrix, slow, bias], betas=(0.9, 0.95))],
        "adafactor": lambda: [torch.optim.Adafactor([matrix, slow, bias])],
        "muon": lambda: [
            torch.optim.Muon([matrix], adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([slow, bias], betas=(0.9, 0.95)),
        ],
    }[name]()
    torch.testing.assert_close(found, updated(other, *expected), rtol=1e-4, atol=1e-5)


class Turned(Problem):
    """Holds complex numbers too, or their two parts."""

    def __init__(self, parts):
        super().__init__()
        weight = noise(3, 4, 2)
        self.backbone.turn = nn.Parameter(weight if parts else torch.view_as_complex(weight))

    def loss(self):
        return sum((_parts(parameter) - 1).square().sum() for parameter in self.parameters())


def _parts(x):
    return torch.view_as_real(x) if x.is_complex() else x


@pytest.mark.parametrize("name", ["adamw", "adam", "muon"])
def test_a_complex_weight_is_updated_as_its_two_parts(name):
    """torch's fused updates refuse complex weights, which plug-ins may have."""
    recipe, problems = Recipe(optimizer=name, lr=0.1, weight_decay=0.05), (Turned(parts=False), Turned(parts=True))
    found, expected = (list(map(_parts, updated(problem, optimizers.optimizer(recipe, problem)))) for problem in problems)
    torch.testing.assert_close(found, expected)


def test_muon_takes_the_matrices_of_the_backbone():
    model = small_model(Recipe(optimizer="muon"))
    taken = set(map(id, optimizers.hidden_matrices(model)))
    names = {name for name, parameter in model.named_parameters() if id(parameter) in taken}
    assert names == {name for name, parameter in model.backbone.named_parameters("backbone") if parameter.ndim == 2}
    assert not optimizers.hidden_matrices(Model(nn_free_backbone(), build_task("text", {})))


def nn_free_backbone():
    """A backbone whose only matrix is tuned by itself."""
    from architectures.stack import Layers, RMSNorm

    class Tuned(SequenceMap):
        tuned = {"matrix": Tuning()}

        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.eye(8))

        def forward(self, x):
            return x @ self.matrix

        def flops(self, length):
            return Flops(contraction=128 * length)

    return Layers(8, [Tuned()], 1, RMSNorm(8), causal=True)


def test_budgets_pay_for_muon(tmp_path):
    plain, muon = spec_for("lab"), spec_for("lab:optimizer=muon")
    task = build_task("selective_copying", {})
    model = build("transformer", task, dim=16, depth=1, settings=plain.settings)
    more = sum(newton_schulz_flops(p.shape) for p in model.backbone.parameters() if p.ndim == 2)
    assert more > 0
    per_step = [training.plan_steps(model, task, spec)[1] for spec in (plain, muon)]
    assert per_step[1] == per_step[0] + more
    run = training.train(muon, Store(tmp_path))
    assert run.flops == 8 * per_step[1] <= muon.budget
    assert run.flops_by_kind["optimizer"] == 8 * more
    assert not verification.verify(Store(tmp_path).folder(run.id)).faults


RESUMED = ["lab", "palm", "gopher:dropout=0.2,tied=true", "lab:optimizer=muon,schedule=wsd,clip=none", "gpt1:schedule=linear"]


@pytest.mark.parametrize("recipe", RESUMED)
def test_stopped_and_resumed_is_the_run(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(training, "evaluate_all", lambda *_, **__: ({}, {}, 0))  # weights say it all, and scoring takes long
    spec, straight, broken = spec_for(recipe), Store(tmp_path / "straight"), Store(tmp_path / "broken")
    training.train(spec, straight, leak_gate=False)
    left = iter([False] * 4 + [True] * 9)
    assert training.train(spec, broken, stop=lambda: next(left), leak_gate=False).status == "interrupted"
    torch.manual_seed(99)
    training.train(spec, broken, leak_gate=False)
    one, other = trained(straight, spec)["state_dict"], trained(broken, spec)["state_dict"]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dropout_acts_in_training_alone():
    model, still = small_model(Recipe(dropout=0.5)), small_model()
    assert {branch.dropout for branch in model.modules() if isinstance(branch, Residual)} == {0.5}
    tokens = torch.randint(0, 256, (2, 9))
    assert not torch.equal(model.train()(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), still.eval()(tokens))
    state = torch.get_rng_state()
    assert torch.equal(still.train()(tokens), still.eval()(tokens))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tied_head_is_the_embedding_where_answers_are_tokens():
    tied, free = small_model(Recipe(tied=True)), small_model()
    assert tied.head.weight is tied.read.weight
    assert count_parameters(free) - count_parameters(tied) == 256 * 16
    assert tied.flops(32, 32) == free.flops(32, 32)
    y = torch.randn(3, 16)
    std = tied.backbone.embedding_std
    torch.testing.assert_close(tied.head(y), y @ tied.read.weight.T * min(1, 1 / (4 * std)))
    assert not isinstance(small_model(Recipe(tied=True), "digits").head, Tied)


def test_names_changes_and_mistakes(tmp_path):
    recipe = presets.read("gpt3:lr=1e-3,betas=[0.9,0.98],clip=none,tied=false,optimizer=muon,tokens=4096")
    assert (recipe.lr, recipe.betas, recipe.clip, recipe.tied, recipe.optimizer) == (1e-3, (0.9, 0.98), None, False, "muon")
    assert (
        presets.called(recipe.written()) == "gpt3, lr=0.001, betas=[0.9,0.98], clip=none, optimizer=muon, tied=false, tokens=4096"
    )
    own = tmp_path / "mine.toml"
    own.write_text('title = "Mine"\nsource = "me"\nlr = [0.01, "tried"]\nwarmup = [{ steps = 10, of = 100 }, "tried"]\n')
    mine = presets.read(f"{own}:final=0")
    assert (mine.lr, mine.warmup, mine.final, mine.name) == (0.01, 0.1, 0.0, "mine")
    assert presets.called(mine.written()) == "mine, lr=0.01, warmup=0.1, final=0"
    for text, message in [
        ("gpt5", "did you mean gpt"),
        ("shraed", "did you mean shared"),
        ("gpt3:learning=1", "no field 'learning'"),
        ("gpt3:betas", "betas must be two numbers"),
        ("gpt3:lr=2", "lr must be a number above 0"),
        ("gpt3:lr=fast", "lr must be a number above 0"),
        ("gpt3:optimizer=sgd", "one of adamw, adam, adafactor, muon"),
        ("gpt3:tied=1", "tied must be true or false"),
        ("gpt3:tokens=0", "tokens must be a whole number"),
        ("gpt3:dropout=1", "dropout must be a share"),
        ("nowhere.toml", "no such recipe or file"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            presets.read(text)
        assert "--recipe" in str(caught.value)
        assert "\n" not in str(caught.value)
    for wrong in ("lr = 1", "nonsense = [1, 'x']", "warmup = [{ steps = 1 }, 'x']", "lr = [[1, 2], 'x']", "lr ="):
        own.write_text(f'title = "Mine"\nsource = "me"\n{wrong}\n')
        presets.preset.cache_clear()
        with pytest.raises(UsageError, match="mine"):
            presets.read(str(own))


OWN = """
from architectures.stack import Stack, SwiGLU

class Wants(Stack):
    recipe = "llama:lr=1e-2,tokens=128"

    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, lambda: SwiGLU(dim, 2 * dim), causal=causal)
"""


def test_a_backbone_can_ask_for_its_own_and_a_flag_wins(tmp_path):
    (tmp_path / "wants.py").write_text(OWN)
    plugins.add_file(str(tmp_path / "wants.py"))

    def planned(architecture="wants", **flags):
        return Setup(dim=16, depth=1, **flags).planner().plan(architecture, "selective_copying", 1e9, 0).spec

    length = build_task("selective_copying", {}).length
    assert presets.called(planned().recipe) == "llama, lr=0.01, tokens=128"
    assert planned().batch == max(1, 128 // length)
    assert planned(batch=5).batch == 5
    assert presets.called(planned(lr=1e-4).recipe) == "llama, lr=0.0001, tokens=128"
    assert planned(recipe="shared").recipe == Recipe().written() == planned("transformer").recipe
    assert presets.called(planned(recipe="gpt3").recipe) == "gpt3"
    assert presets.called(planned("transformer", recipe="gpt3", lr=1e-3).recipe) == "gpt3, lr=0.001"
    (tmp_path / "wrong.py").write_text(OWN.replace("llama:", "lama:"))
    plugins.add_file(str(tmp_path / "wrong.py"))
    with pytest.raises(UsageError, match=r"the recipe of wrong.*did you mean llama"):
        planned("wrong")


def test_no_architecture_of_the_lab_asks_for_its_own():
    assert {plugins.load("architectures", name).recipe for name in plugins.names("architectures")} == {""}


def test_comparisons_say_their_set_up(tmp_path):
    def frame_of(**recipes):
        folder = tmp_path / "-".join(recipes)
        for name, recipe in recipes.items():
            for seed in range(2):
                spec = records.spec(name, "recall", seed)
                for each in recipe.split():
                    changed = replace(spec, recipe=presets.read(each).at(1).written())
                    records.publish(folder, records.run(changed, 0.5))
        return analysis.results(folder)

    usual = frame_of(lstm="lab", s4="lab")
    assert set(usual["recipe"]) == {"lab"}
    assert "ecipe" not in analysis.render(usual)
    assert "ecipe" not in analysis.quality_by_task(usual).caption
    other = frame_of(lstm="gpt3", gru="gpt3")
    assert "recipe gpt3" in analysis.render(other)
    assert "Recipe gpt3." in analysis.quality_by_task(other).caption
    material = analysis.Material(other, analysis.curves("nowhere"))
    assert "recipe gpt3;" in analysis.write_report(material, tmp_path, "lab compare").read_text()
    mixed = frame_of(lstm="lab lab:lr=1e-3", mamba="lab gpt3 gpt3:lr=1e-3", s4="lab")
    assert "recipes gpt3 (mamba); gpt3, lr=0.001 (mamba); lab (lstm, mamba and s4)" in " ".join(analysis.render(mixed).split())
    from lab.analysis.labels import labelled

    assert set(labelled(mixed)["row"]) == {
        "lstm lr 0.003", "lstm lr 0.001", "mamba [lab] lr 0.003", "mamba [gpt3] lr 0.0006", "mamba [gpt3] lr 0.001", "s4",
    }  # fmt: skip
