"""The list of all methods: a new one is a file, and a line here.

Nothing here needs torch: a method imports it when it runs.
"""

from __future__ import annotations

from debias_core.methods import amplibias, crossinject, ddb, diffinject, diffubias, recompose
from debias_core.methods.baselines import (
    augmented,
    bias_ensemble,
    dfr,
    disent,
    group_dro,
    jtt,
    lff,
    oversample,
    rebias,
    selecmix,
    vanilla,
)
from debias_core.methods.method import Family, Method

# In the order of every table, list of options and choice in the page.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        vanilla.METHOD,
        *augmented.METHODS,
        oversample.METHOD,
        lff.METHOD,
        disent.METHOD,
        bias_ensemble.METHOD,
        rebias.METHOD,
        jtt.METHOD,
        group_dro.METHOD,
        dfr.METHOD,
        selecmix.METHOD,
        diffinject.METHOD,
        crossinject.METHOD,
        diffubias.METHOD,
        amplibias.METHOD,
        *ddb.METHODS,
        recompose.METHOD,
    )
}


def names_of(*families: Family) -> tuple[str, ...]:
    """The names of the methods of these families, in their order."""
    return tuple(name for name, method in METHODS.items() if method.family in families)
