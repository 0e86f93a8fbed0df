"""The world that costs money: probes, launched processes, training, checkpoints, recovery, and the meter.

`training.run` plays a plan and gives a Measurement; `probes.probe` measures a site.  Nothing here forecasts.
"""
