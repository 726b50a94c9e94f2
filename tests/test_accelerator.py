"""The pretence itself: what a real accelerator refuses, allows, and waits for."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.accelerator import DEVICE, Pretended, counting_syncs, pretended_accelerator

MIXED = "Expected all tensors to be on the same device"


@pytest.fixture
def device() -> torch.device:
    with pretended_accelerator() as found:
        yield found


@pytest.fixture
def here() -> Tensor:
    return torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])


@pytest.fixture
def there(device: torch.device, here: Tensor) -> Tensor:
    return here.to(device)


ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: 2 * x + x.square(),
    "numbers of the host": lambda x: x + torch.tensor(1.0),
    "a product": lambda x: x @ x.t(),
    "a product into a buffer": lambda x: torch.mm(x, x.t(), out=torch.empty(2, 2, device=x.device)),
    "slices": lambda x: x[1:, 2],
    "indices of the host": lambda x: x[torch.tensor([1, 0])],
    "a mask of the host": lambda x: x[:, torch.tensor([True, False, True])],
    "own indices": lambda x: x[x.argsort(dim=1)[:, 0] // 2],
    "written rows": lambda x: x.clone().index_fill_(0, torch.tensor([1], device=x.device), 7.0),
    "a view written into": lambda x: _written(x.clone()),
    "like another": lambda x: torch.zeros_like(x) + x.new_ones(3) + torch.full_like(x, 2),
    "where": lambda x: torch.where(x > 2, x, torch.tensor(0.0)),
    "sorted": lambda x: x.sort(dim=1, stable=True).values,
    "a search": lambda x: torch.searchsorted(torch.arange(4, device=x.device), x.flatten().long()),
    "wider and back": lambda x: x.double().to(torch.float32),
    "by the type of another": lambda x: x.to(x.new_zeros(1, dtype=torch.float64)),
    "layers": lambda x: functional.normalize(functional.layer_norm(x, (3,))),
    "a copy": lambda x: copy.deepcopy(x),
}


def _written(x: Tensor) -> Tensor:
    x[0] = 9
    x[:, 1].add_(1)
    x[x > 8] = -1
    x[[0, 1], torch.tensor([2, 0])] = 0.5
    x[1:] = torch.ones(1, 3)  # a copy from the host, as torch allows
    return x


@pytest.mark.parametrize("name", ALLOWED)
def test_what_torch_allows_gives_the_same_numbers_and_stays(name: str, here: Tensor, there: Tensor) -> None:
    found = ALLOWED[name](there)
    assert found.device == DEVICE and not found.is_cpu
    torch.testing.assert_close(found.cpu(), ALLOWED[name](here), rtol=0, atol=0)


REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a sum": lambda x, y: x + y,
    "a sum in place": lambda x, y: y.add_(x),
    "a number written into": lambda x, y: y[0, 0].add_(x[0, 0]),
    "a product": lambda x, y: x @ y.t(),
    "a product into a buffer": lambda x, y: torch.mm(x, x.t(), out=torch.empty(2, 2)),
    "both in one": lambda x, y: torch.cat([x, y]),
    "a mask": lambda x, y: x.masked_fill(y > 2, 0),
    "rows": lambda x, y: x.index_select(0, torch.tensor([0])),
    "places": lambda x, y: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "a search": lambda x, y: torch.searchsorted(x[1].contiguous(), torch.tensor(2.0)),
    "rows written into": lambda x, y: x.index_add_(0, torch.tensor([0]), x[:1]),
    "a layer": lambda x, y: nn.Linear(3, 2)(x),
    "a moved layer": lambda x, y: nn.Linear(3, 2).to(x.device)(y),
    "a filter": lambda x, y: functional.conv1d(x[:, None], torch.ones(1, 1, 1)),
    "a comparison": lambda x, y: torch.equal(x, y),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_to_mix_is_refused(name: str, here: Tensor, there: Tensor) -> None:
    with pytest.raises(RuntimeError, match=MIXED):
        REFUSED[name](there, here)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=MIXED):
        REFUSED[name](there.clone(), here.clone())


def test_the_host_cannot_be_indexed_from_there(here: Tensor, there: Tensor) -> None:
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        here[there.argsort(dim=1)[:, 0]]
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        here[there.argsort(dim=1)[:, 0] // 2] = 3


def test_numpy_does_not_see_it(there: Tensor) -> None:
    for read in (Tensor.numpy, np.asarray, lambda x: np.add(x, 1)):
        with pytest.raises(TypeError, match="can't convert xpu:0 device type tensor to numpy"):
            read(there)


def test_generators_of_the_host_do_not_draw_there(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match="Expected a 'xpu' device type for generator but found 'cpu'"):
        torch.randn(3, generator=torch.Generator(), device=device)


def test_factories_make_tensors_where_they_are_told(device: torch.device, there: Tensor) -> None:
    made = [
        torch.arange(3, device=device), torch.empty(2, device="xpu:0"), torch.tensor([1, 2], device=device),
        torch.as_tensor(np.ones(2), device=device), torch.full((2,), 1.0, device=there.device),
        there.new_empty(3), torch.empty_like(there), torch.zeros(2, device=there.device),
    ]  # fmt: skip
    assert all(isinstance(x, Pretended) and x.device == device for x in made)
    assert torch.arange(3).is_cpu and there.new_zeros(2, device="cpu").is_cpu
    assert torch.zeros_like(there, device="cpu").is_cpu


def test_what_is_moved_is_a_copy(here: Tensor, there: Tensor) -> None:
    there.zero_()
    back = there.cpu()
    there.fill_(2)
    assert here.max() == 5 and back.max() == 0 and type(back) is Tensor


def test_modules_move_and_give_the_same(device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    images = torch.rand(2, 3, 6, 6)
    expected = network.eval()(images)
    moved = copy.deepcopy(network).to(device)
    assert all(tensor.device == device for tensor in moved.state_dict().values())
    assert all(isinstance(weight, nn.Parameter) for weight in moved.parameters())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(moved(images.to(device)).cpu(), expected.detach(), rtol=0, atol=0)
    assert torch.equal(moved.cpu()(images), expected)


WAITS: dict[str, tuple[int, Callable[[Tensor], object]]] = {
    "one number": (1, lambda x: x[0, 0].item()),
    "a decision": (1, lambda x: bool((x > 1).all())),
    "a number for Python": (1, lambda x: int(x.sum())),
    "a list": (1, lambda x: x.tolist()),
    "a loop over numbers": (3, lambda x: [float(v) for v in x[0]]),
    "numbers in a list": (2, lambda x: torch.tensor([x[0, 0], x[0, 1]])),
    "a transfer": (1, lambda x: x.cpu()),
    "a copy into the host's": (1, lambda x: torch.empty(2, 3).copy_(x)),
    "where something is": (1, lambda x: (x > 1).nonzero()),
    "where, in two": (1, lambda x: (x > 1).nonzero(as_tuple=True)),
    "a mask": (1, lambda x: x[x > 1]),
    "a mask written with many": (2, lambda x: x.clone().index_put_((x > 1,), x[x > 1])),
    "what is different": (1, lambda x: x.unique()),
    "a comparison of all": (1, lambda x: torch.equal(x, x)),
    "repeated rows": (1, lambda x: torch.repeat_interleave(x[0].long())),
    "a slice up to": (1, lambda x: x[: x[0, 1].long()]),
}  # fmt: skip


@pytest.mark.parametrize("name", WAITS)
def test_waits_of_the_host_are_counted(name: str, there: Tensor) -> None:
    expected, waiting = WAITS[name]
    with counting_syncs() as count:
        waiting(there)
    assert count.total() == expected


FREE: dict[str, Callable[[Tensor], object]] = {
    "a product": lambda x: x @ x.t(),
    "the nearest": lambda x: x.topk(2, dim=1),
    "a mask written with one": lambda x: x.clone().masked_fill_(x > 1, 0),
    "a mask written with a number": lambda x: x.clone().__setitem__(x > 1, 0.0),
    "how long": lambda x: (len(x), x.shape, x.device, x.numel()),
    "repeated rows, so many": lambda x: torch.repeat_interleave(x[0].long(), output_size=6),
    "on the way there": lambda x: torch.ones(3).to(x.device),
    "own indices": lambda x: x[x.argsort(dim=1)[:, 0] // 2],
}


@pytest.mark.parametrize("name", FREE)
def test_what_runs_on_is_not_counted(name: str, there: Tensor) -> None:
    with counting_syncs() as count:
        FREE[name](there)
    assert not count.total()


def test_counts_are_of_their_own_block(there: Tensor) -> None:
    with counting_syncs() as outer:
        there.max().item()
        with counting_syncs() as inner:
            there.cpu()
    there.cpu()
    assert outer.total() == 2 and dict(inner) == {"cpu": 1}
    assert outer.fetched == inner.fetched == 6


@pytest.mark.skipif(torch.xpu.is_available(), reason="a real one has that name")
def test_it_is_gone_afterwards() -> None:
    with pretended_accelerator():
        pass
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.raises((RuntimeError, AssertionError, NotImplementedError)):
        torch.empty(2, device="xpu:0")
