"""The few-label protocol behind ``poscon compare``: plan, folds, runs, statistics."""
