"""What Philox 4x32-10 is made of (Salmon et al. 2011)."""

MASK32 = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# The largest float32 below one. Rounding could otherwise lift a uniform to exactly 1.
BELOW_ONE = 1.0 - 2.0**-24
