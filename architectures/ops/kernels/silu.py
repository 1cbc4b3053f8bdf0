"""y * silu(z): one pass there, and one back, which computes the logistic function of z again.

An item of work is `block` rows of `width` numbers; y and z are flat, their rows `y_step` and `z_step` apart.
"""

from architectures.ops.kernels.compiler import exp, kernel


@kernel
def forward(first, last, block, width, y_step, z_step, y, z, out):
    rows, one = len(out) // width, out.dtype.type(1)
    for row in range(first * block, min(last * block, rows)):
        values, gates = y[row * y_step : row * y_step + width], z[row * z_step : row * z_step + width]
        now = out[row * width : row * width + width]
        for i in range(width):
            now[i] = values[i] * gates[i] / (one + exp(-gates[i]))


@kernel
def backward(first, last, block, width, y_step, z_step, y, z, grad, to_y, to_z):
    rows, one = len(grad) // width, grad.dtype.type(1)
    for row in range(first * block, min(last * block, rows)):
        values, gates = y[row * y_step : row * y_step + width], z[row * z_step : row * z_step + width]
        own = slice(row * width, row * width + width)
        g, to_value, to_gate = grad[own], to_y[own], to_z[own]
        for i in range(width):
            logistic = one / (one + exp(-gates[i]))
            passed = gates[i] * logistic
            to_value[i] = g[i] * passed
            to_gate[i] = g[i] * values[i] * (logistic + passed * (one - logistic))
