"""Planted faults in a bucket that is audited by its manifest alone: nothing is passed over, nothing invented."""
