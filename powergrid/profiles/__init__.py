"""Time series from CSV files: load, PV, wind, price. docs/profiles.md has the format."""

from powergrid.profiles.profiles import Profiles, Unit, load_profiles

__all__ = ["Profiles", "Unit", "load_profiles"]
