"""The embedded broker as a process: a supervised child, or in the foreground of a terminal."""
