"""How a call of transformers' `generate` is understood and answered."""
