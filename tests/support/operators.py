"""Record of torch's operators that run, and their results."""

from collections import Counter

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """Counts operators that run, and the bytes of living results: now, and at their peak if so asked.

    Args:
        besides: storages (their ``_cdata``) that do not count for the peak.
    """

    def __init__(self, *, peaks=False, besides=()):
        super().__init__()
        self.counts, self.made = Counter(), {}
        self.peaks, self.peak, self.besides = peaks, 0, besides

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.counts[func.name()] += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        if self.peaks:
            self.made = {at: made for at, made in self.made.items() if not made[0].expired()}
            self.peak = max(self.peak, self.alive(self.besides))
        return out

    def alive(self, besides=()):
        """Bytes of what is still there, but for some storages (their ``_cdata``)."""
        there = ((at, size) for at, (ref, size) in self.made.items() if not ref.expired())
        return sum(size for at, size in there if at not in besides)
