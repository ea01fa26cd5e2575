"""Windows over any `ImageModel`: methods, the decode loop, its cache, its state and its account."""

from sjd2.sampler.decode import decode
from sjd2.sampler.method import Method, resolve
from sjd2.sampler.stats import DecodingStats

__all__ = ["DecodingStats", "Method", "decode", "resolve"]
