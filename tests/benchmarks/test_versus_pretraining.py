import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from poscon.pretext.pcl import positional_contrastive_loss
from poscon.store.store import Store
from poscon.training.data import SliceReader
from poscon.views import ViewSettings

pytest.importorskip("batchgenerators", reason="pip install -e '.[benchmarks]'")
pytest.importorskip("torchio", reason="pip install -e '.[benchmarks]'")

import versus_pretraining
from versus import published, with_monai, with_torchio
from versus.loading import LoadedBatches
from versus.slices import noise_store

SIZE = 32
TINY = ["--batch", "4", "--width", "4", "--volumes", "2", "--depth", "4"]
TINY += ["--threads", "1", "--rounds", "1", "--seconds", "0"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SliceReader:
    store: Store = noise_store(tmp_path_factory.mktemp("noise"), SIZE, volumes=2, depth=4)
    return SliceReader(store, store.cases, SIZE)


@pytest.fixture
def no_processes_left() -> Iterator[None]:
    before = active_children()
    yield
    assert active_children() == before


@pytest.mark.usefixtures("no_processes_left")
def test_every_pipeline_is_in_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    versus_pretraining.main(["--sizes", "32", "48", *TINY])
    printed = capsys.readouterr().out
    for size in (32, 48):
        assert f"## {size} x {size}" in printed
    rows = [line.split("|")[1:3] for line in printed.splitlines() if line.startswith("| ")]
    for name in ("published", "MONAI", "TorchIO"):
        workers = [number.strip() for row, number in rows if row.strip() == name]
        assert len(workers) == 5  # two sizes with 0 and 1 workers, and the ratios
        assert sum("(best)" in number for number in workers) == 2


@pytest.mark.usefixtures("no_processes_left")
def test_some_pipelines_with_some_workers(capsys: pytest.CaptureFixture[str]) -> None:
    versus_pretraining.main(
        ["--sizes", "32", "--against", "published", "--workers", "0", "2", *TINY]
    )
    printed, told = capsys.readouterr()
    for text in ("| poscon | 0 ", "| published | 0 ", "| published | 2 "):
        assert text in printed
    assert "MONAI |" not in printed
    assert "TorchIO |" not in printed
    assert "round 1 of 1: ('published', 2): " in told


@pytest.mark.slow
def test_variants_of_the_step_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    versus_pretraining.main(["--sizes", "32", "48", "--variants", *TINY])
    printed = capsys.readouterr().out
    assert "not possible" not in printed  # to compile for a second size, say
    for variant in (
        "as it is",
        "channels first",
        "two passes",
        "bfloat16",
        "torch.compile",
        "given back",
    ):
        assert variant in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "40"], "multiples of 16"),
        (["--sizes", "32", "--batch", "200"], "no more slices than there are"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_impossible_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        versus_pretraining.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("library", [published, with_monai, with_torchio])
def test_a_library_makes_two_views_of_every_slice(library: object, reader: SliceReader) -> None:
    dataset = library.SliceViews(reader, SIZE, ViewSettings())  # type: ignore[attr-defined]
    assert len(dataset) == len(reader)
    for index in range(len(reader)):
        views, position = dataset[index]
        assert views.shape == (2, SIZE, SIZE)
        assert views.dtype == torch.float32
        assert torch.isfinite(views).all()
        assert position == pytest.approx(reader.positions[index])
        assert (views[0] - views[1]).abs().mean() > 0.1
        assert not torch.equal(dataset[index][0], views)


@pytest.mark.parametrize("library", [with_monai, with_torchio])
def test_a_library_that_changes_nothing_gives_the_slice(
    library: object, reader: SliceReader
) -> None:
    """The views are of the slice that they should be; MONAI's lie off by less than a pixel."""
    nothing = ViewSettings(
        rotation=0, scale=(1, 1), shift=0, elastic=0, brightness=0, contrast=0, gamma=0, noise=0
    )
    dataset = library.SliceViews(reader, SIZE, nothing)  # type: ignore[attr-defined]
    for index in (0, len(reader) - 1):
        image = reader.centred(np.array([index])).images[0].float()
        views, _ = dataset[index]
        smooth = [avg_pool2d(x, 4).flatten() for x in (*views[:, None], image)]
        correlation = np.corrcoef(torch.stack(smooth))
        assert correlation.min() > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_broadcast_loss_is_the_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(12, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    positions = torch.rand(12, generator=generator)
    positions[0] = 5.0  # an anchor without positives
    losses = [
        loss(embeddings, positions, threshold=0.1, temperature=0.1)
        for loss in (published.broadcast_loss, positional_contrastive_loss)
    ]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, embeddings)[0] for loss in losses]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("no_processes_left")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_of_loaded_batches_has_every_slice_once(workers: int, reader: SliceReader) -> None:
    dataset = [(torch.full((2, 4, 4), i), float(i)) for i in range(len(reader))]
    batches = LoadedBatches(dataset, 4, workers, init_worker=None, pin=False)
    with closing(batches), batches.running():
        for _ in range(3):
            positions = torch.cat([next(batches).positions for _ in range(2)])
            assert sorted(positions.tolist()) == list(range(8))


@pytest.mark.usefixtures("no_processes_left")
def test_workers_stand_still_while_they_are_not_measured() -> None:
    dataset = [(torch.zeros(2, 4, 4), 0.0)] * 4
    batches = LoadedBatches(dataset, 2, 1, init_worker=None, pin=False)

    def state() -> str:
        (worker,) = batches.workers
        status = Path(f"/proc/{worker.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0]

    def stops() -> bool:
        return any(state() == "T" or time.sleep(0.01) for _ in range(1000))

    with closing(batches):
        assert stops()
        with batches.running():
            next(batches)
            assert state() != "T"
        assert stops()
