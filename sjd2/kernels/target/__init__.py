"""The target distribution: guidance, temperature, top-k, top-p and grammar turn logits into it.

`eager.py` writes it out as log-probabilities; `triton.py` finds three numbers per column that say
how to read the logits as log-probabilities, and draws from them.
"""
