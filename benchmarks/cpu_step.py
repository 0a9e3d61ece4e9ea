"""What a training step on a CPU costs, with one part of the network written in different ways.

    python benchmarks/cpu_step.py [--size 128] [--width 16] [--batch 16] [--threads 2] [--rounds 9]
                                  [--precision bf16] [--profile] [--without WAY ...]

Every way trains the same U-Net on the same random slices. The ways take turns, round by round, so
that a busy machine slows all of them down alike. Printed is the median over the rounds of the time
of a step, relative to that of the network as it is. The up-sampling alone follows. With
``--profile`` the operations of a step of the network as it is follow, by their share of the time.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from poscon.networks.build import build_network
from poscon.networks.layers import ConvBlock, UpSample2d
from poscon.networks.parts import Decoder, SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.training.inference import channels_last

CLASSES = 4
SHOWN = 16
"""Operations that ``--profile`` prints."""

Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", choices=["32", "bf16"], default="bf16")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--without", nargs="*", default=[], choices=[*WAYS][1:], metavar="WAY")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 1, arguments.size, arguments.size)
    labels = torch.randint(CLASSES, (arguments.batch, arguments.size, arguments.size))
    network = build_network(NetworkSettings(width=arguments.width), CLASSES)
    bfloat16 = arguments.precision == "bf16"
    steps = {
        name: stepper(change(copy.deepcopy(network)), images, labels, bfloat16)
        for name, change in WAYS.items()
        if name not in arguments.without
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if round_ > 1:  # the first two warm up
                spent[name].append(time.perf_counter() - started)
    base = spent[AS_IT_IS]
    print(
        f"{arguments.batch} slices of {arguments.size} x {arguments.size}, width "
        f"{arguments.width}, precision {arguments.precision}, {arguments.threads} thread(s)\n"
    )
    print("| network | time of a step, relative |\n|---|---|")
    for name, times in spent.items():
        ratios = [time_ / other for time_, other in zip(times, base, strict=True)]
        print(f"| {name} | {statistics.median(ratios):.2f} |")
    print_layer(bfloat16, arguments.rounds)
    if arguments.profile:
        print_profile(steps[AS_IT_IS])


def stepper(network: SegmentationNetwork, images: Tensor, labels: Tensor, bfloat16: bool) -> Step:
    """A training step: forward, cross-entropy, backward, AdamW."""
    channels_last(network).train()
    optimiser = torch.optim.AdamW(network.parameters())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


class Transposed(nn.ConvTranspose2d):
    """torch's own transposed convolution with the weights of an up-sampling."""

    def __init__(self, up: UpSample2d) -> None:
        outputs, inputs = len(up.bias), up.weight.shape[1]
        super().__init__(inputs, outputs, 2, stride=2)
        with torch.no_grad():
            weight = up.weight.reshape(outputs, 2, 2, inputs).permute(3, 0, 1, 2)
            self.weight.copy_(weight)
            assert self.bias is not None
            self.bias.copy_(up.bias)


class ShuffledUp(nn.Module):
    """The same up-sampling with torch's own pixel shuffle."""

    def __init__(self, up: UpSample2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(up.weight.detach().clone())
        self.bias = nn.Parameter(up.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.repeat_interleave(4)
        return nn.functional.pixel_shuffle(nn.functional.conv2d(x, self.weight, bias), 2)


class SplitBlock(nn.Module):
    """A decoder's block whose first convolution is two convolutions, summed; nothing is joined."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        first, *rest = block
        assert isinstance(first, nn.Conv2d)
        half = first.in_channels // 2
        self.parts = nn.ModuleList(
            nn.Conv2d(half, first.out_channels, 3, padding=1, bias=False) for _ in range(2)
        )
        self.rest = nn.Sequential(*rest)

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        of_skip, of_up = self.parts
        return self.rest(of_skip(skip) + of_up(up))


class SplitDecoder(nn.Module):
    """The decoder without concatenations."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.ups = decoder.ups
        self.blocks = nn.ModuleList(
            SplitBlock(block) for block in decoder.blocks if isinstance(block, ConvBlock)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        *skips, x = features
        maps = []
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = block(skip, up(x))
            maps.append(x)
        return maps


class NormAndActivation(nn.Module):
    """BatchNorm and LeakyReLU as one module, to be compiled."""

    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(x))


def with_transposed(network: SegmentationNetwork) -> SegmentationNetwork:
    network.decoder.ups = nn.ModuleList(
        Transposed(up) for up in network.decoder.ups if isinstance(up, UpSample2d)
    )
    return network


def with_shuffle(network: SegmentationNetwork) -> SegmentationNetwork:
    network.decoder.ups = nn.ModuleList(
        ShuffledUp(up) for up in network.decoder.ups if isinstance(up, UpSample2d)
    )
    return network


def without_concatenation(network: SegmentationNetwork) -> SegmentationNetwork:
    network.decoder = SplitDecoder(network.decoder)  # type: ignore[assignment]
    return network


def not_in_place(network: SegmentationNetwork) -> SegmentationNetwork:
    for module in network.modules():
        if isinstance(module, nn.LeakyReLU):
            module.inplace = False
    return network


def with_relu(network: SegmentationNetwork) -> SegmentationNetwork:
    for block in network.modules():
        if isinstance(block, ConvBlock):
            for number, module in enumerate(block):
                if isinstance(module, nn.LeakyReLU):
                    block[number] = nn.ReLU(inplace=True)
    return network


def with_mean_pooling(network: SegmentationNetwork) -> SegmentationNetwork:
    network.encoder.pool = nn.AvgPool2d(2)
    return network


def compiled_norms(network: SegmentationNetwork) -> SegmentationNetwork:
    for block in list(network.modules()):
        if isinstance(block, ConvBlock):
            for number in range(0, len(block), 3):
                pair = NormAndActivation(block[number + 1], block[number + 2])
                pair.compile()
                block[number + 1], block[number + 2] = pair, nn.Identity()
    return network


AS_IT_IS = "as it is"
WAYS: dict[str, Callable[[SegmentationNetwork], SegmentationNetwork]] = {
    AS_IT_IS: lambda network: network,
    "transposed convolutions of torch": with_transposed,
    "torch's pixel shuffle": with_shuffle,
    "two convolutions summed for the concatenation": without_concatenation,
    "activations not in place": not_in_place,
    "ReLU for LeakyReLU": with_relu,
    "mean pooling for max pooling": with_mean_pooling,
    "norm and activation compiled": compiled_norms,
}
"""Ways to write the network. With ReLU and with mean pooling it is another network: these two say
what LeakyReLU and max pooling cost."""


def print_layer(bfloat16: bool, rounds: int) -> None:
    """One up-sampling, from 32 channels of 64 x 64 to 16 of 128 x 128, forward and backward."""
    up = UpSample2d(32, 16)
    layers = {"as it is": up, "transposed": Transposed(up), "pixel shuffle": ShuffledUp(up)}
    images = torch.randn(8, 32, 64, 64).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    spent: dict[str, list[float]] = {name: [] for name in layers}
    for round_ in range(rounds + 2):
        for name, layer in layers.items():
            started = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                result = layer(images)
            result.float().square().sum().backward()
            if round_ > 1:
                spent[name].append(time.process_time() - started)
    base = statistics.median(spent["as it is"])
    print("\n| up-sampling alone | processor time, relative |\n|---|---|")
    for name, times in spent.items():
        print(f"| {name} | {statistics.median(times) / base:.2f} |")


def print_profile(step: Step) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    averages = found.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    print("\n| operation | share of a step |\n|---|---|")
    for event in sorted(averages, key=lambda e: -e.self_cpu_time_total)[:SHOWN]:
        print(f"| {event.key} | {event.self_cpu_time_total / total:.1%} |")


if __name__ == "__main__":
    main()
