from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import reference
from tests.generators.networks import arrays, awake, rand, randn
from torchreid_genext.generators._layers import ResidualBlock, UNet


def close(found: Tensor, wanted: list[np.ndarray]) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.array(wanted), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("outputs", (4, 6))
def test_residual_block_equals_its_description(outputs: int) -> None:
    block, x = awake(ResidualBlock(4, outputs)), randn(2, 4, 6, 3)
    state = {f"b.{name}": array for name, array in arrays(block).items()}
    close(block(x), [reference.residual_block(state, "b", image.double().numpy()) for image in x])


def test_residual_block_in_training_uses_the_batch_and_moves_its_statistics() -> None:
    block, x = ResidualBlock(4, 4).train(), 3 + 2 * randn(8, 4, 6, 3)
    block(x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    torch.testing.assert_close(block.bn.running_mean, 0.01 * mean)
    torch.testing.assert_close(block.bn.running_var, 0.99 + 0.01 * variance)
    assert not list(block.bn.parameters())


@pytest.mark.parametrize(
    ("widths", "depth", "code", "context"),
    (((4, 6, 8), 2, 5, 6), ((3, 5), 1, 2, 4), ((4, 3, 5, 2), 3, 1, 2)),
)
def test_unet_equals_its_description(widths: tuple[int, ...], depth: int, code: int, context: int) -> None:
    network = awake(UNet(widths, depth=depth, code=code, context=context))
    images, codes, contexts = randn(2, 3, 16, 8), randn(2, code, seed=1), randn(2, context, seed=2)
    state, inputs = arrays(network), [x.double().numpy() for x in (images, codes, contexts)]
    wanted = [reference.unet(state, *one, levels=len(widths), depth=depth) for one in zip(*inputs)]
    close(network(images, codes, contexts), wanted)


def test_untrained_unet_answers_zero() -> None:
    network = UNet((4, 6, 8), code=5)
    assert not network(randn(2, 3, 8, 4), randn(2, 5)).any()
    assert all(layer.weight.any() for layer in network.modules() if isinstance(layer, nn.Conv2d)
               and layer is not network.head)  # fmt: skip


def test_weights_start_within_glorots_bounds() -> None:
    network = UNet((20, 30))
    bound = (6 / (9 * (20 + 20))) ** 0.5
    assert 0.95 * bound < network.down[0][0].conv1.weight.abs().max() <= bound
    assert not network.down[0][0].conv1.bias.any()


def seen(network: UNet, images: Tensor, code: Tensor) -> dict[str, Tensor]:
    """What comes into each block."""
    inputs: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_pre_hook(lambda _, x, name=name: inputs.__setitem__(name, x[0]))
    network(images, code)
    return inputs


def test_code_enters_at_every_level_as_constant_channels() -> None:
    code = randn(2, 5, seed=1)
    inputs = seen(awake(UNet((4, 6, 8), code=5)), randn(2, 3, 8, 4), code)
    for name, size in (("down.0.0", (8, 4)), ("down.1.0", (4, 2)), ("mid.0", (2, 1))):
        assert torch.equal(inputs[name][:, -5:], code[:, :, None, None].expand(-1, -1, *size))


@pytest.mark.parametrize("level", ("down.0.0", "down.1.0", "mid.0"))
def test_code_of_each_level_changes_the_image(level: str) -> None:
    network, images, code = awake(UNet((4, 6, 8), code=5)), randn(2, 3, 8, 4), randn(2, 5, seed=1)
    before = network(images, code)

    def another(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return torch.cat([inputs[0][:, :-5], -inputs[0][:, -5:]], dim=1)

    network.get_submodule(level).register_forward_pre_hook(another)
    assert (network(images, code) - before).abs().amax((1, 2, 3)).min() > 1e-3


def test_layout_of_memory_is_kept_to_the_last_block_and_changes_nothing() -> None:
    network, images, code = awake(UNet((4, 6, 8), code=5)), randn(2, 3, 16, 8), randn(2, 5, seed=1)
    plain = network(images, code)
    network = network.to(memory_format=torch.channels_last)
    in_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(in_last, code), plain, atol=1e-5, rtol=1e-5)
    inputs = seen(network, in_last, code)
    assert len(inputs) == 10
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in inputs.values())


@pytest.mark.parametrize(
    ("widths", "depth", "message"),
    (
        ((4,), 2, r"two or more positive widths, got \(4,\)"),
        ((), 2, "two or more"),
        ((4, 0), 2, r"positive widths, got \(4, 0\)"),
        ((4, 6), 0, "expected at least one block a level, got 0"),
    ),
)
def test_impossible_networks_are_refused(widths: tuple[int, ...], depth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(widths, depth=depth)


def test_network_without_code_or_context_takes_images_only() -> None:
    network, images = awake(UNet((4, 6), channels=2)), rand(2, 2, 4, 4)
    empty, state = np.zeros(0), arrays(network)
    wanted = [reference.unet(state, image.double().numpy(), empty, empty, 2, 2) for image in images]
    close(network(images), wanted)
