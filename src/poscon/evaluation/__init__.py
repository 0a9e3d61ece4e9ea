"""What ``poscon evaluate`` is made of: pairs, what their values mean, measures, results."""
