"""What a trained embedding is worth: one analysis, one file, each called by ``lightning-nas analyze``."""
