"""Declared mixing FLOPs against an oracle: the equations run on numbers that count each operation done to them.

Products with weight matrices and of queries with keys are contractions, so their results enter here as ready numbers.
"""

import pytest

from architectures.backbone import Flops
from architectures.linear_rnn import LinearRNN
from architectures.lstm import LSTM
from architectures.ops.scan import scan_flops
from architectures.transformer import Transformer
from lab import plugins


class Number:
    """A real number of which only the operations matter."""

    done = 0

    def __add__(self, other):
        Number.done += 1
        return Number()

    __sub__ = __mul__ = __truediv__ = __add__

    def function(self):
        """exp, tanh, the logistic function or a comparison."""
        return self + self


class Complex:
    def __init__(self, real=None, imaginary=None):
        self.real, self.imaginary = real or Number(), imaginary or Number()

    def __add__(self, other):
        return Complex(self.real + other.real, self.imaginary + other.imaginary)

    def __mul__(self, other):
        if isinstance(other, Number):
            return Complex(self.real * other, self.imaginary * other)
        real = self.real * other.real - self.imaginary * other.imaginary
        return Complex(real, self.real * other.imaginary + self.imaginary * other.real)


def operations(run, *args) -> int:
    Number.done = 0
    run(*args)
    return Number.done


def softmax_rows(length, heads, causal):
    for _ in range(heads):
        for query in range(length):
            scores = [Number() for _ in range(query + 1 if causal else length)]
            largest, total = Number(), Number()
            for score in scores:
                largest = score.function()
            powers = [(score - largest).function() for score in scores]
            for power in powers:
                total = total + power
            for power in powers:
                power / total


def lstm(length, dim):
    for _ in range(dim):
        c, input_bias, recurrent_bias = Number(), Number(), Number()
        for _ in range(length):
            from_input, from_state = Number(), Number()
            i, f, g, o = (((from_input + input_bias) + (from_state + recurrent_bias)).function() for _ in range(4))
            c = f * c + i * g
            _ = o * c.function()


def lru(length, dim, states):
    for _ in range(states):
        h, decay, gain = Complex(), Complex(), Number()
        for _ in range(length):
            h = decay * h + Complex() * gain
    for _ in range(length * dim):
        read, skip, x = Number(), Number(), Number()
        read + skip * x


LENGTHS = [1, 7, 33]
DIRECTIONS = {True: 1, False: 2}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("preset", ["llama", "gpt2"])
def test_attention_mixing(length, causal, preset):
    model = Transformer(12, 3, causal=causal, heads=2, preset=preset)
    assert model.flops(length).mixing == 3 * operations(softmax_rows, length, 2, causal)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causal", [True, False])
def test_lstm_mixing(length, causal):
    model = LSTM(6, 3, causal=causal)
    assert model.flops(length).mixing == 3 * DIRECTIONS[causal] * operations(lstm, length, 6)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causal", [True, False])
def test_lru_mixing(length, causal):
    model = LinearRNN(6, 3, causal=causal, states=5)
    assert model.flops(length).mixing == 3 * DIRECTIONS[causal] * operations(lru, length, 6, 5)


def test_scan_costs_a_multiply_add_for_each_position_and_state():
    def steps(length, states, kind):
        for _ in range(states):
            a, h = kind(), kind()
            for _ in range(length):
                h = a * h + kind()

    for length in LENGTHS:
        assert scan_flops(length, 5, is_complex=False) == operations(steps, length, 5, Number)
        assert scan_flops(length, 5, is_complex=True) == operations(steps, length, 5, Complex)


WITH_MIXER = [
    name
    for name in plugins.names("architectures")
    if "mlp" in {setting.name for setting in plugins.settings("architectures", name)}
]


@pytest.mark.parametrize("name", WITH_MIXER)
def test_channel_mixers_mix_no_positions(name):
    """Without its channel mixer (SwiGLU, 8/3 d wide) an architecture mixes as much; a position costs 16 d^2 less."""
    cls = plugins.load("architectures", name)
    whole, bare = cls(24, 2, mlp="swiglu").flops(7), cls(24, 2, mlp="none").flops(7)
    assert whole.mixing == bare.mixing
    assert whole.contraction - bare.contraction == 2 * 7 * 16 * 24**2


def test_flops_add_and_multiply_by_kind():
    assert Flops(1, 2, 3) + Flops(10, 20, 30) * 2 == Flops(21, 42, 63)
    assert Flops(1, 2, 3).headline == 3
