"""Log-probabilities of committed tokens: those of a teacher-forced forward, one number a token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.config import DecodingConfig
from sjd2.kernels import Rules
from sjd2.kernels.target.eager import target_log_probs
from sjd2.models import family_of
from sjd2.protocol import Sampling
from sjd2.sampler import decode, resolve
from sjd2.sampler.queue import decode_queue
from tests.family_models import EMU3, replayed_log_probs
from tests.janus_model import BOI, BOS, LENGTH, MASK, PAD, PROMPTS, draw
from tests.table_model import TableModel, make_request


@torch.no_grad()
def replayed(model: Any, tokens: Tensor, rules: Rules) -> Tensor:
    """The same from one cacheless forward per picture: [B, N]."""
    found = []
    for ids, mask, picture in zip(PROMPTS, MASK, tokens, strict=False):
        conditional = ids[mask.bool()]
        kept = (conditional == BOS) | (conditional == BOI)
        prompts = [conditional, torch.where(kept, conditional, PAD)]
        prompt = torch.stack(prompts[: 1 if rules.guidance_scale == 1 else 2])
        image = model.prepare_embeddings_for_image_generation(picture[None, :-1])
        inputs = torch.cat(
            (model.get_input_embeddings()(prompt), image.expand(len(prompt), -1, -1)), dim=1
        )
        hidden = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        log_p = target_log_probs(model.model.generation_head(hidden[:, -LENGTH:]), rules)
        found.append(log_p[0].gather(-1, picture[:, None]).squeeze(-1))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"window": 9}, {"guidance_scale": 2.0}),
        ({"window": 16, "verify": "gumbel"}, {"guidance_scale": 1.0, "top_k": 20}),
        ({"window": 9, "corrector": True}, {"guidance_scale": 2.0, "temperature": 0.8}),
        ({"method": "ar"}, {"guidance_scale": 2.0, "top_p": 0.9}),
        ({"method": "sjd2", "adapter": True, "window": 9}, {"guidance_scale": 2.0}),
    ],
    ids=str,
)
def test_log_probabilities_are_those_of_a_teacher_forced_forward(
    janus: Any, options: dict[str, Any], sampling: dict[str, float]
) -> None:
    """Kills: a number of a draft that was rejected later, of another row, after a re-drafting, or
    before guidance, temperature and filters."""
    torch.manual_seed(7)
    made = {"adapter": sjd2.new_adapter(janus, 2), "corrector": sjd2.new_corrector(janus, 8)}
    with torch.no_grad():
        for one in (*made["adapter"].up.values(), made["corrector"].shift.weight):
            one.normal_(std=0.3)
    settings = {name: made[name] if one is True else one for name, one in options.items()}
    sjd2.accelerate(janus, **settings)
    tokens = draw(janus, top_k=sampling.pop("top_k", 0), seed=0, output_logprobs="both", **sampling)
    stats = sjd2.decoding_stats(janus)
    assert stats.logprobs is not None
    assert stats.model_logprobs is not None
    assert stats.logprobs.dtype == torch.float32
    top_k = 20 if options.get("verify") == "gumbel" else 0
    expected = replayed(janus, tokens, Rules(**{"top_k": top_k, **sampling}))
    torch.testing.assert_close(stats.logprobs, expected, atol=1e-5, rtol=1e-5)
    own = replayed(janus, tokens, Rules())
    torch.testing.assert_close(stats.model_logprobs, own, atol=1e-5, rtol=1e-5)
    assert stats.to_dict()["logprobs"] == stats.logprobs.tolist()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_forced_tokens_are_certain_and_the_others_as_replayed(scale: float) -> None:
    """Kills: the grammar's tokens counted as drawn; a dictionary that lacks what was asked for."""
    model = sjd2.accelerate(EMU3.make(), window=6)
    drawn: Any = EMU3.draw(
        model,
        guidance_scale=scale,
        seed=2,
        return_dict_in_generate=True,
        output_logprobs="both",
    )
    ids, _ = EMU3.prompts(3)
    pictures = drawn.sequences[:, ids.shape[1] :]
    forced = EMU3.layout.forced() >= 0
    assert (drawn.logprobs[:, forced] == 0).all()
    assert (drawn.model_logprobs[:, forced] == 0).all()
    number = torch.searchsorted(torch.tensor(sorted(EMU3.image)), pictures[:, ~forced])
    for name, of_scale in (("logprobs", scale), ("model_logprobs", 1.0)):
        with torch.no_grad():
            log_p = replayed_log_probs(EMU3, model, ids, pictures, of_scale)[:, ~forced]
        expected = log_p.gather(-1, number[..., None]).squeeze(-1)
        torch.testing.assert_close(drawn[name][:, ~forced], expected, atol=2e-5, rtol=1e-5)


def test_the_callable_of_transformers_keeps_them_too() -> None:
    """Kills: an argument that `custom_generate` drops."""
    model = EMU3.make()
    options = {"seed": 2, "custom_generate": sjd2.generate, "max_new_tokens": EMU3.layout.length}
    EMU3.draw(model, output_logprobs=True, **options)
    stats = sjd2.decoding_stats(model)
    assert stats.logprobs is not None
    assert stats.model_logprobs is None
    EMU3.draw(sjd2.accelerate(model), seed=2, output_logprobs=True)
    assert torch.equal(sjd2.decoding_stats(model).logprobs, stats.logprobs)


def test_a_queue_keeps_them_with_every_picture(janus: Any) -> None:
    """Kills: numbers of the picture before, or of another row."""
    family, method = family_of(janus), resolve(DecodingConfig(window=9))
    asked = {"generation_mode": "image", "do_sample": True, "guidance_scale": 2.0}
    pictures = [
        (family.request(input_ids=PROMPTS[row][MASK[row].bool()][None], **asked), row)
        for row in range(5)
    ]

    def check(drawn: Any) -> None:
        request, seed = pictures[drawn.number]
        tokens, stats = decode(family, request, method, [seed], logprobs="both")
        assert torch.equal(drawn.tokens, tokens[0])
        assert stats.logprobs is not None
        assert stats.model_logprobs is not None
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(drawn.logprobs, stats.logprobs[0], **close)
        torch.testing.assert_close(drawn.model_logprobs, stats.model_logprobs[0], **close)

    assert decode_queue(family, pictures, method, 2, check, logprobs="both").pictures == 5


@pytest.mark.parametrize(
    "sampling",
    [Sampling(True, guidance_scale=2.0), Sampling(True, temperature=0.7, top_k=2, top_p=0.9)],
)
def test_the_kernels_leave_the_same_numbers(sampling: Sampling) -> None:
    """Kills: a temperature, a filter or the guidance left out where logits are what is kept."""
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton is not interpreted here")
    model = TableModel(length=8, grammar={3: 1})
    request = make_request(model, [(2, 3, 1), (1,)], sampling)
    found = [
        decode(
            model,
            request,
            resolve(DecodingConfig(window=3, backend=backend)),
            [5, 6],
            logprobs=True,
        )
        for backend in ("triton", "eager")
    ]
    (tokens, ours), (expected, theirs) = found
    assert torch.equal(tokens, expected)
    assert ours.logprobs is not None
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=1e-5)
    assert (ours.logprobs[:, 3] == 0).all()


def test_another_choice_is_refused(janus: Any) -> None:
    """Kills: a typing error that keeps nothing, and an argument that another loop drops."""
    sjd2.accelerate(janus)
    with pytest.raises(ValueError, match="output_logprobs='model': must be False, True or 'both'"):
        draw(janus, output_logprobs="model")
    with pytest.raises(ValueError, match="output_logprobs: the model's own generate answers"):
        draw(janus, output_logprobs=True, generation_mode="text")
