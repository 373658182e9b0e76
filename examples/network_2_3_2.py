"""Back-propagation by hand on a network of 2 inputs, 3 hidden units and 2 outputs, beside what fastnn computes.

The network is the survey's: sigmoid everywhere, squared error, one sample, one step of gradient descent. Each number
is worked out below with nothing but sums, products and math.exp, and compared with the program's.

    python examples/network_2_3_2.py
"""

from __future__ import annotations

import math
import sys

import numpy as np

import fastnn

X = [0.5, -0.2]  # one sample: a row of 2 inputs
Y = [1.0, 0.0]  # what it should give

# W[i][j] leads from unit i of the layer before to unit j: 2 x 3 and 3 x 2, with a bias for each unit that it leads to.
W1 = [[0.1, 0.4, -0.3], [0.8, -0.6, 0.2]]
B1 = [0.1, 0.0, -0.2]
W2 = [[0.3, -0.5], [0.9, 0.4], [-0.7, 0.2]]
B2 = [0.05, -0.1]

RATE = 0.5
TOLERANCE = 1e-12

NOTES = """
Where the survey's text differs, and why the numbers above are right:
  samples    It writes data as columns, a = f(W x + b), with W of shape (outputs, inputs). Here, as in Keras, samples
             are rows, a = f(x W + b), and W is (inputs, outputs): one is the other transposed.
  shapes     It gives the weights of this 2-3-2 network as 2x3, 3x3 and 3x2. Three layers of units have two layers of
             weights between them, 2x3 and 3x2; a 3x3 matrix would belong to a network 2-3-3-2.
  the sum    It writes the hidden delta as the sum of the output deltas times a (1 - a). The weights are missing: the
             error of unit i is sum_j delta_j W2[i][j], as each output's error returns on the way it came. Without W2
             the first hidden delta would be {without:+.6f} instead of {delta:+.6f}.
  factor 2   The derivative of (a - y)^2 is 2 (a - y). The survey's delta = (a - y) a (1 - a) belongs to half the sum,
             1/2 sum (a - y)^2. fastnn's squared error is the mean over outputs; with 2 outputs that is the half sum,
             so that both agree here. With n outputs the gradients differ by the factor 2 / n, and so does the rate.
"""


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z)."""
    return 1.0 / (1.0 + math.exp(-z))


def by_hand() -> dict[str, list[float] | list[list[float]]]:
    """Forward, backward, and one step, as the survey writes them (with the slips mended)."""
    # Forward: each unit sums what comes in, adds its bias, and bends the sum.
    a1 = [sigmoid(sum(X[i] * W1[i][j] for i in range(2)) + B1[j]) for j in range(3)]
    a2 = [sigmoid(sum(a1[i] * W2[i][j] for i in range(3)) + B2[j]) for j in range(2)]
    loss = sum((a2[j] - Y[j]) ** 2 for j in range(2)) / 2

    # Backward: delta is the derivative of the loss by a unit's sum. At the output it is (a - y) f', and f' = a (1 - a).
    delta2 = [(a2[j] - Y[j]) * a2[j] * (1 - a2[j]) for j in range(2)]
    # A hidden unit answers for the outputs as far as its weights lead there.
    delta1 = [sum(delta2[j] * W2[i][j] for j in range(2)) * a1[i] * (1 - a1[i]) for i in range(3)]

    # dL/dW = input x delta, dL/db = delta.
    d_w1 = [[X[i] * delta1[j] for j in range(3)] for i in range(2)]
    d_w2 = [[a1[i] * delta2[j] for j in range(2)] for i in range(3)]

    # One step down the gradient.
    return {
        "hidden outputs a1": a1,
        "outputs a2": a2,
        "loss": [loss],
        "output delta = dL/db2": delta2,
        "hidden delta = dL/db1": delta1,
        "dL/dW2 = a1 x delta": d_w2,
        "dL/dW1 = x x delta": d_w1,
        "W1 after the step": [[W1[i][j] - RATE * d_w1[i][j] for j in range(3)] for i in range(2)],
        "b1 after the step": [B1[j] - RATE * delta1[j] for j in range(3)],
        "W2 after the step": [[W2[i][j] - RATE * d_w2[i][j] for j in range(2)] for i in range(3)],
        "b2 after the step": [B2[j] - RATE * delta2[j] for j in range(2)],
    }


def by_fastnn() -> dict[str, np.ndarray]:
    """The same numbers from the program."""
    layers = [fastnn.Dense(3, "sigmoid"), fastnn.Dense(2, "sigmoid")]
    model = fastnn.Sequential(layers, "squared_error", fastnn.SGD(RATE), dtype="float64", input_size=2)
    model.set_weights([W1, B1, W2, B2])
    first_layer = fastnn.Sequential(layers[:1], "squared_error", dtype="float64", input_size=2)
    first_layer.set_weights([W1, B1])

    a1, a2 = first_layer.predict([X]), model.predict([X])
    loss, (d_w1, d_b1, d_w2, d_b2) = model.gradients([X], [Y])
    model.train_on_batch([X], [Y])
    w1, b1, w2, b2 = model.get_weights()
    numbers = (a1, a2, loss, d_b2, d_b1, d_w2, d_w1, w1, b1, w2, b2)
    return {name: np.asarray(number) for name, number in zip(by_hand(), numbers, strict=True)}


def main() -> int:
    """Print both side by side; returns 1 if any two differ."""
    hand, program = by_hand(), by_fastnn()
    print(f"a 2-3-2 sigmoid network, x = {X}, y = {Y}, one step with rate {RATE:g}\n")
    print(f"{'':<24}{'by hand':>20}{'fastnn':>20}{'difference':>14}")
    worst = 0.0
    for name, numbers in hand.items():
        mine, theirs = np.ravel(np.array(numbers)), np.ravel(program[name])
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            print(f"{name if i == 0 else '':<24}{a:>20.15f}{b:>20.15f}{abs(a - b):>14.1e}")
            worst = max(worst, abs(a - b)) if math.isfinite(b) else math.inf
    a1, delta2 = hand["hidden outputs a1"], hand["output delta = dL/db2"]
    without_weights = sum(delta2) * a1[0] * (1 - a1[0])
    print(NOTES.format(without=without_weights, delta=hand["hidden delta = dL/db1"][0]))
    agree = worst <= TOLERANCE
    print(f"largest difference {worst:.1e}: {'they agree' if agree else 'THEY DIFFER'} within {TOLERANCE:g}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
