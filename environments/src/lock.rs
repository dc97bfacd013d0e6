//! The lock: the exact wheels of an environment, each with its hash. An environment is named by the lock's digest.
//!
//! Owns the lock's one byte form and its strict reading. Pure. A lock is read on hosts from bytes that others wrote, so
//! every name in it is checked for what it will become there: a path component and a line of a requirements file.

use crate::names::{self, WheelFileName};
use crate::tags::Platform;
use serde::{Deserialize, Serialize};
use towline_protocol::ids::Digest;
use towline_protocol::strict::{self, StrictError};
use url::Url;

/// Version of the lock's form.
pub const LOCK_VERSION: u32 = 0;

/// Longest index address that is read.
const MAX_URL: usize = 2000;

/// Why bytes are not a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Not strict JSON of a lock's shape.
    #[error("the lock is not of the expected shape")]
    Document(#[from] StrictError),
    /// Not what its digest says.
    #[error("the lock's bytes do not have the digest {wanted}")]
    Digest {
        /// The digest it was fetched by.
        wanted: Digest,
    },
    /// Another version of the form.
    #[error("the lock has version {0}, this program reads version {LOCK_VERSION}")]
    Version(u32),
    /// One field holds something that cannot be used.
    #[error("the lock's {field} of {package} cannot be used: {found:?}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Of which package, or `the environment`.
        package: String,
        /// What it holds, cut to 120 characters.
        found: String,
    },
    /// Two wheels of one project, or wheels out of order.
    #[error("the lock names {0} twice or out of order")]
    Order(String),
}

/// The exact wheels of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Version of the form.
    pub v: u32,
    /// The interpreter the wheels were chosen for.
    pub interpreter: LockedInterpreter,
    /// The platform they were chosen for, e.g. `x86_64-manylinux_2_36`.
    pub platform: String,
    /// The wheels, sorted by name.
    pub wheels: Vec<LockedWheel>,
}

/// The interpreter of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedInterpreter {
    /// Implementation in lower case, e.g. `cpython`.
    pub implementation: String,
    /// Full version, e.g. `3.11.2`.
    pub version: String,
}

/// One wheel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedWheel {
    /// The project's name, normalised.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file's name.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Its size in bytes; not every index says it.
    pub size: Option<u64>,
    /// Where it is read from.
    pub source: WheelSource,
}

/// Where a wheel is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WheelSource {
    /// From the workspace's blob store, by its hash.
    Blob,
    /// From a package index that asks for no credentials, at this address.
    Index(String),
}

impl Lock {
    /// A lock of these wheels, sorted and checked.
    pub fn new(
        interpreter: LockedInterpreter,
        platform: &Platform,
        mut wheels: Vec<LockedWheel>,
    ) -> Result<Self, LockError> {
        wheels.sort_by(|a, b| a.name.cmp(&b.name));
        let lock = Self { v: LOCK_VERSION, interpreter, platform: platform.to_string(), wheels };
        lock.check()?;
        Ok(lock)
    }

    /// The one byte form: compact JSON with the fields in their written order. The same lock gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    /// Read a lock and check all that it says.
    pub fn parse(bytes: &[u8]) -> Result<Self, LockError> {
        let lock: Self = strict::from_slice(bytes)?;
        lock.check()?;
        Ok(lock)
    }

    /// Read the lock that has this digest.
    pub fn parse_as(bytes: &[u8], wanted: &Digest) -> Result<Self, LockError> {
        if Digest::of(bytes) != *wanted {
            return Err(LockError::Digest { wanted: wanted.clone() });
        }
        Self::parse(bytes)
    }

    fn check(&self) -> Result<(), LockError> {
        if self.v != LOCK_VERSION {
            return Err(LockError::Version(self.v));
        }
        let environment = |field, found: &str| field_error(field, "the environment", found);
        let implementation = &self.interpreter.implementation;
        if !names::is_normalised(implementation) {
            return Err(environment("implementation", implementation));
        }
        if !names::is_version(&self.interpreter.version) {
            return Err(environment("interpreter version", &self.interpreter.version));
        }
        if self.platform.parse::<Platform>().is_err() {
            return Err(environment("platform", &self.platform));
        }
        for wheel in &self.wheels {
            wheel.check()?;
        }
        match self.wheels.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            Some(pair) => Err(LockError::Order(pair[1].name.clone())),
            None => Ok(()),
        }
    }
}

fn field_error(field: &'static str, package: &str, found: &str) -> LockError {
    LockError::Field { field, package: package.to_owned(), found: found.chars().take(120).collect() }
}

impl LockedWheel {
    fn check(&self) -> Result<(), LockError> {
        if !names::is_normalised(&self.name) {
            return Err(field_error("name", "a package", &self.name));
        }
        let wrong = |field, found: &str| field_error(field, &self.name, found);
        if !names::is_version(&self.version) {
            return Err(wrong("version", &self.version));
        }
        match WheelFileName::parse(&self.file) {
            Ok(file) if file.name == self.name => {}
            _ => return Err(wrong("file", &self.file)),
        }
        match &self.source {
            WheelSource::Index(url) if public_address(url).is_none() => Err(wrong("index", "an address")),
            _ => Ok(()),
        }
    }
}

/// An address that hosts can read without credentials: http or https, no user, password, query or fragment.
/// A query may be a capability, so such an address is never written into a lock.
pub fn public_address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= MAX_URL)?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let reachable = matches!(url.scheme(), "http" | "https") && url.host().is_some() && url.fragment().is_none();
    (plain && reachable).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wheel(name: &str) -> LockedWheel {
        LockedWheel {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            file: format!("{}-1.0-py3-none-any.whl", name.replace('-', "_")),
            sha256: Digest::of(name.as_bytes()),
            size: Some(7),
            source: WheelSource::Index(format!("https://index.example/{name}.whl")),
        }
    }

    fn lock(wheels: Vec<LockedWheel>) -> Lock {
        Lock {
            v: 0,
            interpreter: LockedInterpreter { implementation: "cpython".to_owned(), version: "3.11.2".to_owned() },
            platform: "x86_64-manylinux_2_36".to_owned(),
            wheels,
        }
    }

    #[test]
    fn a_lock_has_one_byte_form() {
        let one = lock(vec![LockedWheel { source: WheelSource::Blob, size: None, ..wheel("a") }]);
        let text = String::from_utf8(one.to_bytes()).expect("JSON");
        let digest = Digest::of(b"a");
        let wanted = format!(
            concat!(
                r#"{{"v":0,"interpreter":{{"implementation":"cpython","version":"3.11.2"}},"#,
                r#""platform":"x86_64-manylinux_2_36","wheels":[{{"name":"a","version":"1.0","#,
                r#""file":"a-1.0-py3-none-any.whl","sha256":"{}","size":null,"source":"blob"}}]}}"#
            ),
            digest
        );
        assert_eq!(text, wanted);
        let indexed = String::from_utf8(lock(vec![wheel("a")]).to_bytes()).expect("JSON");
        assert!(indexed.contains(r#""source":{"index":"https://index.example/a.whl"}"#), "{indexed}");
    }

    #[test]
    fn refuses_names_that_would_leave_their_place_on_a_host() {
        type Change = fn(&mut LockedWheel);
        let cases: [(&str, Change); 9] = [
            ("file", |w| w.file = "../a-1.0-py3-none-any.whl".to_owned()),
            ("file", |w| w.file = "x/a-1.0-py3-none-any.whl".to_owned()),
            ("file", |w| w.file = "b-1.0-py3-none-any.whl".to_owned()),
            ("name", |w| w.name = "a/../b".to_owned()),
            ("version", |w| w.version = "1.0 --hash=sha256:0".to_owned()),
            ("version", |w| w.version = "1.0\n-r /etc/passwd".to_owned()),
            ("index", |w| w.source = WheelSource::Index("https://me:secret@index.example/a.whl".to_owned())),
            ("index", |w| w.source = WheelSource::Index("file:///etc/passwd".to_owned())),
            ("index", |w| w.source = WheelSource::Index("https://index.example/a.whl?token=x".to_owned())),
        ];
        for (wanted, change) in cases {
            let mut bad = wheel("a");
            change(&mut bad);
            match Lock::parse(&lock(vec![bad.clone()]).to_bytes()) {
                Err(LockError::Field { field, found, .. }) => {
                    assert_eq!(field, wanted);
                    assert!(!found.contains("secret"));
                }
                other => panic!("{bad:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn refuses_two_wheels_of_one_project_and_other_orders() {
        for names in [["a", "a"], ["b", "a"]] {
            let bytes = lock(names.map(wheel).to_vec()).to_bytes();
            assert_eq!(Lock::parse(&bytes), Err(LockError::Order("a".to_owned())));
        }
        let mut newer = lock(vec![]);
        newer.v = 1;
        assert_eq!(Lock::parse(&newer.to_bytes()), Err(LockError::Version(1)));
    }

    #[test]
    fn refuses_bytes_of_another_digest() {
        let bytes = lock(vec![wheel("a")]).to_bytes();
        assert!(Lock::parse_as(&bytes, &Digest::of(&bytes)).is_ok());
        let other = Digest::of(b"other");
        assert_eq!(Lock::parse_as(&bytes, &other), Err(LockError::Digest { wanted: other }));
    }

    prop_compose! {
        fn any_wheel()(
            name in "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5}){0,2}",
            version in "[0-9]{1,4}(\\.[0-9]{1,3}){0,3}(rc[0-9]|\\.post[0-9])?(\\+[a-z0-9]{1,5})?",
            tag in prop_oneof!["py3-none-any", "cp311-cp311-manylinux_2_[0-9]{2}_x86_64", "cp39-abi3-linux_aarch64"],
            hash in any::<[u8; 32]>(),
            size in any::<Option<u64>>(),
            path in prop_oneof![Just(None), "[a-z0-9/%._-]{1,40}".prop_map(Some)],
        ) -> LockedWheel {
            LockedWheel {
                file: format!("{}-{version}-{tag}.whl", name.replace('-', "_")),
                name,
                version,
                sha256: Digest::from_sha256(hash),
                size,
                source: path.map_or(WheelSource::Blob, |path| WheelSource::Index(format!("https://i.example/{path}"))),
            }
        }
    }

    proptest! {
        #[test]
        fn printing_and_reading_a_lock_are_inverse(mut wheels in proptest::collection::vec(any_wheel(), 0..12)) {
            wheels.sort_by(|a, b| a.name.cmp(&b.name));
            wheels.dedup_by(|a, b| a.name == b.name);
            let printed = lock(wheels).to_bytes();
            let read = Lock::parse(&printed).expect("it was made of checked parts");
            prop_assert_eq!(read.to_bytes(), printed);
        }

        #[test]
        fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Lock::parse(&bytes);
        }
    }
}
