"""The few-label protocol behind ``poscon compare``: plan, folds, runs, engines, statistics."""
