"""Neural architecture search on PyTorch Lightning (empty on purpose: importing it must cost nothing)."""
