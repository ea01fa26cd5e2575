"""The command line on a tiny random model, every test in an empty folder."""

import pytest
from transformers.utils import logging as upstream_logging

from sjd2.cli import main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Every test starts in an empty folder, and upstream's logging stays as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SJD2_KERNELS", raising=False)
    verbosity = upstream_logging.get_verbosity()
    yield
    upstream_logging.set_verbosity(verbosity)
    upstream_logging.enable_progress_bar()


@pytest.fixture
def run(folder, capsys):
    """Run a command on the tiny model: status, stdout, stderr."""

    def run(*arguments):
        options = () if arguments[0] == "info" or "--model" in arguments else ("--model", folder)
        try:
            status = main([str(argument) for argument in (*arguments, *options)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run
