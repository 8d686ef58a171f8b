"""Callbacks: search, validity, TensorBoard (imported as `lightning_nas.callbacks`)."""
