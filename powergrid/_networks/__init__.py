"""Behind ``powergrid.networks``: where networks come from, and who lives where in them."""
