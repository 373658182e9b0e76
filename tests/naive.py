"""The oracle of the tests: every kernel once more, in float64, with plain loops and no cleverness.

Nothing of fastnn is imported here, and nothing here is shared with it, so that an error in a formula has to
be made twice to go unnoticed. Names and argument order are those of the public kernels: outputs first
(overwritten in place), then state, then inputs, then scalars; a loss returns its number. Arguments may be of
any float dtype: every value is turned into a Python float before it is used, and the outputs a test hands in
should be float64.

Below the kernels there is a whole network (`network_forward`, `network_backward`, `network_train`) for tests
of whole models.
"""

from __future__ import annotations

import math

import numpy as np

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "gelu", "silu")
WORD = 0xFFFFFFFF


# ---------------------------------------------------------------------------------- random numbers


def philox4x32(counter, key):
    """Four words of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11).

    `counter` is four 32-bit words, `key` two. Python integers throughout.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & WORD,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0 = (k0 + 0x9E3779B9) & WORD
        k1 = (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def philox_fill(out, seed, step=0, stream=0):
    """Random 32-bit words: word w of counter c is element 4 c + w."""
    key = (seed & WORD, seed >> 32)
    for i in range(out.size):
        c, w = divmod(i, 4)
        out[i] = philox4x32((c & WORD, c >> 32, step, stream), key)[w]


def dropout_words(n, seed, step, layer):
    """The random words of `n` units: unit e has word (e // 16) % 4 of counter 16 (e // 64) + e % 16."""
    key = (seed & WORD, seed >> 32)
    blocks = {}
    words = []
    for e in range(n):
        c = 16 * (e // 64) + e % 16
        if c not in blocks:
            blocks[c] = philox4x32((c & WORD, c >> 32, step & WORD, layer & WORD), key)
        words.append(blocks[c][(e // 16) % 4])
    return words


def shuffle_indices(order, seed, epoch):
    """0 .. n-1 in the order of a Fisher-Yates shuffle, swap i drawing its own 64-bit number."""
    n = order.size
    values = list(range(n))
    key = (seed & WORD, (seed >> 32) & WORD)
    for i in range(n - 1, 0, -1):
        words = philox4x32((i & WORD, i >> 32, epoch & WORD, 0x5348554F), key)
        r = words[0] | words[1] << 32
        j = (r * (i + 1)) >> 64
        values[i], values[j] = values[j], values[i]
    order[:] = values


# ------------------------------------------------------------------------------------- activations


def sigmoid(z):
    """1 / (1 + e^-z) without overflow."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    return math.exp(z) / (1.0 + math.exp(z))


def activation_value(z, activation):
    """f(z) of one number."""
    if math.isnan(z):
        return math.nan
    if activation == "identity":
        return z
    if activation == "relu":
        return z if z > 0 else 0.0
    if activation == "leaky_relu":
        return z if z > 0 else 0.01 * z
    if activation == "elu":
        return z if z > 0 else math.expm1(z)
    if activation == "sigmoid":
        return sigmoid(z)
    if activation == "tanh":
        return math.tanh(z)
    if activation == "softplus":
        return max(z, 0.0) + math.log1p(math.exp(-abs(z)))
    if activation == "gelu":
        return 0.5 * z * math.erfc(-z / math.sqrt(2.0))
    if activation == "silu":
        return z * sigmoid(z)
    raise ValueError(activation)


def activation_slope(z, activation):
    """f'(z) of one number; at a kink the slope from the left, as in PyTorch."""
    if math.isnan(z):
        return math.nan
    if activation == "identity":
        return 1.0
    if activation == "relu":
        return 1.0 if z > 0 else 0.0
    if activation == "leaky_relu":
        return 1.0 if z > 0 else 0.01
    if activation == "elu":
        return 1.0 if z > 0 else math.exp(z)
    if activation == "sigmoid":
        return sigmoid(z) * sigmoid(-z)
    if activation == "tanh":
        if abs(z) > 300.0:
            return 0.0
        return 1.0 / math.cosh(z) ** 2
    if activation == "softplus":
        return sigmoid(z)
    if activation == "gelu":
        if abs(z) > 40.0:
            return 1.0 if z > 0 else 0.0
        return 0.5 * math.erfc(-z / math.sqrt(2.0)) + z * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    if activation == "silu":
        if z < -800.0:
            return 0.0
        return sigmoid(z) + z * sigmoid(z) * sigmoid(-z)
    raise ValueError(activation)


def activation_forward(a, z, activation):
    """a = f(z), element by element."""
    for i in np.ndindex(z.shape):
        a[i] = activation_value(float(z[i]), activation)


def activation_backward(dz, da, z, a, activation):
    """dz = da f'(z); `a` = f(z) is not needed here."""
    for i in np.ndindex(z.shape):
        dz[i] = float(da[i]) * activation_slope(float(z[i]), activation)


def softmax_forward(p, z):
    """p[b, c] = e^z[b, c] / sum_k e^z[b, k]."""
    for b in range(z.shape[0]):
        row = [float(v) for v in z[b]]
        top = max(row)
        terms = [math.exp(v - top) for v in row]
        total = math.fsum(terms)
        for c, term in enumerate(terms):
            p[b, c] = term / total


# ---------------------------------------------------------------------------------- matrix product


def matmul(c, a, b, transpose_a=False, transpose_b=False):
    """c = op(a) op(b), the three loops of the definition."""
    left = a.T if transpose_a else a
    right = b.T if transpose_b else b
    rows, inner = left.shape
    cols = right.shape[1]
    for i in range(rows):
        for j in range(cols):
            c[i, j] = math.fsum(float(left[i, k]) * float(right[k, j]) for k in range(inner))


# ------------------------------------------------------------------------------------- dense layer


def dense_forward(a, z, x, w, b, activation="identity"):
    """z = x w + b, a = f(z); `b` may be None."""
    matmul(z, x, w)
    for row in range(z.shape[0]):
        for unit in range(z.shape[1]):
            if b is not None:
                z[row, unit] += float(b[unit])
            a[row, unit] = activation_value(float(z[row, unit]), activation)


def dense_backward(dx, dw, db, dz, x, w):
    """dx = dz w^T, dw = x^T dz, db[j] = sum_i dz[i, j]; `dx` and `db` may be None."""
    if dx is not None:
        matmul(dx, dz, w, transpose_b=True)
    matmul(dw, x, dz, transpose_a=True)
    if db is not None:
        for unit in range(dz.shape[1]):
            db[unit] = math.fsum(float(v) for v in dz[:, unit])


# ----------------------------------------------------------------------------------------- dropout


def dropout_mask(mask, rate, seed, step, layer):
    """0 where an element is dropped, 1 / (1 - rate) where it is kept; the index is the flat C-order one."""
    threshold = round(rate * 2**32)
    words = dropout_words(mask.size, seed, step, layer)
    for index, word in zip(np.ndindex(mask.shape), words, strict=True):
        mask[index] = 1.0 / (1.0 - rate) if word >= threshold else 0.0


def dropout_forward(y, x, rate, seed, step, layer):
    """y = x mask."""
    mask = np.empty(x.shape)
    dropout_mask(mask, rate, seed, step, layer)
    for i in np.ndindex(x.shape):
        y[i] = float(x[i]) * mask[i]


def dropout_backward(dx, dy, rate, seed, step, layer):
    """dx = dy mask, the mask of the forward pass."""
    dropout_forward(dx, dy, rate, seed, step, layer)


# ------------------------------------------------------------------------------------------ losses


def _weighted_mean(dy, y, w, row_loss):
    """sum_b w_b l_b / sum_b w_b and its gradient; `row_loss(b)` gives l_b and its gradient by the outputs."""
    weights = [1.0 if w is None else float(w[b]) for b in range(y.shape[0])]
    total = math.fsum(weights)
    dy[...] = 0.0
    if total == 0.0:
        return 0.0
    losses = []
    for b, weight in enumerate(weights):
        if weight == 0.0:
            continue
        loss, slope = row_loss(b)
        losses.append(weight * loss)
        for c, value in enumerate(slope):
            dy[b, c] = value * weight / total
    return math.fsum(losses) / total


def squared_error(dy, y, t, w=None):
    """Row loss: mean over outputs of (y - t)^2, no factor 1/2."""

    def row(b):
        n = y.shape[1]
        d = [float(y[b, c]) - float(t[b, c]) for c in range(n)]
        return math.fsum(v * v for v in d) / n, [2.0 * v / n for v in d]

    return _weighted_mean(dy, y, w, row)


def absolute_error(dy, y, t, w=None):
    """Row loss: mean over outputs of |y - t|; the derivative at 0 is 0."""

    def row(b):
        n = y.shape[1]
        d = [float(y[b, c]) - float(t[b, c]) for c in range(n)]
        return math.fsum(abs(v) for v in d) / n, [(v > 0) / n - (v < 0) / n for v in d]

    return _weighted_mean(dy, y, w, row)


def huber(dy, y, t, w=None, delta=1.0):
    """Row loss: mean over outputs of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2); d = y - t."""

    def row(b):
        n = y.shape[1]
        d = [float(y[b, c]) - float(t[b, c]) for c in range(n)]
        terms = [0.5 * v * v if abs(v) <= delta else delta * (abs(v) - 0.5 * delta) for v in d]
        return math.fsum(terms) / n, [max(-delta, min(delta, v)) / n for v in d]

    return _weighted_mean(dy, y, w, row)


def cross_entropy(dz, z, t, w=None):
    """Row loss: -sum_c t_c log softmax(z)_c; `t`: labels (B,) or rows (B, C), which need not sum to 1."""
    classes = z.shape[1]

    def row(b):
        logits = [float(v) for v in z[b]]
        labelled = t.ndim == 1
        target = [float(c == t[b]) for c in range(classes)] if labelled else [float(v) for v in t[b]]
        top = max(logits)
        log_sum = math.log(math.fsum(math.exp(v - top) for v in logits))
        log_p = [v - top - log_sum for v in logits]
        mass = math.fsum(target)
        # 0 log 0 counts as 0.
        loss = -math.fsum(p * q for p, q in zip(target, log_p, strict=True) if p != 0.0)
        return loss, [mass * math.exp(q) - p for p, q in zip(target, log_p, strict=True)]

    return _weighted_mean(dz, z, w, row)


def binary_cross_entropy(dz, z, t, w=None):
    """Row loss: mean over outputs of -t log s(z) - (1 - t) log(1 - s(z)) with the sigmoid s."""

    def row(b):
        n = z.shape[1]
        pairs = [(float(z[b, c]), float(t[b, c])) for c in range(n)]
        # -log s(z) = softplus(-z), -log(1 - s(z)) = softplus(z)
        terms = [p * activation_value(-v, "softplus") + (1 - p) * activation_value(v, "softplus") for v, p in pairs]
        return math.fsum(terms) / n, [(sigmoid(v) - p) / n for v, p in pairs]

    return _weighted_mean(dz, z, w, row)


def poisson(dz, z, t, w=None):
    """Row loss: mean over outputs of e^z - t + t log(t / e^z), half the deviance; 0 log 0 counts as 0."""

    def row(b):
        n = z.shape[1]
        pairs = [(float(z[b, c]), float(t[b, c])) for c in range(n)]
        terms = [math.exp(v) - k + (k * (math.log(k) - v) if k > 0 else 0.0) for v, k in pairs]
        return math.fsum(terms) / n, [(math.exp(v) - k) / n for v, k in pairs]

    return _weighted_mean(dz, z, w, row)


# ----------------------------------------------------------------------------------------- updates


def sign(x):
    """-1, 0 or 1."""
    return float((x > 0) - (x < 0))


def shrink(x, amount):
    """Soft threshold of one number: toward 0 by `amount`, and exactly 0 within it."""
    if abs(x) <= amount:
        return 0.0
    return x - amount * sign(x)


def _gradient(param, grad, i, l1, l2, grad_scale, clip_value):
    """The gradient an optimizer sees: penalties added, clipped by value, scaled."""
    p = float(param[i])
    g = float(grad[i]) + l2 * p + l1 * sign(p)
    return max(-clip_value, min(clip_value, g)) * grad_scale


def sgd_update(
    param, velocity, grad, lr, momentum=0.0, nesterov=False, step=1,
    l1=0.0, l2=0.0, grad_scale=1.0, clip_value=math.inf, truncate=0.0,
):  # fmt: skip
    """v = momentum v + g (v = g in step 1); param -= lr v, or lr (g + momentum v) with Nesterov."""
    for i in range(param.size):
        g = _gradient(param, grad, i, l1, l2, grad_scale, clip_value)
        direction = g
        if momentum != 0.0:
            velocity[i] = g if step == 1 else momentum * float(velocity[i]) + g
            direction = g + momentum * float(velocity[i]) if nesterov else float(velocity[i])
        param[i] = shrink(float(param[i]) - lr * direction, truncate)


def adagrad_update(
    param, g2, grad, lr, eps, eps_inside_sqrt=False,
    l1=0.0, l2=0.0, grad_scale=1.0, clip_value=math.inf, truncate=0.0,
):  # fmt: skip
    """G += g^2; param -= lr g / (sqrt(G) + eps), or lr g / sqrt(G + eps)."""
    for i in range(param.size):
        g = _gradient(param, grad, i, l1, l2, grad_scale, clip_value)
        g2[i] = float(g2[i]) + g * g
        root = math.sqrt(g2[i] + eps) if eps_inside_sqrt else math.sqrt(g2[i]) + eps
        param[i] = shrink(float(param[i]) - lr * g / root, truncate)


def rmsprop_update(
    param, v, velocity, mean, grad, lr, alpha, eps, momentum=0.0, centered=False, eps_inside_sqrt=False,
    l1=0.0, l2=0.0, grad_scale=1.0, clip_value=math.inf, truncate=0.0,
):  # fmt: skip
    """v = alpha v + (1 - alpha) g^2; param -= lr g / (sqrt(v) + eps); centring and momentum as in PyTorch."""
    for i in range(param.size):
        g = _gradient(param, grad, i, l1, l2, grad_scale, clip_value)
        v[i] = alpha * float(v[i]) + (1.0 - alpha) * g * g
        spread = float(v[i])
        if centered:
            mean[i] = alpha * float(mean[i]) + (1.0 - alpha) * g
            spread = max(spread - float(mean[i]) ** 2, 0.0)
        root = math.sqrt(spread + eps) if eps_inside_sqrt else math.sqrt(spread) + eps
        direction = g / root
        if momentum != 0.0:
            velocity[i] = momentum * float(velocity[i]) + direction
            direction = float(velocity[i])
        param[i] = shrink(float(param[i]) - lr * direction, truncate)


def adam_update(
    param, m, v, grad, lr, b1, b2, eps, step,
    l1=0.0, l2=0.0, grad_scale=1.0, clip_value=math.inf, truncate=0.0, eps_hat=False,
):  # fmt: skip
    """param -= lr m^ / (sqrt(v^) + eps), m^ and v^ unbiased means of g, g^2 (Kingma and Ba 2015).

    With `eps_hat` the form at the end of their section 2: rate lr sqrt(1 - b2^t) / (1 - b1^t), root sqrt(v) + eps.
    """
    for i in range(param.size):
        g = _gradient(param, grad, i, l1, l2, grad_scale, clip_value)
        m[i] = b1 * float(m[i]) + (1.0 - b1) * g
        v[i] = b2 * float(v[i]) + (1.0 - b2) * g * g
        m_hat = float(m[i]) / (1.0 - b1**step)
        v_hat = float(v[i]) / (1.0 - b2**step)
        root = (math.sqrt(float(v[i])) + eps) / math.sqrt(1.0 - b2**step) if eps_hat else math.sqrt(v_hat) + eps
        param[i] = shrink(float(param[i]) - lr * m_hat / root, truncate)


def adamw_update(
    param, m, v, grad, lr, b1, b2, eps, step, weight_decay,
    l1=0.0, l2=0.0, grad_scale=1.0, clip_value=math.inf, truncate=0.0,
):  # fmt: skip
    """Adam after param *= 1 - lr weight_decay (Loshchilov and Hutter 2019); penalties see the old weight."""
    for i in range(param.size):
        g = _gradient(param, grad, i, l1, l2, grad_scale, clip_value)
        m[i] = b1 * float(m[i]) + (1.0 - b1) * g
        v[i] = b2 * float(v[i]) + (1.0 - b2) * g * g
        m_hat = float(m[i]) / (1.0 - b1**step)
        v_hat = float(v[i]) / (1.0 - b2**step)
        decayed = float(param[i]) * (1.0 - lr * weight_decay)
        param[i] = shrink(decayed - lr * m_hat / (math.sqrt(v_hat) + eps), truncate)


def amsgrad_update(
    param, m, v, vmax, grad, lr, b1, b2, eps, step,
    l1=0.0, l2=0.0, grad_scale=1.0, clip_value=math.inf, truncate=0.0,
):  # fmt: skip
    """Adam with the largest v so far in the root (Reddi et al. 2018, in PyTorch's form: bias corrected)."""
    for i in range(param.size):
        g = _gradient(param, grad, i, l1, l2, grad_scale, clip_value)
        m[i] = b1 * float(m[i]) + (1.0 - b1) * g
        v[i] = b2 * float(v[i]) + (1.0 - b2) * g * g
        vmax[i] = max(float(vmax[i]), float(v[i]))
        m_hat = float(m[i]) / (1.0 - b1**step)
        v_hat = float(vmax[i]) / (1.0 - b2**step)
        param[i] = shrink(float(param[i]) - lr * m_hat / (math.sqrt(v_hat) + eps), truncate)


def penalty(w, l1, l2):
    """l1 sum |w| + l2 / 2 sum w^2."""
    values = [float(v) for v in w.ravel()]
    return l1 * math.fsum(abs(v) for v in values) + 0.5 * l2 * math.fsum(v * v for v in values)


def soft_threshold(w, amount):
    """Every weight toward 0 by `amount`, exactly 0 within it."""
    for i in np.ndindex(w.shape):
        w[i] = shrink(float(w[i]), amount)


def clip_by_value(grad, limit):
    """Every element into [-limit, limit]."""
    for i in np.ndindex(grad.shape):
        grad[i] = max(-limit, min(limit, float(grad[i])))


def global_norm(grad):
    """Euclidean norm of all elements."""
    return math.sqrt(math.fsum(float(v) ** 2 for v in grad.ravel()))


def clip_by_norm(grad, limit):
    """Scaled down to norm `limit` where it is longer; the norm before is returned."""
    norm = global_norm(grad)
    if norm > limit:
        for i in np.ndindex(grad.shape):
            grad[i] = float(grad[i]) * (limit / norm)
    return norm


# -------------------------------------------------------------------------------------- statistics


def activation_statistics(stats, a, z, activation):
    """Mean and standard deviation of `a`, share of flat (row, unit) pairs, share of units flat in every row.

    A pair is flat where the slope is below 1% of the largest: 1/4 for the sigmoid, 1 for the others.
    """
    rows, units = a.shape
    values = [float(v) for v in a.ravel()]
    mean = math.fsum(values) / len(values)
    limit = 0.01 * (0.25 if activation == "sigmoid" else 1.0)
    flat = [[abs(activation_slope(float(z[b, u]), activation)) < limit for u in range(units)] for b in range(rows)]
    stats[0] = mean
    stats[1] = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    stats[2] = sum(sum(row) for row in flat) / len(values)
    stats[3] = sum(all(flat[b][u] for b in range(rows)) for u in range(units)) / units


# ---------------------------------------------------------------------------------- a whole network
#
# A network is a list of dicts, its layers:
#   {"kind": "dense", "w": (inputs, units), "b": (units,) or None, "activation": name, "l1": 0.0, "l2": 0.0}
#   {"kind": "dropout", "rate": share dropped, "layer": the number that keys its mask (its place in the list)}
#   {"kind": "activation", "activation": name}
#   {"kind": "rescale", "scale": number, "offset": number}        y = x scale + offset
# An activation may be "softmax" besides the kernels' names. All arithmetic is float64.

LOSSES = {
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}
FOLDED = {("cross_entropy", "softmax"), ("binary_cross_entropy", "sigmoid")}


def _activate(z, name):
    a = np.empty_like(z)
    if name == "softmax":
        softmax_forward(a, z)
    else:
        activation_forward(a, z, name)
    return a


def _activate_backward(da, z, a, name):
    dz = np.empty_like(z)
    if name == "softmax":
        for b in range(z.shape[0]):
            dot = math.fsum(float(u) * float(v) for u, v in zip(da[b], a[b], strict=True))
            dz[b] = [float(p) * (float(d) - dot) for p, d in zip(a[b], da[b], strict=True)]
    else:
        activation_backward(dz, da, z, a, name)
    return dz


def fold_last_activation(layers, loss):
    """The layers with a last softmax or sigmoid replaced by identity where `loss` contains it."""
    if layers and (loss, layers[-1].get("activation")) in FOLDED:
        return [*layers[:-1], {**layers[-1], "activation": "identity"}]
    return layers


def network_forward(layers, x, training=False, seed=0, step=0):
    """Every layer's record of the forward pass: its input "x", and for activations "z" and output "a"."""
    records = []
    value = np.asarray(x, dtype=np.float64)
    for place, layer in enumerate(layers):
        record = {"x": value}
        if layer["kind"] == "dense":
            z = value @ np.asarray(layer["w"], dtype=np.float64)
            if layer.get("b") is not None:
                z = z + np.asarray(layer["b"], dtype=np.float64)
            record["z"] = z
            value = _activate(z, layer.get("activation", "identity"))
        elif layer["kind"] == "activation":
            record["z"] = value
            value = _activate(value, layer["activation"])
        elif layer["kind"] == "dropout":
            if training and layer["rate"] > 0:
                mask = np.empty(value.shape)
                dropout_mask(mask, layer["rate"], seed, step, layer.get("layer", place))
                record["mask"] = mask
                value = value * mask
        elif layer["kind"] == "rescale":
            value = value * layer["scale"] + layer.get("offset", 0.0)
        else:
            raise ValueError(layer["kind"])
        record["a"] = value
        records.append(record)
    return records


def network_backward(layers, records, da):
    """(dx, gradients): gradients is one entry a layer, (dw, db) for dense layers and None for the others."""
    gradients = [None] * len(layers)
    for place in range(len(layers) - 1, -1, -1):
        layer, record = layers[place], records[place]
        if layer["kind"] == "dense":
            dz = _activate_backward(da, record["z"], record["a"], layer.get("activation", "identity"))
            db = None if layer.get("b") is None else dz.sum(axis=0)
            gradients[place] = (record["x"].T @ dz, db)
            da = dz @ np.asarray(layer["w"], dtype=np.float64).T
        elif layer["kind"] == "activation":
            da = _activate_backward(da, record["z"], record["a"], layer["activation"])
        elif layer["kind"] == "dropout":
            da = da * record["mask"] if "mask" in record else da
        elif layer["kind"] == "rescale":
            da = da * layer["scale"]
    return da, gradients


def network_penalty(layers):
    """Sum of the dense layers' penalties, weights only."""
    return math.fsum(
        penalty(layer["w"], layer.get("l1", 0.0), layer.get("l2", 0.0)) for layer in layers if layer["kind"] == "dense"
    )


def network_loss(layers, x, t, loss, w=None, training=False, seed=0, step=0, delta=1.0):
    """(data loss, records, gradient by the outputs); a last softmax or sigmoid is folded into its loss."""
    layers = fold_last_activation(layers, loss)
    records = network_forward(layers, x, training, seed, step)
    y = records[-1]["a"]
    dy = np.empty_like(y)
    options = {"delta": delta} if loss == "huber" else {}
    return LOSSES[loss](dy, y, t, w, **options), records, dy


def network_gradients(layers, x, t, loss, w=None, training=True, seed=0, step=0):
    """(data loss, dx, gradients of the data loss as in `network_backward`), penalties left out."""
    value, records, dy = network_loss(layers, x, t, loss, w, training, seed, step)
    dx, gradients = network_backward(fold_last_activation(layers, loss), records, dy)
    return value, dx, gradients


def _apply(optimizer, state, param, grad, lr, step, l1, l2, truncate, grad_scale):
    """One optimizer step on one array; `state` is filled with zeros when it is first used."""

    def slot(name):
        return state.setdefault(name, np.zeros(param.size))

    name = optimizer["name"]
    flat, g = param.reshape(-1), np.ascontiguousarray(grad).reshape(-1)
    common = {
        "l1": l1,
        "l2": l2,
        "truncate": truncate,
        "grad_scale": grad_scale,
        "clip_value": optimizer.get("clip_value", math.inf),
    }
    momentum = optimizer.get("momentum", 0.0)
    inside = optimizer.get("eps_inside_sqrt", False)
    b1, b2 = optimizer.get("betas", (0.9, 0.999))
    if name == "sgd":
        sgd_update(flat, slot("velocity"), g, lr, momentum, optimizer.get("nesterov", False), step, **common)
    elif name == "adagrad":
        adagrad_update(flat, slot("g2"), g, lr, optimizer.get("eps", 1e-10), inside, **common)
    elif name == "rmsprop":
        alpha, eps = optimizer.get("alpha", 0.99), optimizer.get("eps", 1e-8)
        centered = optimizer.get("centered", False)
        rmsprop_update(
            flat,
            slot("v"),
            slot("velocity"),
            slot("mean"),
            g,
            lr,
            alpha,
            eps,
            momentum,
            centered,
            inside,
            **common,
        )
    elif name == "adam" and not optimizer.get("amsgrad", False):
        adam_update(flat, slot("m"), slot("v"), g, lr, b1, b2, optimizer.get("eps", 1e-8), step, **common)
    elif name == "adam":
        eps = optimizer.get("eps", 1e-8)
        amsgrad_update(flat, slot("m"), slot("v"), slot("vmax"), g, lr, b1, b2, eps, step, **common)
    elif name == "adamw":
        decay = optimizer.get("weight_decay", 0.01)
        adamw_update(flat, slot("m"), slot("v"), g, lr, b1, b2, optimizer.get("eps", 1e-8), step, decay, **common)
    else:
        raise ValueError(name)


def network_train(
    layers, x, t, loss, optimizer, epochs=1, batch_size=32, seed=0, shuffle=True, w=None,
    l1_mode="gradient", first_step=0, first_epoch=0, states=None, loss_scale=1.0, penalty_per_weight=False,
):  # fmt: skip
    """Train in place; return the loss of every epoch: the row-weighted mean over its batches, with penalty.

    `optimizer` is a dict: "name", "lr" (a number, or a function of step and epoch, both counted from 0), and
    the optimizer's own numbers, "clip_value" and "clip_norm" (norm of the whole gradient with its penalties,
    after clipping by value). Dense weights must be float64 arrays: they are changed in place. `states` (one
    dict a parameter array) is for going on with a training: hand the same list in again. `loss_scale` multiplies the
    gradient of the loss; `penalty_per_weight` divides the penalties by the sum of the batch's weights.
    """
    n = x.shape[0]
    params = []
    for layer in layers:
        if layer["kind"] == "dense":
            params.append((layer["w"], layer.get("l1", 0.0), layer.get("l2", 0.0)))
            if layer.get("b") is not None:
                params.append((layer["b"], 0.0, 0.0))
    states = [] if states is None else states
    states.extend({} for _ in range(len(params) - len(states)))
    step, history = first_step, []
    for epoch in range(first_epoch, first_epoch + epochs):
        order = np.arange(n)
        if shuffle:
            shuffle_indices(order, seed, epoch)
        total, mass = [], []
        for start in range(0, n, batch_size):
            rows = order[start : start + batch_size]
            weights = None if w is None else w[rows]
            value, _, gradients = network_gradients(layers, x[rows], t[rows], loss, weights, True, seed, step)
            share = float(len(rows) if weights is None else math.fsum(float(v) for v in weights))
            per = 1.0 if not penalty_per_weight else 1.0 / share if share > 0 else 0.0
            total.append(share * (value + per * network_penalty(layers)))
            mass.append(share)
            flat = [part for pair in gradients if pair is not None for part in pair if part is not None]
            flat = [loss_scale * part for part in flat]
            lr = optimizer["lr"](step, epoch) if callable(optimizer["lr"]) else optimizer["lr"]
            truncating = l1_mode == "truncate"
            scale = 1.0
            if optimizer.get("clip_norm") is not None:
                clip = optimizer.get("clip_value", math.inf)
                squares = []
                for (param, l1, l2), grad in zip(params, flat, strict=True):
                    l1, l2 = per * l1, per * l2
                    seen = grad + l2 * param + (0.0 if truncating else l1) * np.sign(param)
                    squares.append(float((np.clip(seen, -clip, clip) ** 2).sum()))
                norm = math.sqrt(math.fsum(squares))
                scale = min(1.0, optimizer["clip_norm"] / norm) if norm > 0 else 1.0
            for (param, l1, l2), grad, state in zip(params, flat, states, strict=True):
                l1, l2 = per * l1, per * l2
                gradient_l1, truncate = (0.0, lr * l1) if truncating else (l1, 0.0)
                _apply(optimizer, state, param, grad, lr, step + 1, gradient_l1, l2, truncate, scale)
            step += 1
        history.append(math.fsum(total) / math.fsum(mass) if math.fsum(mass) else 0.0)
    return history
