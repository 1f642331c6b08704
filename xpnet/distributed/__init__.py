"""Training by several processes: `fit(..., distributed=xpnet.distributed.mpi())`."""

from xpnet.distributed.group import Group
from xpnet.distributed.mpi_group import mpi

__all__ = ["Group", "mpi"]
