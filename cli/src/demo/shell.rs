//! What a person's shell says of Python and Dask, and how none of it reaches the demo.
//!
//! Owns the list. The demo is a claim about this release, not about the shell that it was typed in.

use tokio::process::Command;

/// `PYTHON…` changes which code runs and whether compiled modules are kept (with `PYTHONDONTWRITEBYTECODE` each run
/// compiles all of pandas and Dask again), `DASK_…` overrules the demo's own settings, `TOWLINE_…` names another server,
/// and the others are of an environment that is not the demo's.
const FOREIGN_PREFIXES: [&str; 5] = ["CONDA_", "DASK_", "PYTHON", "TOWLINE_", "__PYVENV"];
const FOREIGN: [&str; 1] = ["VIRTUAL_ENV"];

/// Take them from a command. Set what it needs afterwards.
pub fn forget(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(&name.to_string_lossy())) {
        command.env_remove(name);
    }
}

/// Whether a variable is one of them. Pure.
fn is_foreign(name: &str) -> bool {
    FOREIGN.contains(&name) || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_python_or_dask_is_foreign_and_what_finds_the_network_is_not() {
        let foreign = [
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION",
            "PYTHONDEVMODE",
            "PYTHONDONTWRITEBYTECODE",
            "PYTHONOPTIMIZE",
            "PYTHONPATH",
            "PYTHONPYCACHEPREFIX",
            "TOWLINE_PROFILE",
            "VIRTUAL_ENV",
        ];
        assert_eq!(foreign.map(is_foreign), [true; 8]);
        let kept = ["HOME", "HTTPS_PROXY", "LANG", "PATH", "SSL_CERT_FILE", "UV_DEFAULT_INDEX", "XDG_CACHE_HOME"];
        assert_eq!(kept.map(is_foreign), [false; 7]);
    }
}
