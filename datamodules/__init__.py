"""DataModules over search spaces and images (imported as `lightning_nas.datamodules`)."""
