"""The sections of a report, each from rows only."""
