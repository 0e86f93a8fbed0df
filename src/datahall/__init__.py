"""datahall plans, runs and proves large-model workloads on a data centre."""

__version__ = "0.1.0"
