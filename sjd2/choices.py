"""The words that some settings may be, for those who must not import torch to read them."""

from typing import Literal

Backend = Literal["auto", "triton", "eager"]
Coupling = Literal["maximal", "independent"]
Start = Literal["neighbour", "uniform", "repeat"]
# The keys of `sjd2.sampler.presets.PRESETS`.
PresetName = Literal[
    "ar", "independent", "gumbel", "maximal", "corrected-gumbel", "corrected", "sjd2"
]
