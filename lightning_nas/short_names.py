"""Whatever is imported here can be called by its class name alone, in YAML and on the command line."""
