"""The activations by name: which there are, and what each is for.

==============  ===========================  =====================================================================
name            formula                      suits
==============  ===========================  =====================================================================
``identity``    z                            the output of a regression
``relu``        max(0, z)                    hidden layers, the first choice: its slope does not shrink with depth
``leaky_relu``  z, or 0.01 z below 0         hidden layers whose ReLU units die
``elu``         z, or e^z - 1 below 0        hidden layers, smoother than ReLU (Clevert et al. 2016)
``sigmoid``     1 / (1 + e^-z)               a probability at the output; saturates when stacked
``tanh``        (e^z - e^-z) / (e^z + e^-z)  shallow hidden layers, control and surrogates; centred at 0
``softplus``    log(1 + e^z)                 a positive output
``gelu``        z Phi(z)                     hidden layers, smooth (Hendrycks and Gimpel 2016)
``silu``        z / (1 + e^-z)               hidden layers, smooth (Elfwing et al. 2018)
``softmax``     e^z_j / sum_k e^z_k          class probabilities, the last layer only
==============  ===========================  =====================================================================
"""

from __future__ import annotations

from fastnn._errors import unknown_name
from fastnn.kernels.formulas import CODES

SOFTMAX = "softmax"
ELEMENTWISE = tuple(CODES)
"""Those that hidden layers can have: each output is a function of one input."""

NAMES = (*ELEMENTWISE, SOFTMAX)

_ELSEWHERE = {"logistic": "sigmoid", "swish": "silu", "linear": "identity", "none": "identity", "logsoftmax": SOFTMAX}
"""The names that scikit-learn, Keras and PyTorch have for them, for messages."""


def check_activation(name: str | None) -> str:
    """Return the name of an activation; None is the identity.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest known one.
    """
    if name is None:
        return "identity"
    if name not in NAMES:
        raise unknown_name("activation", name, NAMES, _ELSEWHERE)
    return name
