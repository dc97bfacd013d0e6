"""Arguments that other cluster managers take and `towline.Cluster` does not: their names here, and when or why not.

Owns the names and the sentences. Looked up when an argument is refused.
"""

from __future__ import annotations

__all__ = ["FOREIGN"]

_RENAMED = {
    "account": "profile",
    "cluster_timeout": "max_lifetime",
    "memory_limit": "worker_memory",
    "nanny": "worker_nanny",
    "nthreads": "worker_threads",
    "num_workers": "n_workers",
    "processes": "worker_processes",
    "resources": "worker_resources",
    "show_widget": "progress",
    "silence_logs": "quiet",
    "threads_per_worker": "worker_threads",
    "workers": "n_workers",
    "workspace": "profile",
}

_WITH_CLOUDS = "it comes with the cloud backends (docs/roadmap.md); hosts of `local` are parts of this machine"
_NO_IMAGES = "packages are synced from this environment, and an image of your own comes with the Docker launcher"
_ALWAYS_SYNCED = "the hosts always get this environment's packages; `towline env scan --dry-run` shows them"
_ADAPT = "call `cluster.adapt(minimum=…, maximum=…)` once it is there"
_OWN_CLOUD = "hosts use their own cloud identity, and credentials of yours go to the workers by `environ=`"
_NO_DOORS = "hosts open no port but the cluster's own, for clients with a certificate"

_LATER_OR_NEVER = {
    "adaptive": _ADAPT,
    "allow_cross_zone": _WITH_CLOUDS,
    "allow_ingress_from": _NO_DOORS,
    "allow_ssh": _NO_DOORS,
    "allow_ssh_from": _NO_DOORS,
    "arm": _WITH_CLOUDS,
    "backend_options": _WITH_CLOUDS,
    "compute_purchase_option": _WITH_CLOUDS,
    "container": _NO_IMAGES,
    "credentials": _OWN_CLOUD,
    "custom_widget": "`progress=` takes a function that gets each event",
    "dashboard_address": "the dashboard comes by `cluster.dashboard_link`, on no port of its own",
    "dashboard_custom_subdomain": "the dashboard comes to this machine by `cluster.dashboard_link`",
    "docker_image": _NO_IMAGES,
    "env_vars": "it is called `environ` here",
    "extra_worker_on_scheduler": "the scheduler has its host to itself, so that no task can starve it",
    "host_setup_script": "hosts run no script that they were sent; put what they need into their image",
    "ignore_container_entrypoint": _NO_IMAGES,
    "instance_type": _WITH_CLOUDS,
    "interface": "addresses are the backend's matter",
    "jupyter": "a notebook runs where you are; the cluster runs Dask only",
    "mount_bucket": "nothing is mounted; read from buckets with fsspec",
    "open_extra_ports": _NO_DOORS,
    "package_sync": _ALWAYS_SYNCED,
    "package_sync_conda_extras": "conda environments are not supported yet (docs/roadmap.md)",
    "package_sync_ignore": _ALWAYS_SYNCED,
    "package_sync_only": _ALWAYS_SYNCED,
    "package_sync_strict": "it is always strict: what runs there is what you have here",
    "package_sync_use_uv_installer": "uv is always used",
    "pause_on_exit": "a cluster ends or lives: `shutdown_on_close=False` leaves it alive",
    "private_to_creator": "it always is: nobody gets in whom the owner has not admitted",
    "region": _WITH_CLOUDS,
    "scheduler_cpu": _WITH_CLOUDS,
    "scheduler_disk_size": _WITH_CLOUDS,
    "scheduler_gpu": _WITH_CLOUDS,
    "scheduler_memory": _WITH_CLOUDS,
    "scheduler_options": "options of Dask's scheduler class cannot be passed; most are in Dask's configuration",
    "scheduler_port": "the port is chosen for you; clients find it",
    "scheduler_vm_types": _WITH_CLOUDS,
    "security": "TLS both ways is always on, with keys of the cluster's own",
    "send_dask_config": "set what workers need by `environ=` (`DASK_…` variables)",
    "send_private_envs": "give them as `environ=`: they go from here to the scheduler over TLS",
    "software": _ALWAYS_SYNCED,
    "spot_policy": _WITH_CLOUDS,
    "spot_replacement": _WITH_CLOUDS,
    "use_best_zone": _WITH_CLOUDS,
    "use_scheduler_public_ip": _WITH_CLOUDS,
    "vm_size": _WITH_CLOUDS,
    "worker_class": "a class of your own would have to be on every host; Dask's worker runs, with or without nanny",
    "worker_cpu": _WITH_CLOUDS,
    "worker_disk_config": _WITH_CLOUDS,
    "worker_disk_size": _WITH_CLOUDS,
    "worker_disk_throughput": _WITH_CLOUDS,
    "worker_gpu": _WITH_CLOUDS,
    "worker_gpu_type": _WITH_CLOUDS,
    "worker_options": "options of Dask's worker class are `worker_processes`, `worker_threads`, `worker_memory`, "
    "`worker_nanny` and `worker_resources`",
    "worker_vm_types": _WITH_CLOUDS,
}

#: What to say of each name.
FOREIGN = {**{name: f"it is called `{ours}` here" for name, ours in _RENAMED.items()}, **_LATER_OR_NEVER}
