"""Through Ray: two machines, played by two nodes on this one, of which one dies."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from poscon.comparison.compare import compare
from poscon.errors import PosconError

PLAN: dict[str, Any] = {
    "data": {"phantom": {"subjects": 6, "seed": 3}, "prepare": {"spacing": 6.0}},
    "pretraining": ["random", "pcl"],
    "labelled": [1, 2],
    "folds": 2,
    "size": 32,
    "network": {"width": 4, "levels": 2},
    "pretrain": {"epochs": 2, "batch": 16},
    "finetune": {"iterations": 150, "batch": 4, "checkpoint_every": 10},
}


def plan_file(folder: Path) -> str:
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return str(folder / "plan.yaml")


@pytest.mark.slow
def test_a_lost_node_loses_nothing_and_nothing_is_computed_twice(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (poscon[cluster])")
    from ray.cluster_utils import Cluster

    plain, out = tmp_path / "plain", tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as Ray gives a task of one core
        compare(plan_file(tmp_path), plain, processes=2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    caught: list[BaseException] = []

    def work() -> None:
        try:
            compare(plan_file(tmp_path), out, engine="ray", address=cluster.address)
        except BaseException as error:
            caught.append(error)

    try:
        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 300
        # in the middle: something is finished, and both nodes are in the middle of a fine-tuning
        while time.monotonic() < deadline and not caught:
            runs = list((out / "runs").glob("finetune-*"))
            at_work = [
                run
                for run in runs
                if (run / "checkpoints" / "last.ckpt").is_file()
                and not (run / "model.safetensors").is_file()
            ]
            if len(at_work) == 2 and any((run / "results.csv").is_file() for run in runs):
                break
            time.sleep(0.02)
        assert not caught
        assert len(at_work) == 2
        cluster.remove_node(nodes[1], allow_graceful=False)
        thread.join(timeout=400)
        assert not thread.is_alive()
        assert not caught
    finally:
        cluster.shutdown()
    # what was found is the same to the last digit
    assert (out / "results.csv").read_text() == (plain / "results.csv").read_text()
    # every chunk of every training was finished once: none was lost, none done again
    logs = sorted((out / "logs").glob("*.log"))
    assert len(logs) == 2 + 8
    for log in logs:
        steps = [int(n) for n in re.findall(r"^\S.*: step (\d+) ", log.read_text(), re.M)]
        assert steps == sorted(set(steps)), log.name
        if log.name.startswith("finetune"):
            assert steps == list(range(10, 151, 10)), log.name


def test_no_cluster_there(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (poscon[cluster])")
    with pytest.raises(PosconError, match=r"--address 127\.0\.0\.1:1: no Ray cluster there"):
        compare(plan_file(tmp_path), tmp_path / "out", engine="ray", address="127.0.0.1:1")
