"""Decoding to look at: which forward committed which token, and pictures that fill in."""

from sjd2.watch.film import Film, film
from sjd2.watch.live import live
from sjd2.watch.trace import Trace, traces_of

__all__ = ["Film", "Trace", "film", "live", "traces_of"]
