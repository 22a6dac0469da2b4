"""``heron-mqtt bench``: what the message path costs, as ratios to raw floors measured in the same run."""
