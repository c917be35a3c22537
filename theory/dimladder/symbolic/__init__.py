"""How equations follow: Gaussian expectations, order parameters, the four systems, printing, generated code."""
