"""torch's process group among Ray Train's workers: on loopback where Ray is, and heeding SIGTERM."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig

from rasterloom.train.loopback_group import LOOPBACK, join, serve_store
from rasterloom.train.stop_signals import SigtermRequest

_TorchBackend: Any = TorchConfig().backend_cls


class StageBackend(_TorchBackend):  # type: ignore[misc]
    """Sets up each worker before its training begins."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if ray.util.get_node_ip_address() == LOOPBACK:
            _start_on_loopback(worker_group, backend_config)
        else:
            super().on_start(worker_group, backend_config)

    def on_training_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(SigtermRequest.install)  # in the main thread; training is in another


@dataclass
class StageTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's setting of the process group, with our backend."""

    @property
    def backend_cls(self) -> type[StageBackend]:
        return StageBackend


def _start_on_loopback(worker_group: Any, backend_config: TorchConfig) -> None:
    timeout = timedelta(seconds=backend_config.timeout_s)
    port = worker_group.execute_single(0, serve_store, timeout)
    size = len(worker_group)
    given = (backend_config.backend, port)
    ray.get(
        [worker_group.execute_single_async(rank, _join, *given, rank, size, timeout) for rank in range(size)]
    )


def _join(backend: str, port: int, rank: int, world_size: int, timeout: timedelta) -> None:
    context = ray.train.get_context()
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        NODE_RANK=str(context.get_node_rank()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
    )
    join(backend, port, rank, world_size, timeout)
