from pathlib import Path

import numpy as np
from matplotlib.image import imread

from poscon.commands.predict import predict
from poscon.pictures.predictions import draw_predictions
from poscon.store.store import Store


def test_draws_image_reference_and_predictions(
    finetuned: Path, scans: Path, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("phantom_003\nphantom_004\n")
    predict(finetuned, scans, tmp_path / "out", cases=tmp_path / "two.txt")
    draw_predictions(
        tmp_path / "picture.png",
        Store(store),
        ["phantom_003", "phantom_004"],
        {"model": tmp_path / "out"},
        title="a title",
    )
    picture = imread(tmp_path / "picture.png")
    coloured = np.ptp(picture[..., :3], axis=2) > 0.2
    third = picture.shape[1] // 3
    assert not coloured[:, :third].any(where=np.arange(len(picture))[:, None] < len(picture) * 0.85)
    assert coloured[:, third : 2 * third].any()  # the reference has overlays, the image none
    assert not list(tmp_path.glob(".picture*"))
