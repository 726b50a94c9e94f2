"""Retrieval when features live in shards, in several processes or machines (torch.distributed: gloo, nccl).

Each process holds some rows: process 0 the first ones, process 1 those after them, in numbers that need not
be equal. What one process would compute from all rows is computed from the shards, with the same result. A
process holds its own shard, one visiting shard, and lists, but never the features of all rows. A program for
``torchrun --nproc-per-node 8 program.py``::

    from datetime import timedelta

    import torch.distributed as dist
    from safetensors.torch import load_file

    from torchreid_genext.retrieval import sharded
    from torchreid_genext.retrieval.protocol import RetrievalSet

    dist.init_process_group("gloo", timeout=timedelta(minutes=5))  # or nccl, and features on the device
    rank = dist.get_rank()
    query = RetrievalSet(**load_file(f"query_{rank}.safetensors"))  # features, pids, camids
    gallery = RetrievalSet(**load_file(f"gallery_{rank}.safetensors"))
    report = sharded.evaluate(query, gallery, "nfc+rerank")  # of all queries, on every process
    if rank == 0:
        print(report.summary())
    dist.destroy_process_group()

All processes must make the same calls in the same order. If one of them ends, the others stop with a
RuntimeError as soon as they notice, at the latest after the timeout of ``init_process_group``; with nccl,
torch itself ends the waiting processes then.
"""

from torchreid_genext.retrieval.sharded.evaluation import evaluate
from torchreid_genext.retrieval.sharded.neighbours import nearest, nfc
from torchreid_genext.retrieval.sharded.reranking import k_reciprocal
from torchreid_genext.retrieval.sharded.shards import Shards

__all__ = ["Shards", "evaluate", "k_reciprocal", "nearest", "nfc"]
