"""The loop on a GPU that is not here: nothing strays to the CPU, nothing is read, few launches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
)

from sjd2.companions import Companions, make_adapter, make_corrector
from sjd2.models import family_of
from sjd2.sampler import method
from sjd2.sampler.queue import Queue
from tests.family_models import FAMILIES
from tests.glm_image_model import asked, tiny_glm_image
from tests.janus_model import LENGTH, MASK, PROMPTS, tiny_janus

pytest.importorskip("triton")
from tests.fake_gpu import FakeGpu, Launch, StrayTensorError, obstacle

# Launches of an iteration outside of the model's layers, at most: whoever needs fewer lowers these.
PLAIN = 8
CORRECTED_TWICE = 16
CORRECTED_BY_DEFAULT = 28
DENOISED = 9
CORRECTED_TWICE_AND_DENOISED = 17


@pytest.fixture(autouse=True)
def _fake_gpu_can_be_had() -> None:
    if reason := obstacle():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_janus()


@pytest.fixture(scope="module")
def companions(model: Any) -> Companions:
    family = family_of(model)
    return Companions(make_adapter(family, 4), make_corrector(family, 5))


def asks(images: int = 3, **options: Any) -> dict[str, Any]:
    inputs = {"input_ids": PROMPTS[:images], "attention_mask": MASK[:images], "seed": 1}
    return {
        **inputs,
        "generation_mode": "image",
        "do_sample": True,
        "guidance_scale": 3.0,
        **options,
    }


# Settings, and what `generate` is asked beside them.
MODES: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "ar": ((), {"method": "ar"}, {}),
    "maximal": ((), {}, {}),
    "independent": ((), {"coupling": "independent"}, {}),
    "same seed": ((), {"verify": "gumbel"}, {}),
    "greedy": ((), {}, {"do_sample": False}),
    "uniform start": ((), {"start": "uniform"}, {}),
    "repeat start": ((), {"start": "repeat"}, {}),
    "unguided": ((), {}, {"guidance_scale": 1.0}),
    "top-k and top-p": ((), {}, {"top_k": 7, "top_p": 0.8, "temperature": 0.9}),
    "log-probabilities": ((), {}, {"output_logprobs": "both"}),
    "corrector": (("corrector",), {"corrector_passes": 2}, {}),
    "sweep": (("corrector",), {"corrector_passes": "sweep"}, {}),
    "adapter": (("adapter",), {"method": "sjd2"}, {}),
    "adapter and corrector": (
        ("adapter", "corrector"),
        {"method": "sjd2", "corrector_passes": 2, "verify": "gumbel"},
        {},
    ),
}


@pytest.mark.parametrize("images", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("mode", MODES)
def test_no_tensor_strays_and_none_is_read(
    mode: str, images: int, model: Any, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generate` on "cuda", by the Triton path: four iterations between two settlings, and on from
    there with fewer rows and columns.

    Kills: an `.item()`, an `if tensor`, a boolean index; a tensor made without a device.
    """
    kinds, options, asked_too = MODES[mode]
    gpu = FakeGpu(monkeypatch, model)
    tokens = gpu.generate(asks(images, **asked_too), companions.only(kinds), window=8, **options)
    assert tokens.device.type == "cuda"
    assert tokens.shape == (images, LENGTH)
    assert gpu.settlings == 3
    # Where the first window has drafts, the prompts have a forward of their own.
    assert len(gpu.iterations) == 12 + ("start" in options)
    names = {launch.name for launches in gpu.steady() for launch in launches}
    assert {"verify_window", "commit_window"} <= names
    assert ("correct_window" in names) == ("corrector" in kinds)
    assert ({"denoise_window", "embed_window"} <= names) == ("adapter" in kinds)
    assert ("noisy_embed" in names) != ("adapter" in kinds)


def asked_of(name: str, picture: int, pictures: int) -> dict[str, Any]:
    """What a call of a family's `generate` asks for: pictures from a number on."""
    rows = slice(picture, picture + pictures)
    if name == "glm_image":
        inputs = asked(family(name)[0], images=rows.stop)
        grids = {"image_grid_thw": inputs.pop("image_grid_thw")[2 * rows.start : 2 * rows.stop]}
    elif name == "janus":
        inputs, grids = {"input_ids": PROMPTS, "attention_mask": MASK}, {"guidance_scale": 3.0}
        grids["generation_mode"] = "image"
    else:
        ids, mask = FAMILIES[name].prompts(4)
        inputs, grids = {"input_ids": ids, "attention_mask": mask}, {"guidance_scale": 3.0}
    return {**{key: one[rows] for key, one in inputs.items()}, **grids, "do_sample": True}


@cache
def family(name: str) -> tuple[Any, Companions]:
    """A tiny model and its companions."""
    makers = {"janus": tiny_janus, "glm_image": tiny_glm_image}
    model = makers[name]() if name in makers else FAMILIES[name].make()
    family = family_of(model)
    return model, Companions(make_adapter(family, 4), make_corrector(family, 5))


KINDS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "corrected": ("corrector",),
    "denoised and corrected": ("adapter", "corrector"),
}


@pytest.mark.parametrize("kinds", ["plain", "denoised and corrected"])
@pytest.mark.parametrize("name", [*FAMILIES, "glm_image"])
def test_no_tensor_of_a_family_strays_and_none_is_read(
    name: str, kinds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a grammar or positions left on the CPU; a forced token that the host looks at."""
    model, companions = family(name)
    gpu = FakeGpu(monkeypatch, model)
    options = {"method": "sjd2"} if "denoised" in kinds else {}
    found = companions.only(KINDS[kinds])
    tokens = gpu.generate({**asked_of(name, 0, 3), "seed": 1}, found, window=4, **options)
    assert tokens.device.type == "cuda"
    assert gpu.settlings == 3
    assert len(gpu.iterations) == 12


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "janus",
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES, "glm_image")),
    ],
)
def test_no_tensor_of_a_queue_strays_and_none_is_read(
    name: str, kinds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pictures over three rows: two of them begin in a settling, by a forward of their own.

    Kills: a read for every picture that begins, beside those of the settling; rows of the tables
    that are looked up on the CPU.
    """
    model, companions = family(name)
    gpu = FakeGpu(monkeypatch, model)
    options = {"method": "sjd2"} if "denoised" in kinds else {}
    pictures = [asked_of(name, number % 4, 1) for number in range(5)]
    drawn = gpu.queue(pictures, 3, companions.only(KINDS[kinds]), window=4, **options)
    assert [one.number for one in drawn] == list(range(5))
    assert gpu.settlings == 4
    assert len(gpu.iterations) == 4 * 4 + 2


@pytest.mark.parametrize("after", [0, 4])
def test_a_read_in_a_queue_is_found(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known-bad: in a forward of the batch, and in the one with which a picture begins."""
    gpu, seen = FakeGpu(monkeypatch, family("janus")[0]), []

    def wrong(watching: Any, now: Any) -> None:
        seen.append(now)
        if len(seen) > after:
            now.state.position.max().item()

    monkeypatch.setattr(Queue, "iteration", wrong)
    with pytest.raises(DataDependentOutputException):
        gpu.queue([asked_of("janus", picture, 1) for picture in range(4)], 3, window=4)
    assert len(seen) == after + 1
    assert gpu.settlings == after // 4


def read_of_a_number(logits: Tensor, given: dict[str, Any]) -> None:
    given["position"].max().item()


def read_of_a_list(logits: Tensor, given: dict[str, Any]) -> None:
    given["position"].tolist()


def truth(logits: Tensor, given: dict[str, Any]) -> None:
    if (given["position"] > 3).all():
        return


def boolean_index(logits: Tensor, given: dict[str, Any]) -> None:
    given["position"][given["position"] > 3]


def copy_to_the_host(logits: Tensor, given: dict[str, Any]) -> None:
    given["position"].to("cpu")


def copy_to_the_device(logits: Tensor, given: dict[str, Any]) -> None:
    torch.arange(logits.shape[1]).to(logits.device)


def sum_with_the_cpu(logits: Tensor, given: dict[str, Any]) -> None:
    given["position"][:, None] + torch.arange(logits.shape[1])


def index_from_the_cpu(logits: Tensor, given: dict[str, Any]) -> None:
    logits[:, torch.arange(logits.shape[1])]


def kernel_of_the_cpu(logits: Tensor, given: dict[str, Any]) -> None:
    given["position"] = torch.zeros(len(given["position"]), dtype=torch.int64)


MISTAKES: dict[Callable[[Tensor, dict[str, Any]], None], type[BaseException]] = {
    read_of_a_number: DataDependentOutputException,
    read_of_a_list: DataDependentOutputException,
    truth: DataDependentOutputException,
    boolean_index: DynamicOutputShapeException,
    copy_to_the_host: StrayTensorError,
    copy_to_the_device: StrayTensorError,
    sum_with_the_cpu: FakeTensorDeviceMismatchError,
    index_from_the_cpu: StrayTensorError,
    kernel_of_the_cpu: StrayTensorError,
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_in_the_loop_is_found(
    mistake: Callable[[Tensor, dict[str, Any]], None],
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Known-bad: what stalls or breaks a loop on a device, put into it.

    Kills: a fake GPU on which everything runs.
    """
    gpu, verify = FakeGpu(monkeypatch, model), method.verify_window

    def wrong(logits: Tensor, *args: Any, **given: Any) -> Any:
        mistake(logits, given)
        return verify(logits, *args, **given)

    monkeypatch.setattr(method, "verify_window", wrong)
    with pytest.raises(MISTAKES[mistake]):
        gpu.generate(asks(), window=8)
    assert gpu.settlings == 0


LAUNCHES: dict[str, tuple[tuple[str, ...], dict[str, int], int]] = {
    "plain": ((), {}, PLAIN),
    "corrected": (("corrector",), {}, CORRECTED_BY_DEFAULT),
    "corrected twice": (("corrector",), {"corrector_passes": 2}, CORRECTED_TWICE),
    "denoised": (("adapter",), {}, DENOISED),
    "both": (("adapter", "corrector"), {"corrector_passes": 2}, CORRECTED_TWICE_AND_DENOISED),
}


def at_most(bound: int, iterations: list[list[Launch]]) -> None:
    """Fails with the launches of the longest iteration, if there are more than `bound`."""
    longest = max(iterations, key=_kernels)
    listing = "\n".join(map(str, longest))
    assert _kernels(longest) <= bound, f"{_kernels(longest)} launches, {bound} allowed:\n{listing}"


def _kernels(launches: list[Launch]) -> int:
    return sum(launch.kernels for launch in launches)


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_outside_of_the_layers(
    name: str, model: Any, companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: an operation slipped in beside the kernels, in any of the loop's parts."""
    kinds, options, bound = LAUNCHES[name]
    gpu = FakeGpu(monkeypatch, model)
    gpu.generate(asks(), companions.only(kinds), window=8, **options)
    assert len(gpu.steady()) == 8
    at_most(bound, gpu.steady())
    # A bound that nothing comes near holds nothing.
    assert max(map(_kernels, gpu.steady())) == bound


def test_one_launch_more_is_seen(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known-bad: an iteration with a tensor operation more; and a view, which is none."""
    gpu, verify = FakeGpu(monkeypatch, model), method.verify_window

    def wrong(logits: Tensor, *args: Any, **given: Any) -> Any:
        given["position"] = (given["position"] + 0)[:].view(-1)
        return verify(logits, *args, **given)

    monkeypatch.setattr(method, "verify_window", wrong)
    gpu.generate(asks(), window=8)
    at_most(PLAIN + 1, gpu.steady())
    with pytest.raises(AssertionError, match=rf"{PLAIN + 1} launches.*\n(.*\n)* *2 verify_window"):
        at_most(PLAIN, gpu.steady())
