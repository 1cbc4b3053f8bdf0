"""Budgets, names, settings, widths and specs: what a request comes to, and how a wrong one is refused."""

import json
import math
import os
import sys
from dataclasses import asdict, fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab import matching, plugins
from lab.budget import parse_amount, steps_for
from lab.errors import BudgetError, UsageError
from lab.model import build, build_task
from lab.planning import Planner, Shape, plan_all
from lab.run import Spec, canonical_json


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e13", 1e13), ("3PF", 3e15), ("10TF", 1e13), ("250GF", 2.5e11), ("200k", 2e5), ("1.5M", 1.5e6), ("7FLOPs", 7.0)],
)
def test_amounts(text, value):
    assert parse_amount(text, "--budget") == value


@pytest.mark.parametrize("text", ["-5", "0", "nan", "inf", "1e400", "1e28", "abc", "", "1e", "3XF", "--", "1,5"])
def test_amounts_that_are_none(text):
    with pytest.raises(UsageError, match="--budget") as caught:
        parse_amount(text, "--budget")
    assert "\n" not in str(caught.value)


@given(budget=st.floats(1, 1e24), per_step=st.integers(1, 10**20))
def test_steps_spend_at_most_the_budget_and_leave_less_than_a_step(budget, per_step):
    if budget < per_step:
        with pytest.raises(BudgetError, match="smallest is"):
            steps_for(budget, per_step)
    else:
        steps = steps_for(budget, per_step)
        assert steps * per_step <= budget * (1 + 1e-12)
        assert (steps + 1) * per_step > budget * (1 - 1e-12)


def test_names_and_settings_have_one_form():
    name, given_ = plugins.parse("architectures", "transformer:preset=gpt2,heads=2,bias=true,mlp=none")
    assert given_ == {"preset": "gpt2", "heads": 2, "bias": True, "mlp": "none"}
    text = plugins.canonical("architectures", name, given_)
    assert text == "transformer:bias=true,heads=2,mlp=none,preset=gpt2"
    assert plugins.parse("architectures", text) == (name, given_)
    assert plugins.canonical("architectures", *plugins.parse("architectures", "transformer:heads=4")) == "transformer"
    assert plugins.parse("tasks", "text:path=a,b c.txt,length=9")[1] == {"path": "a,b c.txt", "length": 9}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("architectures", "transfomer", "did you mean transformer"),
        ("tasks", "recal", "did you mean recall"),
        ("tasks", "../../etc/passwd", "unknown"),
        ("architectures", "", "unknown"),
        ("architectures", "stack", "unknown"),
        ("architectures", "transformer:haeds=2", "did you mean heads"),
        ("architectures", "transformer:heads=two", "heads=two is not int"),
        ("architectures", "transformer:heads", "give heads a value"),
        ("architectures", "transformer:heads=1,heads=2", "given twice"),
        ("architectures", "transformer:preset=gpt5", "preset=gpt5 is not llama|"),
        ("architectures", "transformer:bias=1", "bias=1 is not bool"),
        ("architectures", "linear_rnn:r_min=nan", "r_min=nan is not float"),
        ("architectures", "transformer:dim=3", "no setting 'dim'"),
    ],
)
def test_wrong_names_and_settings(kind, text, message):
    with pytest.raises(UsageError) as caught:
        plugins.parse(kind, text)
    assert message in str(caught.value)
    assert f"--{kind}" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=40))
def test_any_string_is_a_name_or_a_usage_error(text):
    for kind in plugins.CONTRACTS:
        try:
            plugins.parse(kind, text)
        except UsageError:
            continue


def test_every_setting_is_documented():
    for kind in plugins.CONTRACTS:
        for name in plugins.names(kind):
            assert plugins.summary(kind, name), name
            for setting in plugins.settings(kind, name):
                assert setting.meaning, (name, setting)
                assert setting.type, (name, setting)


@pytest.mark.parametrize(
    ("match", "size", "task_name"),
    [pytest.param("params", 100e3, "recall", marks=pytest.mark.slow), ("flops", 200e3, "recall"), ("params", 1e6, "digits")],
)
def test_widths_agree_within_two_percent(match, size, task_name):
    task = build_task(task_name, {})
    for name in plugins.names("architectures"):
        dim, settings = matching.solve(match, size, name, {}, task, 2)
        with torch.device("meta"):
            model = build(name, task, dim=dim, depth=2, settings=settings)
        assert matching.measure_of(match, task)(model) == pytest.approx(size, rel=0.02)


def test_a_size_that_cannot_be_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"--size 10: .*the nearest is"):
        matching.solve("params", 10, "transformer", {}, build_task("recall", {}), 2)
    with pytest.raises(UsageError, match=r"r_min=0\.5, r_max=0\.4"):
        Planner(Shape(dim=16)).plan("linear_rnn:r_min=0.5,r_max=0.4", "recall", 1e10, 0)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UsageError, match="heads=3 must divide dim=16"):
        Planner(Shape(dim=16)).plan("transformer:heads=3", "recall", 1e10, 0)


def test_matching_respects_what_the_user_fixed():
    dim, settings = matching.solve("params", 100e3, "transformer", {"heads": 3, "hidden": 99}, build_task("recall", {}), 2)
    assert dim % 6 == 0
    assert settings == {"heads": 3, "hidden": 99}


def test_the_id_is_the_hash_of_everything_that_decides():
    spec = Planner(Shape(dim=16)).plan("transformer", "recall", 1e10, 0).spec
    assert Spec.read(json.loads(json.dumps(asdict(spec)))).id == spec.id
    changes = {
        "architecture": "x", "settings": {}, "dim": 17, "depth": 9, "task": "y", "task_settings": {}, "code": {}, "data": "z",
        "budget": 2e10, "batch": 99, "seed": 5, "precision": "bfloat16", "recipe": {}, "schema": 99, "accumulate": 3,
        "carry_state": True,
    }  # fmt: skip
    assert set(changes) == {field.name for field in fields(Spec)}
    assert len({replace(spec, **{key: value}).id for key, value in changes.items()} | {spec.id}) == len(changes) + 1
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": math.nan})


def test_plans_go_seed_by_seed_without_doubles():
    plans = plan_all(Planner(Shape(dim=16)), ["transformer", "lstm", "transformer:heads=4"], ["recall"], [1e10], 2)
    assert [(each.spec.architecture, each.spec.seed) for each in plans] == [
        ("transformer", 0), ("lstm", 0), ("transformer", 1), ("lstm", 1),
    ]  # fmt: skip


def test_comments_do_not_make_other_results_but_code_does(tmp_path):
    prints = []
    for i, text in enumerate(["VALUE = 1", "# a comment\nVALUE = 1  # and another", "VALUE = 2"]):
        file = tmp_path / f"arch_{i}.py"
        file.write_text(PLUGIN.replace("# more", text))
        plugins.add_file(str(file))
        prints.append(plugins.fingerprint("architectures", f"arch_{i}"))
    assert prints[0] == prints[1] != prints[2]


def test_what_is_hashed_is_what_runs(tmp_path):
    """Python keeps compilations by second and size of a file: an edit of a number within a second would be passed over."""
    file = tmp_path / "hasty.py"
    found = []
    for value in (1, 2):
        file.write_text(PLUGIN.replace("# more", f"VALUE = {value}"))
        os.utime(file, (1e9, 1e9))
        plugins._import_file.cache_clear()
        plugins.load.cache_clear()
        plugins.add_file(str(file))
        found.append((sys.modules["lab_plugin_hasty"].VALUE, plugins.fingerprint("architectures", "hasty")))
    (first, before), (second, after) = found
    assert (first, second) == (1, 2)
    assert before != after


PLUGIN = '''
"""A plug-in."""
from torch import nn
from architectures.backbone import Flops, SequenceMap
from architectures.stack import Stack
# more
class Layer(SequenceMap):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)
    def forward(self, x):
        return self.map(x)
    def flops(self, length):
        return Flops(contraction=2 * length * self.map.weight.numel())
class Plain(Stack):
    """Plain."""
    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, lambda: Layer(dim), causal=causal)
'''


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "no such file"),
        ("Bad-Name.py", "", "needs a name"),
        ("empty.py", "", "defines no subclass"),
        ("broken.py", "import nothing_of_that_name", "failed to load: ModuleNotFoundError"),
        ("wrong.py", "def f(:", "failed to load: SyntaxError"),
        ("transformer.py", PLUGIN, "already a transformer"),
    ],
)
def test_wrong_plugin_files(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError) as caught:
        plugins.add_file(str(file))
    assert message in str(caught.value)
    assert "--plugin" in str(caught.value)


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """An installed distribution that offers architectures through entry points."""

    def install(name, points, code):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[lab.architectures]\n" + "\n".join(points))
        monkeypatch.syspath_prepend(tmp_path)
        plugins.load.cache_clear()

    yield install
    plugins.load.cache_clear()


def test_entry_points_offer_architectures(distribution):
    distribution("offers", ["outside = offers:Plain", "whole = offers", "broken = offers:Nothing"], PLUGIN)
    assert {"outside", "whole", "broken"} <= set(plugins.names("architectures"))
    for name in ("outside", "whole"):
        assert plugins.load("architectures", name).__name__ == "Plain"
        spec = Planner(Shape(dim=16)).plan(name, "copying", 1e9, 0).spec
        assert spec.code["architectures"] == plugins.fingerprint("architectures", name)
    with pytest.raises(UsageError, match=r"broken: failed to load .from offers 1.0, offers:Nothing.: AttributeError"):
        plugins.load("architectures", "broken")


def test_a_name_in_two_places_is_refused(distribution):
    distribution("twice", ["transformer = twice:Plain"], PLUGIN)
    with pytest.raises(UsageError, match=r"found more than once, in twice:Plain and in .*transformer\.py"):
        plugins.load("architectures", "transformer")
