"""Runnable experiments, one a YAML file (imported as `lightning_nas.configs`)."""
