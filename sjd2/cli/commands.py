"""The commands themselves, and how they end.

Exit status: 0 done, 2 a request that cannot be met (one line on stderr says why), 1 out of memory,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import sjd2
from sjd2.cli.arguments import complain, parse
from sjd2.cli.compare import compare, comparison_picture, comparison_table
from sjd2.config import DecodingConfig, seeds_for
from sjd2.files import check_target, write_atomically
from sjd2.kernels._dispatch import select
from sjd2.patching import method_of
from sjd2.pictures.drawing import check_captions, draw, verdicts
from sjd2.pictures.files import file_name, picture_paths, write_picture
from sjd2.pictures.gallery import text_table
from sjd2.pictures.loading import DEMO, choose_device, load
from sjd2.pictures.pipeline import Pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: those of the command line, without the name of the program; None reads it.

    Returns:
        The exit status.

    Raises:
        SystemExit: by argparse, after help (0) or a wrong argument (2).
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            try:
                given = parse(arguments)
                _COMMANDS[given.command](given)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            print("\nsjd2: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The interpreter flushes stdout once more as it ends; give it somewhere to write.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except torch.OutOfMemoryError:
            complain("out of memory: draw fewer pictures at once")
            return 1
        # The library raises these for what the user can put right, with a message that says how.
        except (ValueError, OSError) as error:
            complain(str(error))
            return 2
    return 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print("sjd2: warning:", message, file=sys.stderr)


def _generate(given: argparse.Namespace) -> None:
    config = _config(
        given,
        method=given.method,
        verify=given.verify,
        coupling=given.coupling,
        denoising_steps=given.denoising_steps,
        schedule=given.schedule,
        corrector_passes=given.corrector_passes,
    )
    if given.method == "sjd2" and given.adapter == "none":
        raise ValueError("--method sjd2: needs --adapter, the folder of a denoising adapter")
    seeds = seeds_for(given.seed, given.n)
    names = [f"{file_name(c)}-seed{seed}" for c in given.captions for seed in seeds]
    paths = picture_paths(given.out, names)
    for path in paths:
        check_target(path, force=given.force)
    pipeline = _load(given)
    sampling = _sampling(given)
    folders = (_companion(given.adapter), _companion(given.corrector))
    method, _ = method_of(pipeline.model, config, *folders)
    drawing = draw(pipeline, given.captions, seeds, method, **sampling)
    for path, picture in zip(paths, drawing.pictures, strict=True):
        write_picture(path, picture, force=given.force)
    if given.json:
        passed = verdicts(given.model, drawing)
        keys = ("path", "caption", "seed", "passed")
        rows = zip(map(str, paths), drawing.captions, drawing.seeds, passed, strict=True)
        _print_json(
            given,
            model=given.model,
            settings={**_settings(config), **sampling},
            pictures=[dict(zip(keys, row, strict=True)) for row in rows],
            stats=drawing.stats.to_dict(),
        )
        return
    if not given.quiet:
        print(drawing.stats, end="\n\n")
    print(*paths, sep="\n")


def _compare(given: argparse.Namespace) -> None:
    config = _config(given)
    name = f"compare-{file_name(given.captions[0])}-seed{given.seed}"
    (path,) = picture_paths(given.out, [name])
    check_target(path, force=given.force)
    pipeline = _load(given)
    sampling = _sampling(given)
    contenders = compare(
        pipeline,
        given.captions,
        given.seed,
        config,
        given.methods,
        given.model,
        announce=lambda what: _note(given, f"drawing: {what}"),
        **sampling,
    )
    write_picture(path, comparison_picture(contenders), force=given.force)
    if given.json:
        _print_json(
            given,
            model=given.model,
            path=str(path),
            captions=given.captions,
            seed=given.seed,
            settings={**_settings(config, "window", "start", "backend"), **sampling},
            methods=[contender.to_dict() for contender in contenders],
        )
        return
    if not given.quiet:
        print(comparison_table(contenders), end="\n\n")
    print(path)


def _finetune(given: argparse.Namespace) -> None:
    # Imported here: transformers' Trainer takes seconds to import, and needs accelerate.
    try:
        from sjd2.cli import finetune
    except ImportError as error:
        raise ValueError(f"fine-tuning needs more: pip install 'sjd2[train]' ({error})") from error
    given.captions, examples = finetune.read_captions(given)
    if given.device == "auto" and torch.cuda.is_available():
        # Of the processes that torchrun starts, each has a GPU of its own.
        given.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    pipeline = _load(given)
    history = finetune.train(given, pipeline, examples)
    if int(os.environ.get("RANK", 0)):
        return
    if given.json:
        _print_json(given, model=given.model, out=given.out, **history)
        return
    evaluations = [entry for entry in history["log"] if "eval_step_compression" in entry]
    if not given.quiet:
        for entry in evaluations:
            print(f"step {entry['step']}: {entry['eval_step_compression']:.2f}x fewer forwards")
        if measured := history.get("step_compression"):
            print("at the end:", ", ".join(f"{name} {x:.2f}x" for name, x in measured.items()))
        print(f"{history['trained_parameters']} parameters, {history['seconds']:.0f} s")
    print(given.out)


def _trace(given: argparse.Namespace) -> None:
    from sjd2.cli import trace

    select(given.backend)
    path = trace.target(given)
    pipeline = _load(given)
    told = trace.run(given, path, pipeline, _sampling(given))
    if given.json:
        _print_json(given, model=given.model, **told)
        return
    if not given.quiet:
        head = ["method", "forwards", "tokens per forward"]
        rows = [[one["label"], one["forwards"], len(one["committed_at"])] for one in told["traces"]]
        table = [[label, str(n), f"{tokens / n:.2f}"] for label, n, tokens in rows]
        print(text_table([head, *table]), end="\n\n")
    print(path)


def _app(given: argparse.Namespace) -> None:
    try:
        from sjd2 import app
    except ImportError as error:
        raise ValueError(f"the page needs more: pip install 'sjd2[app]' ({error})") from error
    given.captions, given.quiet = (), False
    pipeline = _load(given)
    app.serve(pipeline, given.port, opens_browser=not given.no_browser)


def _evaluate(given: argparse.Namespace) -> None:
    from sjd2.cli import evaluation

    evaluation.check(given)
    pipeline = _load(given)
    is_watched = sys.stderr.isatty() and not given.quiet
    found = evaluation.run(given, pipeline, is_watched)
    if given.json:
        _print_json(given, out=given.out, **found)
        return
    if not given.quiet:
        print(text_table(evaluation.printed(found)), end="\n\n")
    print(Path(given.out) / "report.html")


def _convert(given: argparse.Namespace) -> None:
    from safetensors.torch import save

    from sjd2.pixels.vqgan import convert_vq_checkpoint

    out = Path(given.out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: must end in .safetensors")
    check_target(out, force=given.force)
    weights = save(convert_vq_checkpoint(given.source))
    write_atomically(out, lambda file: file.write(weights), force=given.force)
    print(out)


def _info(given: argparse.Namespace) -> None:
    try:
        backend, reason = select("auto")
    except ValueError as error:
        backend, reason = None, str(error)
    from sjd2.demo import WEIGHTS

    weights = WEIGHTS / "model.safetensors"
    facts = {
        "sjd2": sjd2.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "device": str(choose_device("auto")),
        "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "kernels": backend,
        "kernels_reason": reason,
        "demo_weights": str(weights) if weights.is_file() else None,
    }
    if given.json:
        _print_json(given, **facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {'none' if value is None else value}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _config(given: argparse.Namespace, **options: Any) -> DecodingConfig:
    """The settings, checked before a model is loaded for them."""
    select(given.backend)
    is_watched = sys.stderr.isatty() and not given.quiet
    return DecodingConfig(
        window=given.window,
        start=given.start,
        backend=given.backend,
        progress=is_watched,
        **options,
    )


def _companion(given: str) -> str | None:
    """A folder, "auto", or what "none" stands for."""
    return None if given == "none" else given


def _sampling(given: argparse.Namespace) -> dict[str, float]:
    asked = {
        "guidance_scale": given.guidance,
        "temperature": given.temperature,
        "top_k": given.top_k,
        "top_p": given.top_p,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _load(given: argparse.Namespace) -> Pipeline:
    """The model and what is around it, once the captions are known to suit them."""
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # A download is worth a bar; reading a file is not.
    if given.quiet or not sys.stderr.isatty() or given.model == DEMO or Path(given.model).exists():
        transformers.utils.logging.disable_progress_bar()
    device = choose_device(given.device)
    pipeline = load(given.model, device, given.size, given.vq_decoder)
    check_captions(pipeline.tokenizer, given.captions)
    return pipeline


def _settings(config: DecodingConfig, *names: str) -> dict[str, Any]:
    """Those settings by name: all that shape the decoding unless some are named."""
    wanted = names or ("method", "window", "verify", "coupling", "start", "backend")
    return {name: getattr(config, name) for name in wanted}


def _note(given: argparse.Namespace, message: str) -> None:
    if not given.quiet:
        print(message, file=sys.stderr)


def _print_json(given: argparse.Namespace, **values: Any) -> None:
    print(json.dumps({"command": given.command, **values}, indent=2))


_COMMANDS = {
    "generate": _generate,
    "compare": _compare,
    "trace": _trace,
    "app": _app,
    "evaluate": _evaluate,
    "finetune": _finetune,
    "convert": _convert,
    "info": _info,
}
