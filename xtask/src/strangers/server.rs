//! A control plane for the tests, below `target/`, with its own home and profile.

use super::{read, write};
use crate::process::{Outcome, output};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);
/// How long it gets to end its clusters and itself.
const END: Duration = Duration::from_secs(60);

/// A running control plane.
#[derive(Debug)]
pub struct World {
    home: PathBuf,
    binary: PathBuf,
    path: OsString,
    child: Child,
    /// It ends when this closes, also when this program dies.
    stdin: Option<ChildStdin>,
}

impl World {
    /// Make keys, start, and write the profile that finds it.
    pub fn start(folder: &Path, binary: &Path, uv: &Path) -> Outcome<Self> {
        let (home, data) = (folder.join("home"), folder.join("data"));
        for old in [&home, &data] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(|error| format!("{}: {error}", old.display()))?;
            }
            fs::create_dir_all(old).map_err(|error| format!("{}: {error}", old.display()))?;
        }
        // Environments are kept from run to run: they go by content.
        let store = folder.join("store");
        fs::create_dir_all(&store)
            .and_then(|()| symlink(&store, data.join("store")))
            .map_err(|error| format!("{}: {error}", store.display()))?;
        let before = std::env::var_os("PATH").unwrap_or_default();
        let folders = uv.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&before));
        let path = std::env::join_paths(folders).map_err(|error| format!("PATH cannot be extended: {error}"))?;
        let towline = |words: &[&str]| {
            let mut command = Command::new(binary);
            command.args(words).arg("--data-dir").arg(&data).env("HOME", &home).env("PATH", &path);
            command.env("TOWLINE_CONFIG", home.join("profiles.toml"));
            command
        };
        output(&mut towline(&["server", "init", "--json"]))?;
        let anywhere = ["--people", "--agents", "--blobs"].map(|listener| [listener, "127.0.0.1:0"]).concat();
        let log = folder.join("server.log");
        let file = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let complaints = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = towline(&["server", "run", "--until-stdin-closes"])
            .args(anywhere)
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(complaints)
            .spawn()
            .map_err(|error| format!("the control plane cannot be started: {error}"))?;
        let stdin = child.stdin.take();
        let world = Self { home, binary: binary.to_owned(), path, child, stdin };
        world.introduce(&data, &log)
    }

    /// Wait until it listens, and write the profile.
    fn introduce(mut self, data: &Path, log: &Path) -> Outcome<Self> {
        let begun = Instant::now();
        let run = loop {
            // It is written whole or not at all.
            if let Ok(text) = fs::read_to_string(data.join("server/run.json")) {
                break text;
            }
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || begun.elapsed() > START {
                return Err(format!("the control plane does not start:\n{}", read(log)?));
            }
            sleep(Duration::from_millis(50));
        };
        let field = |name: &str| text_of(&run, name).ok_or_else(|| format!("run.json has no {name}"));
        let token = read(&data.join("server/admin.token"))?;
        let profile = format!(
            "default = \"strangers\"\n[profile.strangers]\nurl = \"{}\"\nca_file = \"{}\"\ntoken = \"{}\"\n",
            field("people_url")?,
            field("ca_file")?,
            token.trim()
        );
        let file = self.home.join("profiles.toml");
        write(&file, &profile)?;
        // It holds a token, and the client refuses one that others may read.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(self)
    }

    /// The variables by which the Python package finds it.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("PATH", self.path.clone()),
            ("TOWLINE_BINARY", self.binary.clone().into_os_string()),
            ("TOWLINE_CONFIG", self.home.join("profiles.toml").into_os_string()),
            ("XDG_STATE_HOME", self.home.clone().into_os_string()),
        ]
    }

    /// End it and every cluster that is left.
    pub fn stop(mut self) -> Outcome {
        drop(self.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < END {
            if let Ok(Some(status)) = self.child.try_wait() {
                return if status.success() { Ok(()) } else { Err(format!("the control plane ended with {status}")) };
            }
            sleep(Duration::from_millis(100));
        }
        Err(format!("the control plane is still there after {} s", END.as_secs()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // After an error: close the pipe, give it a moment for its clusters, then no more.
        drop(self.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < END && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A text entry of a flat JSON document that we wrote ourselves, whose values need no escapes.
fn text_of(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("\"{name}\""))?;
    rest.split('"').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn reads_an_entry_by_its_name() {
        let document = "{\n  \"pid\": 7,\n  \"people_url\": \"https://127.0.0.1:1\",\n  \"ca_file\": \"/a/b\"\n}";
        assert_eq!(text_of(document, "people_url").as_deref(), Some("https://127.0.0.1:1"));
        assert_eq!(text_of(document, "ca_file").as_deref(), Some("/a/b"));
        assert_eq!(text_of(document, "token"), None);
    }
}
