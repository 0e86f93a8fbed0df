"""The loop: probe, plan, seal, run, compare, calibrate, report; one command, one folder of evidence."""
