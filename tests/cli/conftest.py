"""The command line on a tiny random model, every test in an empty folder."""

import pytest
from transformers.utils import logging as upstream_logging

from sjd2.cli import commands
from sjd2.demo.build import build_generation_config, build_processor, save
from sjd2.demo.captions import VOCABULARY
from tests.janus_model import LENGTH, tiny_janus


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny random Janus with a processor, as `save_pretrained` writes them."""
    path = tmp_path_factory.mktemp("model")
    processor = build_processor(VOCABULARY)
    model = tiny_janus()
    # Upstream's default is a grid for pictures of another size.
    model.config.vq_config.num_patches = int(LENGTH**0.5)
    model.generation_config = build_generation_config(processor.tokenizer, guidance=2.0)
    save(model, processor, path)
    return path


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
            status = commands.main([str(argument) for argument in (*arguments, *options)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run
