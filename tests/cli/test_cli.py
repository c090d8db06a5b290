"""The commands as people meet them: help, exit codes, and errors of one line."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusery import cli
from fusery.cli.entry import COMMANDS, parser
from fusery.runtime.errors import ConfigError, Degraded, FuseryError, ModelError, Unavailable
from fusery.runtime.settings import Settings

NOWHERE = "127.0.0.1:1"


def fusery(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fusery", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `fusery query` end in `error`, from inside."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fusery.run.inspect.query.query", fail)


def test_all_help_is_there_before_any_heavy_import() -> None:
    code = (
        "import sys\n"
        "from fusery.cli import entry, main\n"
        "for command in [[], *([name] for name in entry.COMMANDS)]:\n"
        "    try:\n"
        "        main([*command, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'transformers', 'mlflow', 'grpc', 'celery', 'pyarrow', 'pydantic', 'rich'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert done.stdout.count("example:") == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_what_its_arguments_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    summary = COMMANDS[command].__doc__
    assert summary is not None
    assert summary.endswith(".")
    assert summary in shown
    assert f"fusery {command}" in shown.partition("example:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_every_command_is_one_that_it_takes(command: str) -> None:
    words = shlex.split(COMMANDS[command].EXAMPLE.partition(" > ")[0])
    given = parser().parse_args(words[words.index("fusery") + 1 :])
    assert given.command == command


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {command}" in shown for command in COMMANDS)


def test_the_former_name_of_a_command_works_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "ls", str(tmp_path), "--json"]) == 0
    old = capsys.readouterr()
    assert cli.main(["store", "ls", str(tmp_path), "--json"]) == 0
    new = capsys.readouterr()
    assert old.out == new.out
    assert old.err == "warning: fusery cache is called fusery store now; the next version drops cache\n"
    assert new.err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "the following arguments are required: FILE.yaml"),
        (["rnu", "x.yaml"], "invalid choice: 'rnu'"),
        (["run", "x.yaml", "--fast"], "unrecognized arguments: --fast"),
        (["query", NOWHERE, "text", "--top-k", "0"], "--top-k: expected a whole number of at least 1, got '0'"),
        (["query", NOWHERE, "text", "--top-k", "-3"], "--top-k: expected a whole number of at least 1, got '-3'"),
        (["serve-source", "m", "--port", "70000"], "--port: expected a port, 0 to 65535, got '70000'"),
        (["serve-source", "m", "--dtype", "int4"], "invalid choice: 'int4'"),
        (["worker", "--processes", "two"], "--processes: expected a whole number of at least 1, got 'two'"),
        (["train", "x.yaml", "--threads", "0"], "--threads: expected a whole number of at least 1, got '0'"),
    ],
)
def test_a_wrong_command_line_prints_usage_and_what_is_wrong(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("usage: fusery")
    assert says in shown


@pytest.mark.parametrize("command", ["run", "validate", "status", "coverage", "train", "evaluate", "register"])
def test_a_missing_run_file_is_one_line_and_exit_code_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere.yaml"
    assert cli.main([command, str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"fusery {command}: {path}: No such file or directory; expected a run's YAML file\n"
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["worker", "--hops", "capture,bake"], "--hops: 'bake' is no hop; expected some of capture,align,fuse"),
        (["worker"], "FUSERY_STORE is not set"),
        (["serve-source", "./nowhere"], "model ./nowhere: no such folder"),
        (["query", NOWHERE, "half \udce9"], "TEXT is not UTF-8: 'utf-8' codec can't encode"),
    ],
)
def test_wrong_input_of_other_commands_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fusery {arguments[0]}: ")
    assert says in line


def test_the_schema_describes_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from fusery.config.run import RunConfig

    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert list(schema["properties"]) == list(RunConfig.model_fields)
    assert set(schema["required"]) == {"name", "target", "sources", "corpus"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(FuseryError("x"), 1), (Unavailable("x"), 1), (ConfigError("x"), 2), (ModelError("x"), 2), (Degraded("x"), 3)],
)
def test_the_class_of_an_error_decides_the_exit_code(
    error: FuseryError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, error)
    assert cli.main(["query", NOWHERE, "text"]) == code
    assert capsys.readouterr().err == "fusery query: x\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (IndexError("list index out of range"), "IndexError: list index out of range; this is a defect"),
        (ValueError("first line\nsecond line"), "ValueError: first line; this is a defect"),
        (AssertionError(), "AssertionError; this is a defect"),
    ],
)
def test_an_unexpected_error_is_one_line_that_asks_for_a_report(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, error)
    assert cli.main(["query", NOWHERE, "text"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fusery query: {says}, please report it")
    assert line.endswith("set FUSERY_LOG_LEVEL=debug for the traceback")


def test_the_traceback_is_there_at_level_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, IndexError("list index out of range"))
    monkeypatch.setenv("FUSERY_LOG_LEVEL", "debug")
    assert cli.main(["query", NOWHERE, "text"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in fail\n" in shown


@pytest.mark.parametrize(("asked", "level"), [(None, logging.WARNING), ("info", logging.INFO)])
def test_commands_that_answer_a_person_show_what_is_asked_for(
    asked: str | None, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, IndexError("list index out of range"))
    if asked is not None:
        monkeypatch.setenv("FUSERY_LOG_LEVEL", asked)
    assert cli.main(["query", NOWHERE, "text"]) == 1
    assert logging.getLogger().level == level


def test_a_package_that_is_not_installed_is_named_with_how_to_get_it() -> None:
    # None there makes `import` say that there is no such module. In a process of its own: modules that are imported
    # twice would trouble the tests after this one.
    code = (
        "import sys; sys.modules['grpc'] = None\n"
        f"from fusery import cli; sys.exit(cli.main(['query', '{NOWHERE}', 'text']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "fusery query: the package grpc is not installed; this command needs it: "
        "pip install --constraint constraints.txt '.[all]' in a checkout of fusery\n"
    )


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FUSERY_LOG_LEVEL": "loud"}, "FUSERY_LOG_LEVEL is 'loud'; expected debug, info, warning or error"),
        ({"FUSERY_LOG_FORMAT": "xml"}, "FUSERY_LOG_FORMAT is 'xml'; expected text or json"),
    ],
)
def test_a_wrong_environment_variable_is_named(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["status", "run.yaml"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_value_that_settings_refuse_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stricter(Settings):
        pin: int = 0

    monkeypatch.setattr("fusery.runtime.settings.Settings", Stricter)
    monkeypatch.setenv("FUSERY_PIN", "s3cret")
    monkeypatch.setenv("FUSERY_LOG_LEVEL", "debug")
    assert cli.main(["status", "run.yaml"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fusery status: environment variable FUSERY_PIN: Input should be a valid integer")
    assert "s3cret" not in line


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert cli.main(["query", NOWHERE, "text"]) == 130
    assert capsys.readouterr().err == "fusery query: interrupted; the same command takes it up again\n"


def test_ctrl_c_stops_a_waiting_process_with_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fusery", "query", NOWHERE, "text"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FUSERY_LOG_LEVEL": "debug"},
    )
    assert process.stderr is not None
    with process, process.stderr:
        # At level debug it tells that it waits for the address to answer.
        assert any("trying again in" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        shown = process.stderr.read()
        assert process.wait(60) == 130
    assert "fusery query: interrupted; the same command takes it up again\n" in shown


def test_a_reader_that_leaves_early_ends_the_command_without_a_word() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fusery", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 141


def test_the_module_and_the_script_are_the_same_command() -> None:
    done = fusery("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("fusery ")
