//! Writing a wheel whose bytes depend on its contents alone: fixed times and modes, sorted names, a fresh RECORD.
//!
//! Owns the archive's form. Reads the files it is given and writes one file; decides nothing about what ships.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use towline_protocol::ids::Digest;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Files of this size and more need the long form of the archive's sizes.
const LARGE_FILE: u64 = u32::MAX as u64;

/// Read size.
const CHUNK: usize = 128 * 1024;

/// What goes into a wheel.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The project's name, with `_` where a file name has one.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its tags, `python-abi-platform`.
    pub tags: Vec<String>,
    /// Whether it holds nothing that was compiled.
    pub pure: bool,
    /// Every file by its path in the archive, without RECORD and WHEEL.
    pub files: BTreeMap<String, Content>,
}

/// The bytes of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Lies on this machine.
    File(PathBuf),
    /// Made by us.
    Text(String),
}

/// Why a wheel could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// A file could not be read.
    #[error("{} could not be read", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was written to while it was packed.
    #[error("{} changed while it was packed", .path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The wheel itself could not be written.
    #[error("{} could not be written", .path.display())]
    Write {
        /// The wheel.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A wheel's contents with the hash of each file: what its bytes will depend on.
#[derive(Clone, Debug)]
pub struct Manifest {
    contents: Contents,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    sha256: [u8; 32],
    size: u64,
    executable: bool,
    content: Content,
}

impl Contents {
    /// The folder of metadata in the archive.
    pub fn metadata_folder(&self) -> String {
        format!("{}-{}.dist-info", self.name, self.version)
    }

    /// The file's name. Several tags are joined the way that wheels of old do it.
    pub fn file_name(&self) -> String {
        let part = |index: usize| {
            let mut parts: Vec<&str> = self.tags.iter().filter_map(|tag| tag.split('-').nth(index)).collect();
            parts.sort_unstable();
            parts.dedup();
            parts.join(".")
        };
        format!("{}-{}-{}-{}-{}.whl", self.name, self.version, part(0), part(1), part(2))
    }

    /// Hash every file. The truth is the content: neither times nor sizes are trusted.
    pub fn hash(mut self) -> Result<Manifest, WheelError> {
        let folder = self.metadata_folder();
        self.files.insert(format!("{folder}/WHEEL"), Content::Text(self.wheel_text()));
        let mut entries = Vec::with_capacity(self.files.len());
        for (path, content) in &self.files {
            let (sha256, size, executable) = match content {
                Content::Text(text) => (hash_of(text.as_bytes()), text.len() as u64, false),
                Content::File(file) => hash_file(file)?,
            };
            entries.push(Entry { path: path.clone(), sha256, size, executable, content: content.clone() });
        }
        Ok(Manifest { contents: self, entries })
    }

    fn wheel_text(&self) -> String {
        let mut tags = self.tags.clone();
        tags.sort_unstable();
        let tags: String = tags.iter().map(|tag| format!("Tag: {tag}\n")).collect();
        let pure = self.pure;
        format!("Wheel-Version: 1.0\nGenerator: towline\nRoot-Is-Purelib: {pure}\n{tags}\n")
    }
}

impl Manifest {
    /// The digest of all that the wheel's bytes depend on.
    pub fn digest(&self) -> Digest {
        let mut text = format!("towline-wheel-v0\n{}\n", self.contents.file_name());
        for entry in &self.entries {
            text += &format!("{} {} {}\n", hex::encode(entry.sha256), u8::from(entry.executable), entry.path);
        }
        Digest::of(text.as_bytes())
    }

    /// The wheel's file name.
    pub fn file_name(&self) -> String {
        self.contents.file_name()
    }

    /// Write the wheel to a new file.
    pub fn write(&self, to: &Path) -> Result<(), WheelError> {
        let failed = |source: io::Error| WheelError::Write { path: to.to_owned(), source };
        let file = File::create(to).map_err(failed)?;
        let mut archive = ZipWriter::new(BufWriter::new(file));
        let mut record = String::new();
        for entry in &self.entries {
            let hash = URL_SAFE_NO_PAD.encode(entry.sha256);
            record += &format!("{},sha256={hash},{}\n", crate::record::quoted(&entry.path), entry.size);
            archive
                .start_file(entry.path.as_str(), options(entry.size, entry.executable))
                .map_err(|e| failed(e.into()))?;
            match &entry.content {
                Content::Text(text) => archive.write_all(text.as_bytes()).map_err(failed)?,
                Content::File(path) => copy(path, &entry.sha256, &mut archive, to)?,
            }
        }
        let list = format!("{}/RECORD", self.contents.metadata_folder());
        record += &format!("{list},,\n");
        archive.start_file(list, options(record.len() as u64, false)).map_err(|e| failed(e.into()))?;
        archive.write_all(record.as_bytes()).map_err(failed)?;
        let file = archive.finish().map_err(|e| failed(e.into()))?;
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
    }
}

fn options(size: u64, executable: bool) -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(6))
        // The archive's first representable moment, as the fixed time of every file.
        .last_modified_time(DateTime::default())
        .unix_permissions(if executable { 0o755 } else { 0o644 })
        .large_file(size >= LARGE_FILE)
}

fn hash_of(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hash_file(path: &Path) -> Result<([u8; 32], u64, bool), WheelError> {
    let failed = |source| WheelError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let executable = is_executable(&file.metadata().map_err(failed)?);
    let (sha256, size) = pump(&mut file, |_| Ok(())).map_err(failed)?;
    Ok((sha256, size, executable))
}

fn copy(path: &Path, wanted: &[u8; 32], archive: &mut impl Write, to: &Path) -> Result<(), WheelError> {
    let mut file = File::open(path).map_err(|source| WheelError::Read { path: path.to_owned(), source })?;
    let mut written = Ok(());
    let outcome = pump(&mut file, |bytes| {
        written = archive.write_all(bytes);
        if written.is_err() { Err(io::Error::other("the wheel could not be written")) } else { Ok(()) }
    });
    written.map_err(|source| WheelError::Write { path: to.to_owned(), source })?;
    let (found, _) = outcome.map_err(|source| WheelError::Read { path: path.to_owned(), source })?;
    if found == *wanted { Ok(()) } else { Err(WheelError::Changed { path: path.to_owned() }) }
}

fn pump(from: &mut File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<([u8; 32], u64)> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        context.update(&buffer[..count]);
        each(&buffer[..count])?;
        size += count as u64;
    }
    Ok((context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"), size))
}

/// SHA-256 and size of a file.
pub fn digest_of(path: &Path) -> io::Result<(Digest, u64)> {
    let (sha256, size) = pump(&mut File::open(path)?, |_| Ok(()))?;
    Ok((Digest::from_sha256(sha256), size))
}

#[cfg(unix)]
fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    fn contents(folder: &Path) -> Contents {
        let files = [("pkg/__init__.py", "__init__.py"), ("pkg/data, more.csv", "data.csv")];
        let mut files: BTreeMap<String, Content> =
            files.into_iter().map(|(to, from)| (to.to_owned(), Content::File(folder.join(from)))).collect();
        files.insert("pkg-1.0.dist-info/METADATA".to_owned(), Content::Text("Name: pkg\nVersion: 1.0\n".to_owned()));
        let tags = vec!["py3-none-any".to_owned()];
        Contents { name: "pkg".to_owned(), version: "1.0".to_owned(), tags, pure: true, files }
    }

    fn written(folder: &Path) -> Vec<u8> {
        let to = folder.join("out.whl");
        contents(folder).hash().expect("hashes").write(&to).expect("writes");
        fs::read(to).expect("was written")
    }

    fn sample() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a directory");
        fs::write(folder.path().join("__init__.py"), "x = 1\n").expect("writes");
        fs::write(folder.path().join("data.csv"), "a,b\n".repeat(1000)).expect("writes");
        folder
    }

    #[test]
    fn the_same_contents_give_the_same_bytes_whatever_their_times() {
        let folder = sample();
        let first = written(folder.path());
        let touched = File::options().append(true).open(folder.path().join("data.csv")).expect("opens");
        touched.set_modified(SystemTime::now() - Duration::from_secs(1_000_000)).expect("sets the time");
        assert_eq!(written(folder.path()), first);
        assert_eq!(written(sample().path()), first);
    }

    #[test]
    fn one_edited_byte_gives_another_wheel() {
        let folder = sample();
        let (first, digest) = (written(folder.path()), contents(folder.path()).hash().expect("hashes").digest());
        fs::write(folder.path().join("__init__.py"), "x = 2\n").expect("writes");
        assert_ne!(written(folder.path()), first);
        assert_ne!(contents(folder.path()).hash().expect("hashes").digest(), digest);
    }

    #[test]
    fn refuses_a_file_that_changed_after_it_was_hashed() {
        let folder = sample();
        let manifest = contents(folder.path()).hash().expect("hashes");
        fs::write(folder.path().join("__init__.py"), "x = 3\n").expect("writes");
        let outcome = manifest.write(&folder.path().join("out.whl"));
        assert!(matches!(outcome, Err(WheelError::Changed { .. })), "{outcome:?}");
    }

    #[test]
    fn the_record_lists_every_file_with_its_hash() {
        let folder = sample();
        written(folder.path());
        let file = File::open(folder.path().join("out.whl")).expect("opens");
        let mut archive = zip::ZipArchive::new(file).expect("an archive");
        let mut record = String::new();
        archive.by_name("pkg-1.0.dist-info/RECORD").expect("has one").read_to_string(&mut record).expect("reads");
        let mut listed = crate::record::paths(&record).expect("a record");
        let mut there: Vec<String> = archive.file_names().map(str::to_owned).collect();
        listed.sort();
        there.sort();
        assert_eq!(listed, there);
        assert!(record.contains("\"pkg/data, more.csv\",sha256="), "{record}");
    }

    #[test]
    fn several_tags_are_one_file_name() {
        let folder = sample();
        let mut several = contents(folder.path());
        several.tags =
            vec!["cp311-cp311-manylinux_2_17_x86_64".to_owned(), "cp311-cp311-manylinux2014_x86_64".to_owned()];
        assert_eq!(several.file_name(), "pkg-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl");
    }
}
