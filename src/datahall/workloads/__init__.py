"""What runs: models, data, losses and cut points behind the protocol of `datahall.base.workload`.

Each file is one workload with a `build(case)`; `entry` finds the right one, the user's own included.
"""
