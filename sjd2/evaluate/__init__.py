"""The evaluation: methods side by side on one model, in forwards, seconds, memory and quality."""

from sjd2.evaluate.evaluation import evaluate
from sjd2.evaluate.plan import METHODS, Method, Plan, choose_methods, companions_of

__all__ = ["METHODS", "Method", "Plan", "choose_methods", "companions_of", "evaluate"]
