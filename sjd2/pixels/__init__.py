"""From tokens to pixels: decoders of pictures that transformers lacks, pixels as pictures."""
