"""The question: a model, an application, a site and a goal.

YAML and Hugging Face `config.json` come in through `load`; pydantic checks them at the door; `resolve` turns names into
the frozen values of `model`, `site` and `question`, plain numbers in base units with a table of where each came from.
"""
