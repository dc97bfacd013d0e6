//! The tar file itself: written with its manifest first, read only as far as the manifest allows.

use super::{BackupError, FORMAT, KeptFile, MANIFEST, Manifest, file_error};
use crate::store::newest_schema;
use aws_lc_rs::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};
use towline_protocol::ids::Digest;

/// Longest manifest that is read.
const MANIFEST_LIMIT: u64 = 1 << 20;

/// Bytes read at once.
const PIECE: usize = 1 << 16;

/// Write the archive. What each file holds is read twice, and a file that changed between is an error of the digest later.
pub fn write(
    to: &File,
    path: &Path,
    schema: i64,
    made_at_ms: u64,
    kept: &[(String, PathBuf)],
) -> Result<Manifest, BackupError> {
    let mut contents = Vec::new();
    for (name, source) in kept {
        let mut file = File::open(source).map_err(file_error(source))?;
        let (size, sha256) = copy(&mut file, &mut io::sink()).map_err(file_error(source))?;
        contents.push(KeptFile { path: name.clone(), size, sha256 });
    }
    let towline = env!("CARGO_PKG_VERSION").to_owned();
    let manifest = Manifest { format: FORMAT, towline, schema, made_at_ms, files: contents };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain text and numbers");
    let mut tar = Builder::new(to);
    let put = |tar: &mut Builder<&File>, name: &str, size: u64, data: &mut dyn io::Read| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(made_at_ms / 1000);
        header.set_size(size);
        tar.append_data(&mut header, name, data.take(size))
    };
    put(&mut tar, MANIFEST, text.len() as u64, &mut text.as_slice()).map_err(file_error(path))?;
    for (file, (_, source)) in manifest.files.iter().zip(kept) {
        let mut data = File::open(source).map_err(file_error(source))?;
        put(&mut tar, &file.path, file.size, &mut data).map_err(file_error(path))?;
    }
    tar.finish().map_err(file_error(path))?;
    Ok(manifest)
}

/// Unpack an archive into the empty folder `into`. Everything in it is what the manifest says, or this fails.
pub fn unpack(path: &Path, into: &Path) -> Result<Manifest, BackupError> {
    let damaged = |what: String| BackupError::Damaged { path: path.to_owned(), what };
    let unreadable = |error: io::Error| damaged(format!("it cannot be read to its end ({error})"));
    let mut tar = Archive::new(File::open(path).map_err(file_error(path))?);
    let mut entries = tar.entries().map_err(unreadable)?;
    let first = entries.next().ok_or_else(|| damaged("it is empty".to_owned()))?.map_err(unreadable)?;
    if first.path_bytes().as_ref() != MANIFEST.as_bytes() || first.size() > MANIFEST_LIMIT {
        return Err(damaged(format!("it does not begin with {MANIFEST}")));
    }
    let mut text = Vec::new();
    first.take(MANIFEST_LIMIT).read_to_end(&mut text).map_err(unreadable)?;
    let manifest = read_manifest(path, &text)?;
    let mut missing: BTreeMap<&[u8], &KeptFile> =
        manifest.files.iter().map(|file| (file.path.as_bytes(), file)).collect();
    for entry in entries {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path_bytes().into_owned();
        let Some(file) = missing.remove(name.as_slice()) else {
            return Err(damaged(format!("{:?} is not in its list", String::from_utf8_lossy(&name))));
        };
        if !entry.header().entry_type().is_file() || entry.size() != file.size || !is_plain(&file.path) {
            return Err(damaged(format!("{:?} is not the file that its list names", file.path)));
        }
        let target = into.join(&file.path);
        let parent = target.parent().unwrap_or(into);
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(file_error(parent))?;
        let mut out =
            fs::File::options().write(true).create_new(true).mode(0o600).open(&target).map_err(file_error(&target))?;
        let (size, sha256) = copy(&mut entry, &mut out).map_err(unreadable)?;
        if (size, &sha256) != (file.size, &file.sha256) {
            return Err(damaged(format!("{:?} does not have the digest that its list names", file.path)));
        }
        out.sync_all().map_err(file_error(&target))?;
    }
    match missing.values().next() {
        Some(file) => Err(damaged(format!("{:?} is missing", file.path))),
        None => Ok(manifest),
    }
}

fn read_manifest(path: &Path, text: &[u8]) -> Result<Manifest, BackupError> {
    let damaged = |what: String| BackupError::Damaged { path: path.to_owned(), what };
    // A later layout may have other fields: its number is looked at first.
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| damaged(format!("its list cannot be read ({error})")))?;
    let newer = |what| {
        let towline = value["towline"].as_str().unwrap_or("of a later version").chars().take(40).collect();
        BackupError::Newer { path: path.to_owned(), towline, what }
    };
    if value["format"] != FORMAT {
        return Err(newer("archives"));
    }
    let manifest: Manifest =
        serde_json::from_value(value.clone()).map_err(|error| damaged(format!("its list cannot be read ({error})")))?;
    if manifest.schema > newest_schema() {
        return Err(newer("tables"));
    }
    Ok(manifest)
}

/// Whether a name stays within the server directory.
fn is_plain(name: &str) -> bool {
    let parts: Vec<_> = Path::new(name).components().collect();
    parts.len() >= 2
        && parts.iter().all(|part| matches!(part, Component::Normal(_)))
        && parts[0] == Component::Normal("server".as_ref())
}

/// Copy all of it, and say how much that was and its SHA-256.
fn copy(from: &mut dyn io::Read, to: &mut dyn io::Write) -> io::Result<(u64, Digest)> {
    let mut context = Context::new(&SHA256);
    let (mut size, mut piece) = (0, vec![0; PIECE]);
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        context.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        size += read as u64;
    }
    let digest = hex::encode(context.finish().as_ref()).parse().expect("SHA-256 in hexadecimal is a digest");
    Ok((size, digest))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn no_name_leads_out_of_the_server_directory() {
        for name in ["server/towline.db", "server/server.toml.d/50-a.toml"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["server", "server/../x", "../server/x", "/server/x", "hosts/x", "server/./../../x", ""] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
