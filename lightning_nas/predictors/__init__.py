"""Performance predictors and surrogates."""
