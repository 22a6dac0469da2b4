"""Inside of :mod:`powergrid.powerflow`; import from there."""
