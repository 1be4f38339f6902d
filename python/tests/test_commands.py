"""Commands as functions give what the program prints."""

import errno
import inspect as introspection
import json
import pathlib
import pickle
import re
import threading
import warnings
from pathlib import Path

import numpy
import pytest

import ckpt_tools
from conftest import COLLAPSED, FIXTURES, HEALTHY

RUN = FIXTURES / "collapse-run"


@pytest.fixture(autouse=True)
def warnings_are_looked_at():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ckpt_tools.CkptWarning)
        yield


def test_an_inspection_is_what_the_program_prints(program):
    for path in [HEALTHY, COLLAPSED, FIXTURES / "formats" / "truncated.pt", FIXTURES / "formats" / "training.pt"]:
        printed = json.loads(program("inspect", "--format", "json", "--sha256", path).stdout)
        inspection = ckpt_tools.inspect(path, sha256=True)
        assert inspection.to_dict() == printed
        assert inspection.verdict == printed["verdict"] and inspection.reasons == printed["reasons"]
        assert [t.name for t in inspection.tensors] == [t["name"] for t in printed["tensors"]]
        assert inspection.metadata == printed["metadata"]
    assert ckpt_tools.inspect(FIXTURES / "formats" / "truncated.pt").damaged


def test_findings_are_of_the_whole_and_of_tensors():
    collapsed = ckpt_tools.inspect(COLLAPSED)
    assert collapsed.verdict == "weak"
    found = [f for f in collapsed.findings if f.verdict == "weak"]
    assert found and all("mlp" in f.tensor and f.reason and len(f.finding) for f in found)
    assert not [f for f in ckpt_tools.inspect(HEALTHY).findings if f.verdict == "weak"]


def test_a_record_does_not_change_and_is_compared_by_its_fields():
    one, two = ckpt_tools.inspect(HEALTHY), ckpt_tools.inspect(HEALTHY)
    assert one == two and hash(one) == hash(two) and one != ckpt_tools.inspect(COLLAPSED)
    with pytest.raises(AttributeError):
        one.verdict = "dead"
    with pytest.raises(AttributeError, match="it has schema, path"):
        one.nothing
    copy = one.to_dict()
    copy["tensors"].clear()
    assert one.tensors and one["format"] == one.format == "pytorch-zip" and "path" in one
    assert pickle.loads(pickle.dumps(one)) == one and type(pickle.loads(pickle.dumps(one))) is ckpt_tools.Inspection
    assert one.tensors[0].stats.std == one.to_dict()["tensors"][0]["stats"]["std"]
    assert {"verdict", "tensors", "file_bytes"} <= set(dir(one)) and one.get("no", 3) == 3


def test_an_inspection_shows_itself():
    text = repr(ckpt_tools.inspect(COLLAPSED))
    assert "weak" in text.splitlines()[0] and len(text.splitlines()) > 1
    page = ckpt_tools.inspect(COLLAPSED)._repr_html_()
    assert "<table>" in page and "mlp" in page
    state = {"<script>": __import__("numpy").ones((4, 4), "float32")}
    assert "<script>" not in ckpt_tools.measure(state, name="<b>")._repr_html_()


def test_tables_have_a_row_for_each_tensor(program):
    import pandas
    import polars
    import pyarrow

    inspection = ckpt_tools.inspect(COLLAPSED)
    heading, *lines = program("inspect", "--format", "csv", COLLAPSED).stdout.splitlines()
    columns = inspection.to_columns()
    assert heading.split(",") == list(columns)
    tables = {
        "arrow": inspection.to_arrow().to_pydict(),
        "pandas": {n: c.tolist() for n, c in inspection.to_pandas().items()},
        "polars": inspection.to_polars().to_dict(as_series=False),
    }
    assert isinstance(inspection.to_arrow(), pyarrow.Table)
    # The same columns as those of tables of many.
    many = ckpt_tools.table([HEALTHY], which="tensors").drop_columns(["record"])
    assert pyarrow.concat_tables([inspection.to_arrow(), many]).num_rows == 2 * many.num_rows
    assert isinstance(inspection.to_pandas(), pandas.DataFrame)
    assert isinstance(inspection.to_polars(), polars.DataFrame)
    tensors = inspection.tensors
    for name, table in tables.items():
        assert list(table) == list(columns), name
        assert table["tensor"] == [t.name for t in tensors], name
        assert table["shape"] == ["x".join(map(str, t.shape)) for t in tensors], name
        assert table["verdict"] == [t.verdict for t in tensors], name
        stds = [(t.stats or {}).get("std") for t in tensors]
        assert [None if s is None or s != s else s for s in table["std"]] == stds, name
    assert len(lines) == len(tensors)
    # Without measurements the types are the same.
    header = ckpt_tools.inspect(COLLAPSED, stats=False)
    assert header.verdict is None and header.to_arrow().schema == inspection.to_arrow().schema
    assert header.to_polars().schema == inspection.to_polars().schema


def test_many_checkpoints_are_inspected_at_once():
    records = ckpt_tools.inspect_all([RUN, HEALTHY, "nowhere.pt"])
    assert [type(r) for r in records][-1] is ckpt_tools.Record and records[-1].path == "nowhere.pt"
    assert "nowhere.pt" in records[-1].error
    found = [r for r in records if isinstance(r, ckpt_tools.Inspection)]
    assert len(found) == len(list(RUN.glob("*.pt"))) + 1
    assert [r.step for r in found[:-1]] == sorted(r.step for r in found[:-1])
    with pytest.raises(ckpt_tools.UsageError, match="inspect_all"):
        ckpt_tools.inspect(RUN)
    assert len(ckpt_tools.inspect_all(HEALTHY)) == 1


def test_a_gate_that_refuses_is_an_answer(program):
    passed, refused = ckpt_tools.gate(HEALTHY), ckpt_tools.gate([HEALTHY, COLLAPSED])
    assert passed and passed.passed and not refused
    assert refused.to_dict() == json.loads(program("gate", "--format", "json", HEALTHY, COLLAPSED).stdout)
    assert "refused" in repr(refused) and "passed" in repr(passed)
    unreadable = ckpt_tools.gate("nowhere.pt")
    assert not unreadable and unreadable.status == "unreadable"
    with open("lenient.toml", "w") as file:
        file.write('[gate]\nallow = "weak"\n')
    assert ckpt_tools.gate(COLLAPSED, policy="lenient.toml")
    assert ckpt_tools.gate(COLLAPSED, ignore=["*mlp*", "*attn*", "*"]) is not None
    assert not ckpt_tools.gate(COLLAPSED, baseline=HEALTHY)
    ckpt_tools.gate(COLLAPSED, also=["junit=gate.xml"])
    assert "<testsuite" in Path("gate.xml").read_text()
    with pytest.raises(ckpt_tools.WriteError, match="gate.xml"):
        ckpt_tools.gate(COLLAPSED, also=["junit=gate.xml"])
    with pytest.raises(ckpt_tools.UsageError, match="policy"):
        ckpt_tools.gate(HEALTHY, policy="no-policy.toml")


def test_a_diff_tells_what_differs(program):
    one, two = HEALTHY, FIXTURES / "healthy-run" / "step-01000.pt"
    diff = ckpt_tools.diff(one, two)
    assert diff and diff.differs
    assert diff.to_dict() == json.loads(program("diff", "--format", "json", one, two).stdout)
    assert any(t.status == "changed" for t in diff.tensors)
    assert not ckpt_tools.diff(one, one) and pickle.loads(pickle.dumps(diff)).differs
    with pytest.raises(ckpt_tools.UnreadableError):
        ckpt_tools.diff(one, "nowhere.pt")
    cut = bytes(one.read_bytes()[: one.stat().st_size * 6 // 10])
    pathlib.Path("cut.pt").write_bytes(cut)
    unequal = ckpt_tools.diff(two, "cut.pt", all=True)
    assert unequal and unequal.differs and {"unreadable", "changed"} <= {t.status for t in unequal.tensors}
    # What could not be compared is not the same.
    assert ckpt_tools.diff(one, "cut.pt")
    with pytest.raises(ckpt_tools.UsageError, match="matches"):
        ckpt_tools.diff(one, two, filter="nothing*")


def test_a_scan_tells_what_would_be_executed(program):
    evil = FIXTURES / "formats" / "evil.pt"
    scan = ckpt_tools.scan(evil)
    assert not scan and not scan.clean and scan.findings[0].severity == "dangerous"
    assert scan.findings[0].path == str(evil)
    assert scan.to_dict() == json.loads(program("scan", "--format", "json", evil).stdout)
    assert ckpt_tools.scan(HEALTHY).clean


def test_a_conversion_is_verified_and_written_whole():
    done = ckpt_tools.convert(HEALTHY, "copy.safetensors", to="safetensors")
    assert done.output == "copy.safetensors" and "copy.safetensors" in done.text
    assert not ckpt_tools.diff(HEALTHY, "copy.safetensors", values_only=True, group="weights").tensors
    with pytest.raises(ckpt_tools.WriteError, match="--force"):
        ckpt_tools.convert(HEALTHY, "copy.safetensors", to="safetensors")
    ckpt_tools.convert(HEALTHY, "copy.safetensors", to="safetensors", force=True, verify=False)
    with pytest.raises(ckpt_tools.RefusedError, match="strict"):
        ckpt_tools.convert(COLLAPSED, "dead.pt", to="pt", strict=True)
    with pytest.raises(ckpt_tools.UsageError, match="invalid value 'onnx'"):
        ckpt_tools.convert(HEALTHY, "copy.onnx", to="onnx")
    with pytest.raises(FileNotFoundError):
        ckpt_tools.convert("nowhere.pt", "copy.pt", to="pt")


def test_an_edit_says_what_it_changed(program):
    done = ckpt_tools.edit(HEALTHY, "small.pt", strip_optimizer=True)
    assert done.output == "small.pt" and done.verified.agrees and done.changes[0].edit == "strip-optimizer"
    line = ["edit", str(HEALTHY), "--strip-optimizer", "--format", "json", "--force", "-o", "small.pt"]
    assert done.to_dict() == json.loads(program(*line).stdout)
    assert not any("optimizer" in name for name in ckpt_tools.load("small.pt"))
    run = ckpt_tools.edit(HEALTHY.parent, "mean.safetensors", average=True, last=2, weights=[1, 3])
    assert run.changes[0].weights == [0.25, 0.75]
    mean, (first, last) = ckpt_tools.load("mean.safetensors"), run.sources
    a, b, name = ckpt_tools.load(first), ckpt_tools.load(last), "embed_tokens.weight"
    of = lambda tensors: next(value for key, value in tensors.items() if key.endswith(name))  # noqa: E731
    numpy.testing.assert_allclose(of(mean), 0.25 * of(a) + 0.75 * of(b), atol=1e-7)
    with pytest.raises(ckpt_tools.UsageError, match="nothing-"):
        ckpt_tools.edit(HEALTHY, "less.pt", drop="nothing-*")


def test_warnings_are_pythons():
    with pytest.warns(ckpt_tools.CkptWarning, match="is weak"):
        ckpt_tools.convert(COLLAPSED, "dead.safetensors", to="safetensors")
    with pytest.warns(ckpt_tools.CkptWarning, match="matches no tensor"):
        ckpt_tools.gate(HEALTHY, ignore=["nothing-*"])


def test_a_report_is_a_page():
    assert ckpt_tools.report(RUN, "run.html", title="Größe") == "run.html"
    assert "Größe" in Path("run.html").read_text(encoding="utf-8")
    assert ckpt_tools.report(RUN, format="md").startswith("#")
    with pytest.raises(ckpt_tools.WriteError):
        ckpt_tools.report(RUN, "run.html")
    with pytest.warns(ckpt_tools.CkptWarning, match="nowhere"):
        ckpt_tools.report([RUN, "nowhere.pt"], "run.html", force=True)


def test_any_command_runs():
    ran = ckpt_tools.run("verify", HEALTHY, HEALTHY)
    assert ran.exit_code == 0 and ran.check() is ran and ran.output
    refused = ckpt_tools.run("verify", HEALTHY, COLLAPSED)
    assert refused.exit_code == 1
    with pytest.raises(ckpt_tools.RefusedError):
        refused.check()
    assert ckpt_tools.run("--version").output.strip() == f"ckpt {ckpt_tools.__version__}"
    with pytest.raises(ckpt_tools.UsageError, match="unrecognized subcommand"):
        ckpt_tools.run("no-such-command").check()
    with pytest.raises(ckpt_tools.UsageError, match="terminal"):
        ckpt_tools.run("browse", HEALTHY).check()
    assert ckpt_tools.run("inspect", "--color", "always", HEALTHY).output.count("\x1b") == 0


@pytest.mark.parametrize("command", ["inspect", "gate", "diff", "scan", "convert", "edit", "report"])
def test_every_option_of_a_command_is_a_parameter(command):
    help = ckpt_tools.run(command, "--help").output
    options = set(re.findall(r"^ +(?:-\w, )?--([a-z0-9-]+)", help, re.M))
    parameters = set(introspection.signature(getattr(ckpt_tools, command)).parameters)
    elsewhere = {
        # How a result is printed, which is an object here.
        "help", "color", "format", "all", "quiet", "sort", "tensor", "explain",
        # Files beside the answer: what is returned is written by who wants it.
        "output", "force", "rows", "resume",
        # Very many checkpoints, which the program shares among jobs.
        "from-list", "shard",
    }  # fmt: skip
    negated = {"no-stats": "stats", "no-cache": "cache", "no-checksum": "checksum", "no-verify": "verify"}
    for option in options - elsewhere:
        assert negated.get(option, option).replace("-", "_") in parameters, option


def test_calls_of_many_threads_do_not_mix():
    paths = [HEALTHY, COLLAPSED, *sorted(RUN.glob("*.pt"))]
    alone = [ckpt_tools.inspect(path, cache=False).to_dict() for path in paths]
    wrong = []

    def inspect(path, wanted):
        for _ in range(3):
            if ckpt_tools.inspect(path, cache=False).to_dict() != wanted:
                wrong.append(path)

    threads = [threading.Thread(target=inspect, args=pair) for pair in zip(paths, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_path_that_looks_like_an_option_is_a_path():
    import shutil

    shutil.copy(HEALTHY, "--all")
    assert ckpt_tools.inspect("--all").path == "--all"
    assert ckpt_tools.gate("--all")


def test_values_that_begin_with_a_dash_are_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ckpt_tools.convert(HEALTHY, "-m.safetensors", to="safetensors").output == "-m.safetensors"
    assert (tmp_path / "-m.safetensors").is_file()
    assert ckpt_tools.inspect(HEALTHY, filter="-*").tensors == []


def test_errors_of_files_are_those_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        ckpt_tools.inspect(tmp_path / "none.pt")
    assert raised.value.errno == errno.ENOENT
    assert raised.value.filename == str(tmp_path / "none.pt")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.errno, again.filename, str(again)) == (errno.ENOENT, raised.value.filename, str(raised.value))
    with pytest.raises(ckpt_tools.UsageError, match="empty path"):
        ckpt_tools.inspect("")


def test_one_text_is_one_value(tmp_path):
    (tmp_path / "evil.pt").write_bytes((FIXTURES / "formats/evil.pt").read_bytes())
    (tmp_path / "healthy.pt").write_bytes(HEALTHY.read_bytes())
    (tmp_path / "m.onnx").write_bytes(b"")
    assert not ckpt_tools.scan(tmp_path, skip="*.onnx").clean
    assert ckpt_tools.scan(tmp_path, skip=["*.onnx", "evil.pt"]).clean
    assert ckpt_tools.gate(HEALTHY, ignore="layers.0.*").to_dict() == ckpt_tools.gate(HEALTHY, ignore=["layers.0.*"]).to_dict()


def test_a_run_is_explained_without_what_cannot_be_read(tmp_path):
    for file in sorted(COLLAPSED.parent.glob("*.pt")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = ckpt_tools.explain(ckpt_tools.inspect_all(COLLAPSED.parent))
    (tmp_path / "step-09999.pt").write_bytes(b"no checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = ckpt_tools.explain(ckpt_tools.inspect_all(tmp_path))
    assert [cause.cause for cause in told] == [cause.cause for cause in whole] != []
