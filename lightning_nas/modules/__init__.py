"""Methods: one LightningModule a file, its loss functions first."""
