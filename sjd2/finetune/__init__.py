"""Learning to draw faster: the denoising adapter and the tuned model of method "sjd2"."""
