"""Search strategies over candidate pools, batched over independent runs; pure torch and BoTorch."""
