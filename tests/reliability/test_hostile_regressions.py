"""The smallest input of each fault that hostile files have shown."""

import gzip
import io
import json
import shutil
from pathlib import Path

import hostile_names
import nibabel as nib
import numpy as np
import pytest
import torch
from examples import nnunet_plans
from outcomes import Promise

from poscon.commands.prepare import prepare
from poscon.comparison.tables import _LATEX, _markdown
from poscon.errors import LONGEST, PosconError, harmless
from poscon.files import cell_of_path, parse_json, read_csv, safe_name
from poscon.models import Model
from poscon.networks.checkpoints import read_checkpoint
from poscon.networks.nnunet_plans import read_plans
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import network_settings, read_weights, save_weights
from poscon.progress import HarmlessConsole
from poscon.reports.page import Section, Table, render
from poscon.settings import parse_yaml, resolve
from poscon.store.manifest import read_case
from poscon.store.store import Store
from poscon.training.pretrain_settings import PretrainSettings
from poscon.training.run import MetricsFile
from poscon.volumes.case import label_scheme
from poscon.volumes.layouts import read_dataset
from poscon.volumes.phantom import write_phantom
from poscon.volumes.scan import read_scan

HEAD = (
    "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nencoding: raw\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
)


def test_a_message_is_one_short_line_that_commands_no_terminal() -> None:
    text = str(PosconError("a\n\x1b[2J\u202eb\x9b " + "x" * 10**5))
    assert text.startswith("a \\x1b[2J\\u202eb\\x9b x")
    assert len(text) <= LONGEST
    assert harmless("é\tß\n") == "é\tß\n"


def test_a_table_on_the_terminal_commands_nothing() -> None:
    from rich.table import Table

    console = HarmlessConsole(record=True, width=80, file=io.StringIO())
    table = Table("name\x1b[31m", title="t\x9b")
    table.add_row("case\x1b[2J")
    console.print(table, "end\x07\u202e")
    text = console.export_text()
    assert not set("\x1b\x9b\u202e") & set(text)
    assert "case\\x1b[2J" in text


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("=1+1", "%3D1+1"),
        ("-1", "%2D1"),
        ("@a", "%40a"),
        ("a-b", "a-b"),
        ("a\x1b", "a%1B"),
        ("a\x9b", "a%C2%9B"),
        ("\udcf6", "%F6"),
        ("\ud800", "%D800"),
        ("a\tb\n", "a%09b%0A"),
    ],
)
def test_a_name_is_safe_in_a_table(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert safe_name(safe) == safe


def test_a_path_in_a_table_is_no_formula() -> None:
    assert cell_of_path("=a/b.nii") == "./=a/b.nii"
    assert cell_of_path("/a/b.nii") == "/a/b.nii"


def test_tables_of_markdown_and_latex_are_no_commands() -> None:
    (row,) = _markdown(["a"], [["<script>|`x`[x](y)"]])[2:]
    assert row == r"| \<script>\|\`x\`[x\](y) |"
    assert r"\input{x}_&%$#~^".translate(_LATEX) == (
        r"\textbackslash{}input\{x\}\_\&\%\$\#\textasciitilde{}\textasciicircum{}"
    )


def test_a_page_shows_names_as_text() -> None:
    page = render(
        "<script>", "<b>", [Section("<i>", ["<u>"], tables=[Table(("<s>",), [("<q>",)])])]
    )
    for tag in ("<b>", "<i>", "<u>", "<s>", "<q>"):
        assert tag not in page
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<title>&lt;script&gt;" in page


@pytest.mark.parametrize("name", ["=1", "@a", "+a", "-a", "a\x1b", "x" * 300, "\ud800", "\n"])
def test_the_name_of_a_class_is_no_command(name: str) -> None:
    with pytest.raises(PosconError, match="a class has the name"):
        label_scheme([(name, (1,))], where="dataset.json")


def test_deep_json_and_yaml_and_aliases_are_refused() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
    )
    for text, reason in (
        ("[" * 1000, "nested too deeply"),
        (bomb, "aliases"),
        ("&a [*a]", "an alias stands for what it is in"),
        ("a: 2001-99-99", "not valid YAML"),
    ):
        with pytest.raises(PosconError, match=reason):
            parse_yaml(text, where="plan.yaml")
    with pytest.raises(PosconError, match="--set epochs=2001-99-99: not valid YAML"):
        resolve(PretrainSettings, "pretrain", None, "epochs=2001-99-99")
    assert parse_yaml("a: &a {b: 1}\nc: *a", where="") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    "content",
    [
        b"a\n1\n",
        b"step\n1,2\n",
        b"step,a\n1\n",
        b"step\nx\n",
        b"step,a\n1,b\n",
        b"\xff",
        b'step\n"',
    ],
)
def test_a_damaged_table_of_metrics_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(PosconError, match=r"metrics\.csv: damaged"):
        MetricsFile(tmp_path / "metrics.csv").rows()
    with pytest.raises(PosconError, match="damaged"):
        read_csv(tmp_path / "metrics.csv", ("no such column",))


@pytest.mark.parametrize("place", ["/etc/passwd", "../a.raw", "LIST\n/etc/passwd", "a%d.raw 1 2 1"])
def test_a_header_names_no_file_elsewhere(tmp_path: Path, place: str) -> None:
    (tmp_path / "a.nrrd").write_text(f"{HEAD}sizes: 2 2 2\ndata file: {place}\n\n")
    (tmp_path / "a.mhd").write_text(
        f"NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = {place}\n"
    )
    for name in ("a.nrrd", "a.mhd"):
        with pytest.raises(PosconError, match=f"{name}: its voxels are in"):
            read_scan(tmp_path / name)


def test_a_table_of_bids_with_a_long_field_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text(f"participant_id\n{'x' * 200_000}\n")
    scan = tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii"
    scan.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), scan)
    with pytest.raises(PosconError, match=r"participants\.tsv: cannot be read \(field larger"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("image", ["a\0.nii", "..", "/", ".nii", "x" * 5000 + ".nii", "\n"])
def test_a_table_names_what_can_be_a_file(tmp_path: Path, image: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f'image,label\nb.nii,"{image}"\n', newline="")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "b.nii")
    if image.strip():
        with pytest.raises(PosconError, match=r"t\.csv, line 2"):
            read_dataset(table)
    table.write_text(f'image\n"{image}"\n', newline="")
    with pytest.raises(PosconError, match=r"t\.csv(, line|: has no row)"):
        read_dataset(table)


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    head = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mhd").write_text(f"{head}ElementDataFile = {'a' * 400}\n")
    with pytest.raises(PosconError, match=r"a\.mhd: cannot be read"):
        read_scan(tmp_path / "a.mhd")


def test_a_file_beside_a_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text(f"{HEAD}sizes: 2 2 2\ndata file: a.raw\n")
    (tmp_path / "a.raw").write_bytes(bytes(range(8)))
    assert read_scan(tmp_path / "a.nrrd").data.sum() == 28


def test_a_long_line_does_not_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text(f"{HEAD}sizes: 4 4 4{'[' * 100_000}\n\n")
    with pytest.raises(PosconError, match="a line of its header has 100012 bytes"):
        read_scan(tmp_path / "a.nrrd")


def test_voxels_that_no_memory_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = np.zeros((200, 200, 30), np.uint8)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    head = f"{HEAD.replace('raw', 'gzip')}sizes: 200 200 30\n\n".encode()
    (tmp_path / "a.nrrd").write_bytes(head + gzip.compress(volume.tobytes()))
    for name in ("a.nii.gz", "a.nrrd"):
        assert read_scan(tmp_path / name).data.size == volume.size
    monkeypatch.setattr("poscon.volumes.formats.base.usable_memory", lambda: 10**6)
    for name in ("a.nii.gz", "a.nrrd"):
        with pytest.raises(PosconError, match=f"{name}: its voxels need .* GiB of memory"):
            read_scan(tmp_path / name)


@pytest.mark.parametrize("key", ["id", "label_file", "subject"])
def test_a_store_names_nothing_outside_it(tmp_path: Path, store: Path, key: str) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["cases"][0][key] = "\x1b" if key == "subject" else "../../x"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PosconError, match=r"manifest\.json: damaged \(a case, a subject or"):
        Store(tmp_path)


def test_a_deep_manifest_or_case_is_one_line(tmp_path: Path) -> None:
    deep = '{"schema_version":' + "[" * 100_000
    for name in ("manifest.json", "case.json"):
        (tmp_path / name).write_text(deep)
    with pytest.raises(PosconError, match=r"manifest\.json: damaged"):
        Store(tmp_path)
    with pytest.raises(PosconError, match=r"case\.json: damaged"):
        read_case(tmp_path / "case.json")


def test_numbers_and_names_without_end_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "patient001"
    folder.mkdir()
    nib.save(
        nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)),
        folder / "patient001_frame01.nii",
    )
    (folder / "Info.cfg").write_text(f"ED: {'9' * 5000}\nES: 1\n")
    assert read_dataset(tmp_path).cases[0].frame == "ES"
    for recipe in ("x" * 5000, "\0"):
        with pytest.raises(PosconError, match="neither a file nor a known recipe"):
            resolve(PretrainSettings, "pretrain", recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [[1, 1], [[2], 2]]}, "halve it"),
        ({"n_conv_per_stage": [10**9, 2]}, "numbers of layers"),
        ({"n_conv_per_stage": [[2], 2]}, "numbers of layers"),
    ],
)
def test_plans_of_nnunet_ask_for_few_layers(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    plans = nnunet_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= change
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(PosconError, match=message):
        read_plans(tmp_path / "nnUNetPlans.json")


def test_two_cases_of_a_store_have_two_names(tmp_path: Path, store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["cases"][1]["id"] = manifest["cases"][0]["id"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PosconError, match="or two cases have one"):
        Store(tmp_path)


def test_an_unfinished_store_deletes_nothing_outside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_phantom(tmp_path / "scans", subjects=1, seed=7)
    victim = tmp_path / "victim"
    victim.mkdir()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("poscon.commands.prepare.prepare_case", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "scans", tmp_path / "store", spacing=6.0, processes=1)
    state = tmp_path / "store" / "preparing.json"
    content = json.loads(state.read_text())
    content["cases"] |= {"../../victim": [], "..": [], str(victim): []}
    state.write_text(json.dumps(content))
    prepare(tmp_path / "scans", tmp_path / "store", spacing=6.0, processes=1)
    assert victim.is_dir()


def test_weights_that_repeat_few_numbers_are_none(tmp_path: Path) -> None:
    many = torch.zeros(1).expand(10**9)
    torch.save({"down_0.convs.conv_0.conv.weight": many}, tmp_path / "a.pth")
    with pytest.raises(PosconError, match="does not hold weights"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_model_lacks_no_tensor_and_no_network_is_built_in_vain(
    tmp_path: Path, finetuned: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finetuned, run)
    tensors, about = read_weights(run / "model.safetensors")
    module = torch.nn.Module()

    def save(kept: dict[str, torch.Tensor], **changed: object) -> None:
        module.state_dict = lambda: kept  # type: ignore[method-assign,assignment]
        save_weights(run / "model.safetensors", module, {**about, **changed})

    save({name: value for name, value in tensors.items() if not name.startswith("classifier")})
    with pytest.raises(PosconError, match=r"damaged \(classifier\.weight is missing"):
        Model(run, "cpu")
    save(tensors, network={**about["network"], "width": 4096, "levels": 12})
    with pytest.raises(PosconError, match="damaged"):
        Model(run, "cpu")
    save(tensors, network={**about["network"], "width": 10**9})
    with pytest.raises(PosconError, match="does not say what network"):
        Model(run, "cpu")
    save(tensors, size=float("inf"))
    with pytest.raises(PosconError, match="does not say how its scans were prepared"):
        Model(run, "cpu")


def test_a_network_names_no_file_of_plans() -> None:
    about = {"network": {**NetworkSettings().model_dump(), "plans": "/etc/passwd"}}
    with pytest.raises(PosconError, match="does not say what network"):
        network_settings(about, Path("a.safetensors"))


def test_names_lead_nowhere(
    tmp_path: Path, store: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile_names, "NAMES", ("../../sentinel", "=1+1\x1b[31m"))
    promises: list[Promise] = hostile_names.trial(tmp_path, store, pretrained)
    assert not [what for promise in promises for what in promise.broken]
    assert all(promise.tried for promise in promises)
