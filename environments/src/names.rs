//! Names, versions and wheel file names: what their texts may be.
//!
//! Everything that ends up in a path or in a line of a requirements file passes through here. Pure.

use std::fmt;

/// Longest file name that the file systems we meet take.
const MAX_FILE_NAME: usize = 255;

/// Longest project name or version that is read.
const MAX_WORD: usize = 128;

/// A project's name in the one spelling that compares equal: lower case, runs of `-`, `_` and `.` as one `-`.
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.split(['-', '_', '.']).filter(|part| !part.is_empty()) {
        if !out.is_empty() {
            out.push('-');
        }
        out.push_str(&part.to_lowercase());
    }
    out
}

/// Whether a text is a project's name in its normalised spelling.
pub fn is_normalised(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !name.is_empty() && name.len() <= MAX_WORD && letters && normalise(name) == name
}

/// Whether a text can be a version: letters that mean nothing to a shell, a path or a requirements file.
pub fn is_version(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'!' | b'+' | b'_' | b'-'));
    first && rest && text.len() <= MAX_WORD && !text.contains("..")
}

/// Why a text is not a wheel's file name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    /// A separator, a control character or anything else that has no place in a wheel's name.
    #[error("the file name {0:?} holds a character that a wheel's name cannot hold")]
    Character(String),
    /// Not `name-version(-build)-python-abi-platform.whl`.
    #[error("the file name {0:?} is not of the form name-version-python-abi-platform.whl")]
    Form(String),
}

/// A wheel's file name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelFileName {
    /// The project, normalised.
    pub name: String,
    /// The version as it stands there.
    pub version: String,
    /// Its tags; a compressed set may stand in each part.
    pub tag: Tag,
}

/// `python-abi-platform`; each part may be several, joined by dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// For which Python, e.g. `cp311` or `py2.py3`.
    pub python: String,
    /// Against which binary interface, e.g. `cp311`, `abi3` or `none`.
    pub abi: String,
    /// For which machine and system, e.g. `manylinux_2_17_x86_64.manylinux2014_x86_64` or `any`.
    pub platform: String,
}

impl Tag {
    /// Read `python-abi-platform`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (python, abi, platform) = (parts.next()?, parts.next()?, parts.next()?);
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
        };
        let whole = parts.next().is_none() && word(python) && word(abi) && word(platform);
        whole.then(|| Self { python: python.to_owned(), abi: abi.to_owned(), platform: platform.to_owned() })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.python, self.abi, self.platform)
    }
}

impl WheelFileName {
    /// Take a file name apart. Refuses separators, so the name is safe as a path component.
    pub fn parse(file: &str) -> Result<Self, FileNameError> {
        let cut = || file.chars().take(120).collect::<String>();
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'!');
        if file.len() > MAX_FILE_NAME || !file.bytes().all(fits) {
            return Err(FileNameError::Character(cut()));
        }
        let form = || FileNameError::Form(cut());
        let stem = file.strip_suffix(".whl").ok_or_else(form)?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (head, tag) = match parts.as_slice() {
            [name, version, tag @ ..] if tag.len() == 3 => ((*name, *version), tag),
            // A build number starts with a digit.
            [name, version, build, tag @ ..]
                if tag.len() == 3 && build.bytes().next().is_some_and(|b| b.is_ascii_digit()) =>
            {
                ((*name, *version), tag)
            }
            _ => return Err(form()),
        };
        let name = normalise(head.0);
        let tag = Tag::parse(&tag.join("-")).ok_or_else(form)?;
        if !is_normalised(&name) || !is_version(head.1) || head.0.starts_with('.') {
            return Err(form());
        }
        Ok(Self { name, version: head.1.to_owned(), tag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_in_one_spelling() {
        for (given, wanted) in [("PyYAML", "pyyaml"), ("zope.interface", "zope-interface"), ("a__b-.c", "a-b-c")] {
            assert_eq!(normalise(given), wanted);
            assert!(is_normalised(wanted));
        }
        for bad in ["", "A", "a--b", "-a", "a_b", "a b", "a\nb", "../a"] {
            assert!(!is_normalised(bad), "{bad:?}");
        }
    }

    #[test]
    fn versions_hold_nothing_that_a_requirements_line_would_read() {
        for good in ["1", "2026.8.0", "1!2.0rc1", "1.0+cu121", "1.0.post1", "1.0_1"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "1 --hash=x", "1;python_version>'3'", "1\n-r x", "../1", "1/2", "-1", "1..2"] {
            assert!(!is_version(bad), "{bad:?}");
        }
    }

    #[test]
    fn takes_wheel_names_apart() {
        let read = WheelFileName::parse("msgpack-1.2.4-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl");
        let read = read.expect("a real name");
        assert_eq!((read.name.as_str(), read.version.as_str()), ("msgpack", "1.2.4"));
        assert_eq!(read.tag.platform, "manylinux_2_17_x86_64.manylinux2014_x86_64");
        let built = WheelFileName::parse("Zope.Interface-1.0-2abc-py3-none-any.whl").expect("with a build number");
        assert_eq!(built.name, "zope-interface");
    }

    #[test]
    fn refuses_file_names_with_separators_or_of_another_form() {
        for bad in [
            "../a-1-py3-none-any.whl",
            "a/b-1-py3-none-any.whl",
            "a\\b-1-py3-none-any.whl",
            "a-1-py3-none-any.whl\0",
            "a-1-py3-none-any.zip",
            "a-1-py3-none.whl",
            "a-1-x-py3-none-any.whl",
            "-1-py3-none-any.whl",
            "..-1-py3-none-any.whl",
            "a-1-py3-none-any.whl/..",
            "a b-1-py3-none-any.whl",
            "",
        ] {
            assert!(WheelFileName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(WheelFileName::parse(&format!("{}-1-py3-none-any.whl", "a".repeat(300))).is_err());
    }
}
