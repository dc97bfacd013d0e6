//! Which wheels fit which host. Pure.
//!
//! Hosts run Linux with glibc; a wheel for anything else fits none of them. `uv` chooses by the same rules while it
//! solves: this file answers for wheels that never saw an index, and picks the best of several that fit.

use crate::names::Tag;
use std::fmt;
use std::str::FromStr;

/// A machine and its C library, as `x86_64-manylinux_2_36`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The machine, e.g. `x86_64` or `aarch64`.
    pub machine: String,
    /// The version of glibc.
    pub glibc: (u32, u32),
}

/// A text that names no platform of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform like x86_64-manylinux_2_36")]
pub struct PlatformError(pub String);

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let refuse = || PlatformError(text.chars().take(80).collect());
        let (machine, library) = text.split_once("-manylinux_").ok_or_else(refuse)?;
        let (major, minor) = library.split_once('_').ok_or_else(refuse)?;
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() <= 3);
        if machine.is_empty() || machine.len() > 20 || !machine.bytes().all(word) {
            return Err(refuse());
        }
        let glibc = (number(major).ok_or_else(refuse)?, number(minor).ok_or_else(refuse)?);
        Ok(Self { machine: machine.to_owned(), glibc })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-manylinux_{}_{}", self.machine, self.glibc.0, self.glibc.1)
    }
}

/// Major and minor number of a CPython version such as `3.11.2`.
pub fn minor_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let number = |text: &str| text.parse::<u32>().ok();
    Some((number(parts.next()?)?, number(parts.next()?)?))
}

/// How well a wheel fits; greater is better. Closest binary interface first, then newest Python, then newest glibc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fit {
    interface: u8,
    python: u32,
    glibc: (u32, u32),
}

/// How a wheel with this tag fits CPython `python` on `target`, or `None` when it does not.
///
/// `built_on` is the machine on which a wheel with a bare `linux_…` tag was compiled: such a wheel asks for that
/// machine's glibc, of which the tag says nothing. `None` refuses bare tags.
pub fn fit(tag: &Tag, python: (u32, u32), target: &Platform, built_on: Option<&Platform>) -> Option<Fit> {
    let glibc = tag.platform.split('.').filter_map(|one| platform_fit(one, target, built_on)).max()?;
    let mut best = None;
    for abi in tag.abi.split('.') {
        for tag_python in tag.python.split('.') {
            let fit =
                interface_fit(tag_python, abi, python).map(|(interface, python)| Fit { interface, python, glibc });
            best = best.max(fit);
        }
    }
    best
}

fn platform_fit(tag: &str, target: &Platform, built_on: Option<&Platform>) -> Option<(u32, u32)> {
    if tag == "any" {
        return Some((0, 0));
    }
    let needed = if let Some(machine) = tag.strip_prefix("linux_") {
        let here = built_on.filter(|here| here.machine == machine)?;
        (machine, here.glibc)
    } else if let Some(rest) = tag.strip_prefix("manylinux_") {
        let mut parts = rest.splitn(3, '_');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (parts.next()?, (major, minor))
    } else {
        // The names of before PEP 600, each for one version of glibc.
        [("manylinux1_", (2, 5)), ("manylinux2010_", (2, 12)), ("manylinux2014_", (2, 17))]
            .into_iter()
            .find_map(|(prefix, glibc)| tag.strip_prefix(prefix).map(|machine| (machine, glibc)))?
    };
    (needed.0 == target.machine && needed.1 <= target.glibc).then_some(needed.1)
}

fn interface_fit(tag: &str, abi: &str, python: (u32, u32)) -> Option<(u8, u32)> {
    let version = |digits: &str| -> Option<(u32, Option<u32>)> {
        let major = digits.get(..1)?.parse().ok()?;
        match digits.get(1..)? {
            "" => Some((major, None)),
            minor => Some((major, Some(minor.parse().ok()?))),
        }
    };
    if let Some(digits) = tag.strip_prefix("cp") {
        let (major, minor) = version(digits)?;
        let exact = (major, minor) == (python.0, Some(python.1));
        return match abi {
            "abi3" if major == python.0 && minor.is_none_or(|minor| minor <= python.1) => Some((3, minor.unwrap_or(0))),
            "none" if exact => Some((2, python.1)),
            _ if exact && abi == tag => Some((4, python.1)),
            _ => None,
        };
    }
    let (major, minor) = version(tag.strip_prefix("py")?)?;
    let fits = abi == "none" && major == python.0 && minor.is_none_or(|minor| minor <= python.1);
    fits.then_some((1, minor.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    #[test]
    fn a_wheel_fits_by_interpreter_machine_and_glibc() {
        let target = platform("x86_64-manylinux_2_36");
        let cases = [
            ("py3-none-any", true),
            ("py2.py3-none-any", true),
            ("py2-none-any", false),
            ("py311-none-any", true),
            ("py312-none-any", false),
            ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", true),
            ("cp311-cp311-manylinux_2_36_x86_64", true),
            ("cp311-cp311-manylinux_2_37_x86_64", false),
            ("cp311-cp311-manylinux2014_aarch64", false),
            ("cp311-cp311-manylinux1_x86_64", true),
            ("cp310-cp310-manylinux2014_x86_64", false),
            ("cp311-cp311t-manylinux2014_x86_64", false),
            ("cp39-abi3-manylinux2014_x86_64", true),
            ("cp312-abi3-manylinux2014_x86_64", false),
            ("cp311-none-any", true),
            ("cp311-cp311-musllinux_1_2_x86_64", false),
            ("cp311-cp311-macosx_11_0_arm64", false),
            ("cp311-cp311-win_amd64", false),
            ("pp311-pypy311_pp73-manylinux2014_x86_64", false),
            ("cp311-cp311-linux_x86_64", true),
            ("cp311-cp311-linux_aarch64", false),
        ];
        let here = platform("x86_64-manylinux_2_31");
        for (text, wanted) in cases {
            let tag = Tag::parse(text).expect("a tag");
            assert_eq!(fit(&tag, (3, 11), &target, Some(&here)).is_some(), wanted, "{text}");
        }
    }

    #[test]
    fn code_compiled_here_asks_for_the_glibc_of_here() {
        let tag = Tag::parse("cp311-cp311-linux_x86_64").expect("a tag");
        let (old, new) = (platform("x86_64-manylinux_2_31"), platform("x86_64-manylinux_2_39"));
        assert!(fit(&tag, (3, 11), &new, Some(&old)).is_some());
        assert!(fit(&tag, (3, 11), &old, Some(&new)).is_none());
        assert!(fit(&tag, (3, 11), &old, None).is_none());
    }

    #[test]
    fn the_closest_binary_interface_wins() {
        let target = platform("x86_64-manylinux_2_36");
        let order = [
            "py3-none-any",
            "cp38-abi3-manylinux2014_x86_64",
            "cp310-abi3-manylinux2014_x86_64",
            "cp311-cp311-manylinux2014_x86_64",
            "cp311-cp311-manylinux_2_28_x86_64",
        ];
        let fits: Vec<_> =
            order.iter().map(|text| fit(&Tag::parse(text).expect("a tag"), (3, 11), &target, None)).collect();
        assert!(fits.windows(2).all(|pair| pair[0] < pair[1]), "{fits:?}");
    }

    #[test]
    fn refuses_texts_that_name_no_platform() {
        for bad in ["", "x86_64", "x86_64-manylinux2014", "arm64-macos", "a b-manylinux_2_36", "x-manylinux_2_9999"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
        assert_eq!(platform("aarch64-manylinux_2_35").to_string(), "aarch64-manylinux_2_35");
    }
}
