"""The evaluation: methods side by side on one model, in forwards, seconds, memory and quality."""

from sjd2.evaluate.evaluation import evaluate
from sjd2.evaluate.plan import Plan

__all__ = ["Plan", "evaluate"]
