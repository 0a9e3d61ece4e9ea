"""Source of this package in one file that does not need it."""

import ast
from pathlib import Path

import numpy as np

from poscon.exports.source import one_file
from poscon.store import intensity
from poscon.volumes import slabs


def test_names_are_taken_with_what_is_above_them_and_the_rest_is_not() -> None:
    source = one_file(
        "Summary.",
        [(intensity, {"Intensity", "AIR_HU"})],
        "import os\nfrom poscon.errors import PosconError\n\nX = os.sep\n",
    )
    tree = ast.parse(source)
    assert ast.get_docstring(tree) == "Summary."
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes] == ["Intensity"]
    assert [ast.unparse(d) for d in classes[0].decorator_list] == ["dataclass(frozen=True)"]
    assert "AIR_HU = -1000.0" in source
    assert "def normalise" not in source
    assert "poscon." not in source
    assert source.index("import os") < source.index("class Intensity")


def test_the_source_computes_the_same(tmp_path: Path) -> None:
    names = {node.name for node in ast.parse(Path(intensity.__file__).read_text()).body
             if isinstance(node, ast.FunctionDef | ast.ClassDef)} - {"check_voxels"}  # fmt: skip
    constants = {name for name in vars(intensity) if name.isupper()}
    space: dict[str, object] = {"__name__": "builtins"}
    exec(one_file("Summary.", [(slabs, None), (intensity, names | constants)]), space)
    volume = np.random.default_rng(0).normal(0, 300, (4, 8, 8))
    for modality in ("CT", "MR"):
        found, _ = space["normalise"](volume, modality)  # type: ignore[operator]
        np.testing.assert_array_equal(found, intensity.normalise(volume, modality)[0])
