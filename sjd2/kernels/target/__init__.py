"""The target distribution, made of logits by guidance, temperature, top-k, top-p and grammar.

`eager.py` computes log-probabilities; `triton.py` computes three numbers per column that turn
logits into log-probabilities, and draws from them.
"""
