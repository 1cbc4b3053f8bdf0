"""Whatever is typed or read: one line and the right exit code, never a traceback, nothing outside of the results folder.

Flags are taken from the command line itself, so that a new command is tried as soon as it is there. What a valid request would
start is replaced: no run is trained.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import records
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_cli import lab
from test_requests import PLUGIN
from test_store import SPEC

from lab import analysis, conformance, frontier, ledger, overhead, plugins, speed, study, training
from lab.checkpoint import DurableIO
from lab.cli import app
from lab.doctor import examine
from lab.engines import Pool, local
from lab.errors import UsageError
from lab.run import Run, Store
from lab.verification import verify

CODES = {0, 1, 2, 3, 75}
FEW, MANY = 1, 150
"""Examples for each flag by default, and of the slow test."""
STRANGE = [
    "", " ", "\n", "a\r\nb", "\ud800", "é", "名前", "\x1b[31mred", "\x07\x85", "\u202e", "../x", "x/../../y", "/", ".", "..", "-",
    "--", "-x", "--help-me", "-1", "0", "007", "+5", "1_000", "0x10", "nan", "-inf", "1e400", "9" * 30, "9" * 5000, "a" * 5000, "con",  # noqa: E501
    "$(touch x)", "; touch x #", "`touch x`", "' OR 1=1 --", "<script>", "%s%n", "{0}", "{", "[/]", "recall:", ":", "a:b=c", "=", ",",  # noqa: E501
    "recall:pairs=99999999999999", "transformer:heads=0", "transformer:hidden=-1", "transformer:heads=-3,hidden=0", "None", "~/x", "*",  # noqa: E501
    "text:path=../..", "hybrid:pattern=", "hybrid:pattern=lstm[", "digits:order=1", "1.2.3", "١",  # noqa: RUF001
]  # fmt: skip
ANY = st.one_of(st.sampled_from(STRANGE), st.text(max_size=30), st.integers().map(str), st.floats().map(str))
SMALL = {"--architectures": "linear_rnn", "--architecture": "linear_rnn", "--tasks": "recall", "--task": "recall", "--budget": "1e8",  # noqa: E501
         "--dim": "8", "--depth": "1", "--seeds": "1", "--workers": "1", "--lengths": "8", "--decode": "8", "TASKS": "recall",
         "NAME": "transformer", "NAMES": "linear_rnn", "--budgets": "1e8:1e9:2", "--sizes": "4",
         "study NAME": "default", "new-architecture NAME": "mine"}  # fmt: skip


def commands(within=app, path=()):
    """Every command with its arguments, of cyclopts' own making."""
    for name in within:
        if not name.startswith("-"):
            yield from commands(within[name], (*path, name))
    if path and within.default_command is not None:
        yield path, [each for each in within.assemble_argument_collection() if each.names[0] != "*"]


FLAGS = [(path, argument.names[0]) for path, arguments in commands() for argument in arguments]


def request(path, flag, value):
    """A command whose other arguments are right and small."""
    argv = list(path)
    for argument in dict(commands())[path]:
        name = argument.names[0]
        chosen = value if name == flag else SMALL.get(f"{path[-1]} {name}", SMALL.get(name, "1" if argument.required else None))
        if chosen is None or (name != flag and argument.hint is bool):
            continue
        argv.append(chosen if name.isupper() else f"{name}={chosen}")
    return argv


class Started(Exception):
    """A request was valid; here its work would begin."""


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A working folder far below the top of a tree that holds home and cache too; nothing is begun in it."""

    def begin(*_, **__):
        raise Started

    for module, names in {
        training: ("gate", "_fit"),
        conformance: ("check",),
        speed: ("rates",),
        overhead: ("bare", "ours"),
        frontier: ("bare",),
        ledger: ("torch_counts",),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, begin)
    monkeypatch.setattr(local.Local, "_start", lambda _: None)
    monkeypatch.setattr(Pool, "carry_out", begin)
    monkeypatch.setattr(Pool, "close", lambda *_, **__: None)
    folder = tmp_path / "a/b/c/d/e/f"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("HOME", "LAB_CACHE", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    return tmp_path


def tree(folder):
    return sorted(os.path.join(top, name) for top, below, files in os.walk(folder) for name in (*below, *files))


def sound(argv, sandbox, capsys):
    """Run a request and see that it ended as it should."""
    before, home = tree(sandbox), os.getcwd()
    code, out, err = lab(*argv, capsys=capsys)
    assert code in CODES, argv
    begun = "Started" in err or "Started" in out
    assert begun or "a fault of the lab" not in err, (argv, err)
    assert "Traceback" not in out + err, (argv, err)
    assert all(each.isprintable() or each in "\n\t" for each in out + err), (argv, err)
    if code in (2, 3):
        assert err.startswith("lab: "), (argv, err)
        assert err.count("\n") == 1, (argv, err)
    new = [path for path in tree(sandbox) if path not in before]
    allowed = [value for each in argv for flag, _, value in [each.partition("=")] if flag in ("--results", "--out")]
    roots = [os.path.realpath(root) for root in (*allowed, "results")] if begun or code in (0, 1) else []
    if argv[0] == "new-architecture" and code == 0:
        roots.append(os.path.realpath(f"{argv[1]}.py"))
    assert not [path for path in new if not any(os.path.realpath(path).startswith(root) for root in roots)], (argv, new)
    assert os.getcwd() == home


def held(path, sandbox):
    """Whether a path stays in the sandbox; so many steps up, or the root, would leave it for the machine that tests run on."""
    return (sandbox in Path(os.path.abspath(path)).parents) if "\0" not in path else True


PATHS = settings(deadline=None, database=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("path", "flag"), FLAGS, ids=[" ".join((*path, flag)) for path, flag in FLAGS])
def test_any_text_at_any_flag(sandbox, capsys, path, flag):
    try_texts(sandbox, capsys, path, flag, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("path", "flag"), FLAGS, ids=[" ".join((*path, flag)) for path, flag in FLAGS])
def test_much_text_at_any_flag(sandbox, capsys, path, flag):
    try_texts(sandbox, capsys, path, flag, MANY)


def try_texts(sandbox, capsys, path, flag, examples):
    @settings(PATHS, max_examples=examples, derandomize=examples == FEW)
    @given(ANY)
    def check(text):
        if held(text, sandbox):
            sound(request(path, flag, text), sandbox, capsys)

    check()


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=ascii(text[:20]), marks=[pytest.mark.slow] if i % 4 else []) for i, text in enumerate(STRANGE)]
)
def test_strange_texts_as_names_numbers_and_paths(sandbox, capsys, text):
    for path, flag in ((("run",), "--architecture"), (("run",), "--task"), (("run",), "--budget"), (("compare",), "--study"),
                       (("verify",), "RUNS"), (("list",), "--plugin"), (("show",), "NAME"), (("doctor",), "--results")):  # fmt: skip  # noqa: E501
        if held(text, sandbox):
            sound(request(path, flag, text), sandbox, capsys)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
BYTES = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"[" * 100_000, b"{" * 99, b"9" * 5000, b"\xff\xfe", b"a = " + b"9" * 5000])
)


def every_key(value, at=()):
    """The places of a record."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key)
            yield from every_key(inner, (*at, key))


def change(record, at, value):
    made = json.loads(json.dumps(record))
    inner = made
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return made


WHOLE = records.as_json(records.run(records.spec(), 0.9))


@pytest.mark.filterwarnings("ignore:.*left out|.*counts as missing")
@settings(PATHS, max_examples=60)
@given(at=st.sampled_from(list(every_key(WHOLE))), value=VALUES)
def test_any_value_anywhere_in_a_record(tmp_path_factory, at, value):
    read_all(tmp_path_factory, json.dumps(change(WHOLE, at, value)).encode(), b"")


@pytest.mark.filterwarnings("ignore:.*left out|.*counts as missing")
@settings(PATHS, max_examples=25)
@given(record=BYTES, curve=BYTES)
def test_any_bytes_as_a_record_and_a_curve(tmp_path_factory, record, curve):
    read_all(tmp_path_factory, record, curve)


@settings(PATHS, max_examples=40)
@given(row=st.dictionaries(st.sampled_from(["step", "tokens", "flops", "seconds", "loss"]), VALUES, min_size=4))
def test_any_row_in_a_curve(tmp_path_factory, row):
    read_all(tmp_path_factory, json.dumps(WHOLE).encode(), json.dumps(row).encode() + b"\n")


def read_all(tmp_path_factory, record, curve):
    """Whatever reads a store reads this one."""
    root = tmp_path_factory.mktemp("store")
    made = records.publish(root, records.run(records.spec(seed=1), 0.5))
    folder = root / "runs" / WHOLE["id"]
    folder.mkdir()
    (folder / "run.json").write_bytes(record)
    (folder / "spec.json").write_text(json.dumps(WHOLE["spec"]))
    (folder / "curve.jsonl").write_bytes(curve)
    frame, points = analysis.results(root), analysis.curves(root)
    assert made.id in set(frame["id"])
    assert made.id in set(points["id"])
    analysis.render(frame)
    assert all("\n" not in line for line in examine(str(root)))
    assert verify(folder).run == folder.name
    Store(root).final(folder.name)


@settings(PATHS, max_examples=60)
@given(content=st.one_of(BYTES, st.dictionaries(
    st.sampled_from(["question", "architectures", "tasks", "budgets", "x"]), st.text(max_size=9) | st.lists(ANY, max_size=2),
).map(lambda found: "\n".join(f"{key} = {json.dumps(value)}" for key, value in found.items()).encode("utf-8", "replace"))))  # fmt: skip  # noqa: E501
def test_any_study(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("study") / "mine.toml"
    file.write_bytes(content)
    with suppress(UsageError):
        study.read(str(file))


@settings(PATHS, max_examples=40)
@given(sums=st.binary(max_size=200), content=st.none() | st.binary(max_size=200))
def test_any_sums_of_a_checkpoint(tmp_path_factory, sums, content):
    path = tmp_path_factory.mktemp("run") / "checkpoint"
    DurableIO().save_checkpoint({"step": 1}, path)
    path.with_name("checkpoint.sha256").write_bytes(sums)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="--restart"):
        DurableIO().load_checkpoint(path)


@settings(PATHS, max_examples=30)
@given(
    name=st.text(max_size=20).filter(lambda name: "/" not in name and "\0" not in name), content=BYTES | st.text().map(str.encode)
)
def test_any_plug_in_file(tmp_path_factory, name, content):
    file = tmp_path_factory.mktemp("plugin") / f"{name}.py"
    try:
        file.write_bytes(content)
    except (OSError, UnicodeEncodeError):
        return
    with pytest.raises(UsageError, match="--plugin"):
        plugins.add_file(str(file))


NUMBERS = ["0", "-1", "1", "3", "99999999999", "1e-30", "-0.5", "x", ""]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["architectures", "tasks"])
def test_odd_values_of_every_setting(sandbox, capsys, kind):
    flag = {"architectures": "--architecture", "tasks": "--task"}[kind]
    for name in plugins.names(kind):
        for setting in plugins.settings(kind, name):
            for value in NUMBERS:
                sound(request(("run",), flag, f"{name}:{setting.name}={value}"), sandbox, capsys)


def test_a_plug_in_that_is_one_is_found_whatever_its_folder(tmp_path):
    folder = tmp_path / "Größe [x] $HOME;"
    folder.mkdir()
    (folder / "fine.py").write_text(PLUGIN)
    assert plugins.add_file(str(folder / "fine.py")) == "fine"
    assert Store(folder).publish(Run(id=SPEC.id, spec=SPEC, status="done")) is None
