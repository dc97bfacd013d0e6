//! A server kept while it is written to, brought back elsewhere; and every archive that is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

use super::*;
use crate::init::{InitOptions, init};
use crate::store::Store;
use crate::store::tests::records;
use std::os::unix::fs::PermissionsExt as _;
use towline_protocol::time::UnixSeconds;

struct Ground {
    directory: tempfile::TempDir,
    data: PathBuf,
    archive: PathBuf,
}

impl Ground {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let options = InitOptions { data_dir: data.clone(), names: Vec::new(), person: "ada".to_owned() };
        init(&options).await.unwrap();
        fs::create_dir_all(data.join("server/server.toml.d")).unwrap();
        fs::write(data.join("server/server.toml.d/50-own.toml"), "[phases]\nsynced = 7\n").unwrap();
        let archive = directory.path().join("kept.tar");
        Self { directory, data, archive }
    }

    async fn store(&self) -> Store {
        Store::open_existing(&self.data.join(DATABASE)).await.unwrap()
    }

    fn elsewhere(&self) -> PathBuf {
        self.directory.path().join("elsewhere")
    }

    /// Nothing is left behind of a restore that failed.
    fn is_clean(&self) -> bool {
        fs::read_dir(self.elsewhere()).map_or(true, |mut entries| entries.next().is_none())
    }
}

#[tokio::test]
async fn a_server_is_kept_while_it_is_written_to_and_brought_back_elsewhere() {
    let ground = Ground::new().await;
    let store = ground.store().await;
    let workspace = store.workspaces().await.unwrap()[0].id.clone();
    assert_eq!(store.bump_epoch(UnixSeconds(7)).await.unwrap(), Epoch(7));
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..200 {
                let mut record = records::cluster(&format!("c{number}"));
                record.workspace = workspace.clone();
                store.insert_cluster(record, None).await.unwrap();
            }
        }
    });
    while store.clusters(None, true).await.unwrap().len() < 20 {
        tokio::task::yield_now().await;
    }
    let manifest = backup(&ground.data, &ground.archive).await.unwrap();
    assert!(!writer.is_finished(), "the test must write while the copy is made");
    writer.await.unwrap();
    store.close().await;
    assert_eq!(fs::metadata(&ground.archive).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(manifest.schema, store::newest_schema());
    assert_eq!(fs::read_dir(ground.directory.path()).unwrap().count(), 2, "no staging folder is left");

    let restored = restore(&ground.archive, &ground.elsewhere(), false).await.unwrap();
    assert!(restored.epoch > Epoch(7) && restored.replaced.is_none() && restored.manifest == manifest);
    for name in ["root.key", "signing.key", "ca.key", "blobs.key", "admin.token", "server.toml.d/50-own.toml"] {
        let read = |data: &Path| fs::read(data.join("server").join(name)).unwrap();
        assert_eq!(read(&ground.data), read(&ground.elsewhere()), "{name}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&ground.elsewhere().join("server")), mode(&ground.elsewhere().join(DATABASE))), (0o700, 0o600));
    let back = Store::open_existing(&ground.elsewhere().join(DATABASE)).await.unwrap();
    let there = back.clusters(None, true).await.unwrap().len();
    assert!((20..200).contains(&there), "{there} clusters are those of one moment");
    assert_eq!(back.epoch().await.unwrap(), restored.epoch);
}

#[tokio::test]
async fn nothing_is_overwritten_unless_asked_and_then_it_is_put_aside() {
    let ground = Ground::new().await;
    backup(&ground.data, &ground.archive).await.unwrap();
    assert!(matches!(backup(&ground.data, &ground.archive).await, Err(BackupError::Exists { .. })));
    assert!(matches!(restore(&ground.archive, &ground.data, false).await, Err(BackupError::NotEmpty { .. })));
    fs::write(ground.data.join("server/newer"), "x").unwrap();
    let restored = restore(&ground.archive, &ground.data, true).await.unwrap();
    assert!(restored.replaced.unwrap().join("newer").exists());
    assert!(!ground.data.join("server/newer").exists() && ground.data.join("server/root.key").exists());
    let nothing = ground.directory.path().join("nothing");
    assert!(matches!(backup(&nothing, &nothing).await, Err(BackupError::NoServer { .. })));
}

#[tokio::test]
async fn a_damaged_archive_is_refused_with_a_sentence_and_leaves_nothing() {
    let ground = Ground::new().await;
    let manifest = backup(&ground.data, &ground.archive).await.unwrap();
    let whole = fs::read(&ground.archive).unwrap();
    let key = manifest.files.iter().find(|file| file.path == "server/root.key").unwrap();
    let text = fs::read(ground.data.join("server/root.key")).unwrap();
    let at = whole.windows(text.len()).position(|window| window == text).unwrap();
    assert_eq!(key.size, text.len() as u64);
    let mut flipped = whole.clone();
    flipped[at + 40] ^= 1;
    let renamed = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&whole).into_owned();
        assert!(text.contains(from), "{from}");
        let mut bytes = whole.clone();
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    for (what, bytes, words) in [
        ("a flipped bit of a key", flipped, "digest"),
        ("half of it", whole[..whole.len() / 2].to_vec(), "is not a whole backup"),
        ("nothing", Vec::new(), "is empty"),
        ("something else", vec![b'x'; 4096], "whole backup"),
        ("a way out", renamed("server/blobs.key", "server/../bs.key"), "list"),
        ("a later layout", renamed("\"format\": 1", "\"format\": 9"), "does not know"),
        ("later tables", renamed(&format!("\"schema\": {}", manifest.schema), "\"schema\": 9"), "tables"),
    ] {
        fs::write(&ground.archive, bytes).unwrap();
        let error = restore(&ground.archive, &ground.elsewhere(), false).await.expect_err(what);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert!(ground.is_clean(), "{what}");
    }
}
