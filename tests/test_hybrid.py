"""Layers of other architectures in one stack: what each is, where it comes from, and what is refused."""

import pytest
import torch

from architectures.backbone import Backbone, LengthError
from architectures.hybrid import SAMBA, members
from architectures.stack import NORM
from lab import optimizers, plugins
from lab.conformance import check
from lab.errors import UsageError
from lab.model import count_parameters, state_size
from lab.recipe import Recipe

Hybrid = plugins.load("architectures", "hybrid")
GRIFFIN = "linear_rnn[gate=rglru]+linear_rnn[gate=rglru]+transformer[attention=window,kv_heads=1]"
MIXED = "transformer[preset=gpt2,max_length=70,mlp=moe]+gru+mamba[version=1]"


def made(name, dim=16, depth=2, **settings):
    torch.manual_seed(0)
    return plugins.load("architectures", name)(dim, depth, **settings).eval()


def noise(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_a_layer_is_the_member_s_block_of_that_place():
    """With the weights of whole members, the blocks taken by hand give the same outputs."""
    hybrid = made("hybrid", depth=5, pattern="lstm[hidden=20]+linear_rnn[mlp=none]").double()
    whole = {0: made("lstm", depth=5, hidden=20).double(), 1: made("linear_rnn", depth=5, mlp="none").double()}
    x = y = noise(2, 17, 16)
    for index, layer in enumerate(hybrid.layers):
        donor = whole[index % 2]
        each = 2 - index % 2
        blocks = list(donor.layers)[index * each : (index + 1) * each]
        assert len(layer.layers) == each
        for mine, theirs in zip(layer.layers, blocks, strict=True):
            mine.load_state_dict(theirs.state_dict())
            y = theirs(y)
    torch.testing.assert_close(hybrid(x), hybrid.norm(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_the_pattern_repeats_over_depth(depth):
    hybrid = made("hybrid", depth=depth, pattern="lstm+gru+s5")
    kinds = ["LSTM", "GRU", "S5"] * 3
    assert [type(layer).__name__ for layer in hybrid.layers] == kinds[:depth]


@pytest.mark.parametrize("name", ["lstm", "transformer", "mamba"])
@pytest.mark.parametrize("causal", [True, False])
def test_of_one_member_it_is_that_member(name, causal):
    hybrid, member = (made(n, depth=3, causal=causal, **given) for n, given in (("hybrid", {"pattern": name}), (name, {})))
    for length in (1, 33):
        assert hybrid.flops(length) == member.flops(length)
    assert count_parameters(hybrid) == count_parameters(member)


@pytest.mark.parametrize("length", [1, 7, 33])
def test_flops_are_the_layers_and_one_final_norm(length):
    hybrid = made("hybrid", depth=3, pattern="transformer[preset=gpt2]+transformer[preset=gpt1]+mamba")
    settings = [("transformer", {"preset": "gpt2"}), ("transformer", {"preset": "gpt1"}), ("mamba", {})]
    parts = [made(name, depth=1, **given).flops(length) for name, given in settings]
    for kind, surplus in (("contraction", 0), ("mixing", 0), ("pointwise", NORM * length * 16)):
        # gpt1 has no final norm, so that of the three one is the hybrid's own and one too many
        assert getattr(hybrid.flops(length), kind) == sum(getattr(part, kind) for part in parts) - surplus


def test_state_size_is_the_sum():
    """h and c; keys and values of a window, less the position to come; those of all 40."""
    with torch.device("meta"):
        hybrid = made("hybrid", depth=3, pattern="lstm+transformer[attention=window,window=10]+transformer")
    assert state_size(hybrid, 40) == 2 * 16 + 2 * 16 * 9 + 2 * 16 * 40


def test_each_layer_has_its_own_parameters():
    """Counted once each, they are those of the member at that depth; one member serves its layers without sharing any."""
    hybrid = made("hybrid", depth=4, pattern="lstm+gru")
    parts = count_parameters(made("lstm", depth=2)) + count_parameters(made("gru", depth=2)) - 16
    assert count_parameters(hybrid) == parts
    first, third = (hybrid.layers[i].layers[0].inner.lstm.weight_ih_l0 for i in (0, 2))
    assert not torch.equal(first, third)


def test_taking_a_layer_leaves_the_whole_as_it_was():
    whole, x = made("transformer", depth=3, preset="gpt2").double(), noise(1, 9, 16)
    before = whole(x)
    layer = whole.as_layer(1)
    assert layer.layers[0] is whole.layers[2]
    torch.testing.assert_close(whole(x), before, rtol=0, atol=0)


def test_initial_scales_see_the_whole_depth():
    """Mamba divides its output map by the root of the depth, and GPT-2 its own by that of twice the depth."""
    for depth in (2, 8):
        hybrid = made("hybrid", 64, depth, pattern="mamba+transformer[preset=gpt2]")
        mamba, gpt2 = (layer.layers[0].inner.out.weight for layer in hybrid.layers[:2])
        assert mamba.std().item() == pytest.approx((1 / 3 / 128 / depth) ** 0.5, rel=0.05)
        assert gpt2.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.05)


def test_alternating_attention_alternates_over_the_hybrid_s_layers():
    hybrid = made("hybrid", depth=4, pattern="transformer[attention=alternating,window=5]")
    assert [layer.layers[0].inner.window for layer in hybrid.layers] == [None, 5, None, 5]


def test_learned_positions_belong_to_each_layer():
    hybrid = made("hybrid", depth=3, pattern="lstm+transformer[preset=gpt2,max_length=20]").double()
    assert hybrid.layers[1].table.shape == (20, 16)
    other = made("hybrid", depth=4, pattern="lstm+transformer[preset=gpt2,max_length=20]")
    assert other.layers[1].table is not other.layers[3].table
    x = noise(1, 21, 16)
    hybrid(x[:, :20])
    with pytest.raises(LengthError, match="max_length=20"):
        hybrid(x)
    _, state = hybrid.stream(x[:, :20], hybrid.init_state(1))
    with pytest.raises(LengthError, match="max_length=20"):
        hybrid.stream(x[:, 20:], state)


def test_hidden_is_each_member_s_where_it_has_one_and_gives_none():
    hybrid = made("hybrid", depth=3, pattern="lstm+gru[hidden=11]+mamba", hidden=24)
    assert [hybrid.layers[i].layers[1].inner.out.in_features for i in (0, 1)] == [24, 11]
    assert len(hybrid.layers[2].layers) == 1


def test_embeddings_have_the_first_member_s_scale():
    assert made("hybrid", pattern="transformer[preset=gpt2]+lstm").embedding_std == 0.02
    assert made("hybrid", pattern="lstm+transformer[preset=gpt2]").embedding_std == Backbone.embedding_std


def test_what_members_train_apart_trains_apart():
    hybrid = made("hybrid", pattern="linear_rnn+lstm")
    rates = {id(p): group["lr"] for group in optimizers.groups(Recipe(lr=1.0), hybrid) for p in group["params"]}
    assert rates[id(hybrid.layers[0].layers[0].inner.nu)] == 0.25
    assert rates[id(hybrid.layers[1].layers[0].inner.lstm.weight_ih_l0)] == 1.0


@pytest.mark.parametrize("pattern", [GRIFFIN, MIXED])
def test_streaming_from_a_given_state(pattern):
    hybrid = made("hybrid", depth=3, pattern=pattern).double()
    x = noise(2, 61, 16)
    with torch.no_grad():
        first, state = hybrid.stream(x[:, :23], hybrid.init_state(2))
        rest, _ = hybrid.stream(x[:, 23:], state)
        torch.testing.assert_close(torch.cat([first, rest], 1), hybrid(x), rtol=0, atol=1e-10)


def test_sixteen_thousand_positions():
    hybrid, x = made("hybrid", depth=3, pattern=GRIFFIN).train(), noise(1, 16_384, 16, dtype=torch.float32)
    y = hybrid(x)
    y.square().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in hybrid.parameters())


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("hybrid", {}),
        ("hybrid:pattern=lstm", {"pattern": "lstm"}),
        (f"hybrid:hidden=20,pattern={GRIFFIN}", {"pattern": GRIFFIN, "hidden": 20}),
        (f"hybrid:pattern={MIXED}", {"pattern": MIXED}),
        ("hybrid:pattern=hybrid[pattern=gru+lstm,hidden=9]+s5", {"pattern": "hybrid[pattern=gru+lstm,hidden=9]+s5"}),
    ],
)
def test_patterns_on_the_command_line(text, settings):
    assert plugins.parse("architectures", text) == ("hybrid", settings)
    assert plugins.canonical("architectures", "hybrid", settings) == text
    made("hybrid", **settings)


def test_the_default_is_samba():
    (_, mamba, its), (_, transformer, others) = members(SAMBA)
    assert (mamba.__name__, its) == ("Mamba", {"version": 1, "mlp": "swiglu"})
    assert (transformer.__name__, others) == ("Transformer", {"attention": "window"})
    assert made("hybrid").flops(9) == made("hybrid", pattern=SAMBA).flops(9)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("mambo+lstm", "did you mean mamba"),
        ("lstm+mamba[versio=1]", "has no setting 'versio'; did you mean version"),
        ("mamba[version=3]", "version=3 is not 1|2"),
        ("lstm++gru", "name[setting=value,...]"),
        ("lstm[hidden=3", "'lstm[hidden=3'"),
        ("lstm[]", "name[setting=value,...]"),
        ("", "joined by +"),
    ],
)
def test_a_wrong_pattern_is_an_error_that_names_the_way_out(pattern, message):
    with pytest.raises(UsageError) as caught:
        plugins.parse("architectures", f"hybrid:pattern={pattern}")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--architectures hybrid:pattern={pattern}: ")
    assert "\n" not in str(caught.value)


PLUG_IN = """
from architectures.backbone import Backbone, Flops, SequenceMap
from architectures.stack import Stack

class Half(SequenceMap):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def stream(self, x, state):
        return x / 2, state

    def flops(self, length):
        return Flops(pointwise=length * self.dim)
"""
INTERLEAVED = """
class Halves(Stack):
    def __init__(self, dim, depth, *, causal=True):
        super().__init__(dim, depth, lambda: Half(dim), causal=causal, mlp="none")
"""
CLOSED = """
class Closed(Backbone):
    def stream(self, x, state):
        return x, state

    def flops(self, length):
        return Flops()
"""


def test_a_member_from_outside(tmp_path):
    file = tmp_path / "halves.py"
    file.write_text(PLUG_IN + INTERLEAVED)
    plugins.add_file(str(file))
    name, given = plugins.parse("architectures", "hybrid:pattern=halves+lstm")
    hybrid = made(name, **given)
    assert type(hybrid.layers[0]).__name__ == "Halves"
    assert hybrid(noise(1, 5, 16, dtype=torch.float32)).shape == (1, 5, 16)


def test_a_member_that_cannot_be_taken_apart_is_refused(tmp_path):
    file = tmp_path / "closed.py"
    file.write_text(PLUG_IN + CLOSED)
    plugins.add_file(str(file))
    with pytest.raises(UsageError, match="closed cannot be interleaved"):
        plugins.parse("architectures", "hybrid:pattern=closed+lstm")
    with pytest.raises(ValueError, match="Closed cannot be taken apart"):
        made("closed").as_layer(0)


def test_what_a_member_refuses_the_hybrid_refuses():
    with pytest.raises(ValueError, match="heads=3 must divide"):
        made("hybrid", pattern="lstm+transformer[heads=3]")


@pytest.mark.parametrize("pattern", [GRIFFIN, "transformer[preset=gpt2,max_length=40]+gru[mlp=moe]"])
def test_laws(pattern):
    report = check(f"hybrid:pattern={pattern}")
    assert report.passed, str(report)


@pytest.mark.parametrize("version", [4, 5, 6])
def test_rwkv_s_blocks_are_its_layers(version):
    """The first brings the norm of the embeddings; the last norm is the hybrid's own."""
    hybrid, whole = made("hybrid", depth=3, pattern=f"rwkv[version={version}]"), made("rwkv", depth=3, version=version)
    ours, theirs = list(hybrid.layers), whole.blocks
    for index, layer in enumerate(ours):
        layer.norms[0].load_state_dict(theirs.norms[index].state_dict())
        layer.time_mixes[0].load_state_dict(theirs.time_mixes[index].state_dict())
        layer.channel_mixes[0].load_state_dict(theirs.channel_mixes[index].state_dict())
    hybrid.double()
    whole.double()
    whole.blocks.after = None
    x = noise(2, 17, 16)
    torch.testing.assert_close(hybrid(x), hybrid.norm(whole(x)), rtol=0, atol=1e-12)


def test_rwkv_is_no_layer_without_causality():
    with pytest.raises(ValueError, match="without causality"):
        made("hybrid", causal=False, pattern="rwkv+gru")


def test_a_changed_member_makes_another_run(tmp_path):
    """The code of a hybrid is that of its members too; one of some other architecture is not."""
    from lab.planning import Planner, Shape

    def code(name):
        return Planner(Shape(dim=16)).plan(name, "copying", 1e9, 0).spec.code["architectures"]

    assert code("hybrid:pattern=lstm+gru") != code("hybrid:pattern=lstm+s5")
    assert code("hybrid:pattern=lstm+gru") == code("hybrid:pattern=gru+lstm")
    assert code("gru") == plugins.fingerprint("architectures", "gru")
