"""Dask clusters in your own cloud account, with the packages you have here.

Owns the public names and nothing else.

    import towline

    cluster = towline.Cluster(n_workers=4)
    client = cluster.get_client()

Importing it also names our security loader in Dask's configuration, where nobody has named one.
"""

from towline._cluster import Cluster
from towline._errors import ClusterEnded, ClusterError
from towline._loader import configure, load_security
from towline._version import __version__

__all__ = ["Cluster", "ClusterEnded", "ClusterError", "__version__", "load_security"]

configure()
