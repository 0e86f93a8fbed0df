"""Choosing the plan: every split that a site allows, priced in one call, ranked by the goal, and why the others lost.

Prices come from the same functions that explain one plan.  Nothing here estimates on its own.
"""
