"""Pictures: of a training run, of what is inside a network, of how it errs.

They need matplotlib, which `pip install "fastnn[plot]"` brings and which is imported only when a picture is drawn.
No figure is shown or kept by matplotlib's own state: each function returns one, and writes it where `path` says.
"""

from fastnn.plotting.confusion import plot_confusion_matrix
from fastnn.plotting.curves import plot_history
from fastnn.plotting.flow import plot_gradient_flow
from fastnn.plotting.histograms import plot_activations, plot_weights
from fastnn.plotting.style import FORMATS

__all__ = ["FORMATS", "plot_activations", "plot_confusion_matrix", "plot_gradient_flow", "plot_history", "plot_weights"]
