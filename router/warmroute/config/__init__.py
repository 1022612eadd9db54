"""Settings: `schema` names them, `load` reads them, `rules` judges them, `reference` documents them.

The only package that reads YAML or the environment. Everything below receives plain values.
"""
