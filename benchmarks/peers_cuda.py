"""The libraries on a GPU: the same training as in `peers.py`, data, parameters and steps on the device.

Products are of one precision for everyone: full float32, where PyTorch and JAX may take TF32 by themselves, or what
``compare.py --matmul-precision`` says. With "bf16" all but JAX leave it to cuBLAS how much it rounds.
"""

from __future__ import annotations

import os
from typing import ClassVar

from benchmarks import cases
from benchmarks.peers import Array, FastNN, Jax, Peer, Torch

PRECISION = os.environ.get("FASTNN_BENCHMARK_MATMUL_PRECISION", "float32")
TORCH_PRECISIONS = {"float32": "highest", "tf32": "high", "bf16": "medium"}
JAX_PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}


class FastNNOnDevice(FastNN):
    """fastnn with `device="cuda"`."""

    def restart(self, weights: list[Array], seed: int) -> None:
        self.model = cases.fastnn_model(self.workload, seed, device="cuda", matmul_precision=PRECISION)
        self.model.set_weights(weights)

    def epochs(self, count: int) -> float:
        """Train; returns the seconds of the epochs, without those that check the data and take it to the device."""
        history = cases.fit(self.model, self.workload, self.x, self.y, count)
        return float(sum(history.history["seconds"][-count:]))

    def peak(self, dtype: str, threads: int) -> float:
        """Return the device's peak of multiply-adds on registers, in GFLOP/s."""
        from benchmarks import limits_cuda

        return limits_cuda.fma_peak(dtype) / 1e9


class TorchOnDevice(Torch):
    """PyTorch, eager, with its fused optimizers."""

    place: ClassVar[str] = "cuda"

    def prepare(self) -> None:
        torch = self.torch
        torch.set_float32_matmul_precision(TORCH_PRECISIONS[PRECISION])
        super().prepare()
        self.model.to(self.place)
        self.tx, self.ty = self.tx.to(self.place), self.ty.to(self.place)

    def epochs(self, count: int) -> None:
        torch, x, y, batch = self.torch, self.tx, self.ty, self.workload.batch
        self.model.train()
        for _ in range(count):
            if self.workload.full_batch:
                self._step(x, y)
                continue
            order = torch.randperm(len(x), device=self.place)
            for start in range(0, len(x), batch):
                index = order[start : start + batch]
                self._step(x[index], y[index])
        if self.place == "cuda":
            torch.cuda.synchronize()

    def weights(self) -> list[Array]:
        arrays = [parameter.detach().cpu().numpy() for parameter in self.model.parameters()]
        return [array.T if array.ndim == 2 else array for array in arrays]


class TorchGraph(TorchOnDevice):
    """PyTorch with a CUDA graph of one whole step: gather, forward, loss, backward, update; a short batch is eager."""

    def restart(self, weights: list[Array], seed: int) -> None:
        super().restart(weights, seed)
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        torch, batch = self.torch, min(self.workload.batch, len(self.x))
        self.index = torch.arange(batch, device=self.place)
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._captured()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self._captured()
        with torch.no_grad():  # the warm-up took steps
            for parameter, old in zip(self.model.parameters(), before, strict=True):
                parameter.copy_(old)
            for state in self.optimizer.state.values():
                for value in state.values():
                    if torch.is_tensor(value):
                        value.zero_()

    def _captured(self) -> None:
        self._step(self.tx[self.index], self.ty[self.index])

    def epochs(self, count: int) -> None:
        torch, batch = self.torch, min(self.workload.batch, len(self.x))
        self.model.train()
        for _ in range(count):
            order = torch.randperm(len(self.tx), device=self.place)
            for start in range(0, len(order), batch):
                index = order[start : start + batch]
                if len(index) == batch:
                    self.index.copy_(index)
                    self.graph.replay()
                else:
                    self._step(self.tx[index], self.ty[index])
        torch.cuda.synchronize()


class JaxOnDevice(Jax):
    """JAX: as on the CPU, a whole epoch a call."""

    platform: ClassVar[str] = "cuda"

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the others are on the device, too
        super().__init__(threads)
        self.jax.config.update("jax_platforms", self.platform)
        self.jax.config.update("jax_default_matmul_precision", JAX_PRECISIONS[PRECISION])


PEERS: dict[str, tuple[type[Peer], bool]] = {
    "fastnn": (FastNNOnDevice, True),
    "torch": (TorchOnDevice, True),
    "torch-graph": (TorchGraph, True),
    "jax": (JaxOnDevice, True),
}
"""As `peers.PEERS`."""
