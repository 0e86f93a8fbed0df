"""The four decisions together: a Plan, and what a world that plays it must offer."""

from datahall.decisions.plan import Plan

__all__ = ["Plan"]
