"""How torch's gated recurrences start, wherever they are used."""

import math

import torch
from torch import nn


def initialise_gates(recurrence: nn.LSTM | nn.GRU) -> None:
    """One layer, in place: input weights uniform in +-1/sqrt(dim), recurrent weights orthogonal for each gate, biases zero; an
    LSTM's forget gate starts open with a bias of 1 (Jozefowicz et al. 2015, section 2.2).
    """
    dim = recurrence.hidden_size
    with torch.no_grad():
        ((from_x, from_h, bias_x, bias_h),) = recurrence.all_weights
        from_x.uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        for gate in from_h.split(dim):
            nn.init.orthogonal_(gate)
        for bias in (bias_x, bias_h):
            bias.zero_()
        if isinstance(recurrence, nn.LSTM):
            bias_x[dim : 2 * dim] = 1.0  # torch orders the gates i, f, g, o
