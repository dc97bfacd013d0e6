//! Reading what `uv` solved: `pylock.toml` (PEP 751), as far as wheels go. Pure.

use crate::names::{self, WheelFileName};
use crate::tags::{self, Platform};
use serde::Deserialize;
use towline_protocol::ids::Digest;
use url::Url;

/// Why the solver's answer could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the solver's answer could not be read: {0}")]
pub struct PylockError(pub String);

/// A project that was solved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solved {
    /// Its name, normalised.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its wheels, as the index lists them.
    pub wheels: Vec<SolvedWheel>,
}

/// A wheel of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SolvedWheel {
    /// Its file name.
    pub file: String,
    /// Where it lies.
    pub url: Url,
    /// SHA-256, as the index says it.
    pub sha256: Digest,
    /// Its size, when the index says it.
    pub size: Option<u64>,
}

// Fields of the standard that are of no use here are passed over; it may grow.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    #[serde(default)]
    wheels: Vec<Wheel>,
}

#[derive(Deserialize)]
struct Wheel {
    name: Option<String>,
    url: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: Hashes,
}

#[derive(Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

/// Read a `pylock.toml`. Wheels that have no address, no SHA-256 or no proper name are left out.
pub fn parse(text: &str) -> Result<Vec<Solved>, PylockError> {
    let document: Document = toml::from_str(text).map_err(|error| PylockError(error.message().to_owned()))?;
    let solved = document.packages.into_iter().filter_map(|package| {
        let wheels = package.wheels.iter().filter_map(wheel).collect();
        Some(Solved { name: names::normalise(&package.name), version: package.version?, wheels })
    });
    Ok(solved.collect())
}

fn wheel(found: &Wheel) -> Option<SolvedWheel> {
    let mut url = Url::parse(found.url.as_deref()?).ok()?;
    // A fragment repeats the hash.
    url.set_fragment(None);
    let last = url.path_segments()?.next_back()?;
    let file = found.name.clone().or_else(|| percent_decoded(last))?;
    WheelFileName::parse(&file).ok()?;
    let sha256 = found.hashes.sha256.as_deref()?.parse().ok()?;
    Some(SolvedWheel { file, url, sha256, size: found.size })
}

/// Percent-decoding of one path segment; `None` for what is no text.
pub fn percent_decoded(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// The wheel that fits best, or `None` when none fits.
pub fn best<'a>(wheels: &'a [SolvedWheel], python: (u32, u32), target: &Platform) -> Option<&'a SolvedWheel> {
    let ranked = wheels.iter().filter_map(|wheel| {
        let name = WheelFileName::parse(&wheel.file).ok()?;
        Some((tags::fit(&name.tag, python, target, None)?, wheel))
    });
    // The name decides between equals, so that the order in which an index lists them does not.
    ranked.max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.file.cmp(&a.1.file))).map(|(_, wheel)| wheel)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37";

    fn sample(wheels: &str) -> Vec<Solved> {
        parse(&format!("lock-version = \"1.0\"\n[[packages]]\nname = \"Some.Thing\"\nversion = \"1.0+cu1\"\n{wheels}"))
            .expect("a pylock")
    }

    #[test]
    fn reads_names_from_addresses() {
        let wheels = format!(
            "wheels = [{{ url = \"https://f.example/a/some_thing-1.0%2Bcu1-py3-none-any.whl#sha256={HASH}\", \
             hashes = {{ sha256 = \"{HASH}\" }}, size = 12 }}]"
        );
        let solved = sample(&wheels);
        assert_eq!(solved[0].name, "some-thing");
        let wheel = &solved[0].wheels[0];
        assert_eq!((wheel.file.as_str(), wheel.size), ("some_thing-1.0+cu1-py3-none-any.whl", Some(12)));
        assert_eq!(wheel.url.fragment(), None);
    }

    #[test]
    fn passes_over_wheels_that_nobody_could_fetch_or_check() {
        for wheel in [
            "{ path = \"/opt/x-1-py3-none-any.whl\", hashes = { sha256 = \"H\" } }",
            "{ url = \"https://f.example/some_thing-1-py3-none-any.whl\", hashes = {} }",
            "{ url = \"https://f.example/..%2Fsome_thing-1-py3-none-any.whl\", hashes = { sha256 = \"H\" } }",
            "{ url = \"https://f.example/x%0a-1-py3-none-any.whl\", hashes = { sha256 = \"H\" } }",
        ] {
            let solved = sample(&format!("wheels = [{}]", wheel.replace("\"H\"", &format!("\"{HASH}\""))));
            assert_eq!(solved[0].wheels, [], "{wheel}");
        }
        assert_eq!(sample("sdist = { url = \"https://f.example/x.tar.gz\" }")[0].wheels, []);
        assert!(parse("packages = 3").is_err());
    }

    #[test]
    fn the_best_wheel_does_not_depend_on_the_order_of_the_list() {
        let wheel = |tag: &str| SolvedWheel {
            file: format!("x-1-{tag}.whl"),
            url: Url::parse("https://f.example/x").expect("an address"),
            sha256: Digest::of(tag.as_bytes()),
            size: None,
        };
        let mut wheels: Vec<_> = [
            "py3-none-any",
            "cp39-abi3-manylinux2014_x86_64",
            "cp311-cp311-manylinux_2_17_x86_64",
            "cp311-cp311-manylinux2014_x86_64",
            "cp311-cp311-manylinux2014_aarch64",
        ]
        .map(wheel)
        .to_vec();
        let target: Platform = "x86_64-manylinux_2_36".parse().expect("a platform");
        let first = best(&wheels, (3, 11), &target).cloned();
        wheels.reverse();
        assert_eq!(best(&wheels, (3, 11), &target).cloned(), first);
        assert_eq!(first.expect("one fits").file, "x-1-cp311-cp311-manylinux2014_x86_64.whl");
    }
}
