//! PURE: the short word by which a person names a client key to the owner of a cluster, over a road of their own.
//!
//! Owns its making from a key and its reading from what somebody types. The owner's side makes the code of each key that
//! the control plane shows and signs only for the one whose code it was told: a swapped key has another code.

use crate::ids::{ClusterId, Spki};
use aws_lc_rs::digest::{SHA256, digest};
use std::fmt;
use std::str::FromStr;

/// What is hashed begins with this, so that no other hash of ours can be taken for a code.
const DOMAIN: &str = "TowlineAdmissionCodev0";

/// Crockford's digits: none of I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Bytes of the hash that are kept: 80 bits. Whoever swaps a key must find another one with the same code within the
/// hour that a request lives.
const BYTES: usize = 10;

/// Characters of a code: five bits each.
const CHARACTERS: usize = BYTES * 8 / 5;

/// Characters of a group.
const GROUP: usize = 4;

/// The code of one client key in one cluster: `7F3A-9KQ2-0RSW-41XZ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdmissionCode([u8; BYTES]);

impl AdmissionCode {
    /// The code of a key that asks to join a cluster.
    pub fn of(cluster: &ClusterId, spki: &Spki) -> Self {
        let (name, key) = (cluster.as_str(), spki.der());
        // Each part stands behind its length, as in the envelopes: no two pairs make the same bytes.
        let mut said = format!("{DOMAIN} {} {name} {} ", name.len(), key.len()).into_bytes();
        said.extend_from_slice(&key);
        let mut kept = [0; BYTES];
        kept.copy_from_slice(&digest(&SHA256, &said).as_ref()[..BYTES]);
        Self(kept)
    }
}

impl fmt::Display for AdmissionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = self.0.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        let mut text = [0; CHARACTERS];
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        for (number, group) in text.chunks(GROUP).enumerate() {
            let dash = if number == 0 { "" } else { "-" };
            write!(f, "{dash}{}", std::str::from_utf8(group).expect("the alphabet is ASCII"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for AdmissionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was typed is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It has another number of characters.
    #[error("it has {found} characters, and a code has 16, in four groups: XXXX-XXXX-XXXX-XXXX")]
    Length {
        /// How many.
        found: usize,
    },
    /// A character that no code has.
    #[error("{0:?} is in no code: they hold digits and letters without U")]
    Character(char),
}

impl FromStr for AdmissionCode {
    type Err = CodeError;

    /// Small letters, other groups and the look-alikes O, I and L are read as meant.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let typed = || text.chars().filter(|typed| !typed.is_whitespace() && *typed != '-');
        let found = typed().count();
        if found != CHARACTERS {
            return Err(CodeError::Length { found });
        }
        let mut bits = 0_u128;
        for character in typed() {
            bits = bits << 5 | value(character).ok_or(CodeError::Character(character))?;
        }
        let mut kept = [0; BYTES];
        kept.copy_from_slice(&bits.to_be_bytes()[size_of::<u128>() - BYTES..]);
        Ok(Self(kept))
    }
}

fn value(character: char) -> Option<u128> {
    let meant = match character.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    ALPHABET.iter().position(|digit| char::from(*digit) == meant).map(|value| value as u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spki(last: u8) -> Spki {
        let mut der = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
        der.push(4);
        der.extend([7; 63]);
        der.push(last);
        Spki::from_der(&der).expect("a key")
    }

    #[test]
    fn another_key_and_another_cluster_have_another_code() {
        let (here, there) = (ClusterId::from_random([1; 10]), ClusterId::from_random([2; 10]));
        let code = AdmissionCode::of(&here, &spki(1));
        assert_eq!(code, AdmissionCode::of(&here, &spki(1)));
        assert_ne!(code, AdmissionCode::of(&here, &spki(2)));
        assert_ne!(code, AdmissionCode::of(&there, &spki(1)));
    }

    #[test]
    fn a_code_is_read_as_it_was_meant() {
        let code = AdmissionCode([0x08, 0x42, 0x10, 0x84, 0x21, 0x08, 0x42, 0x10, 0x84, 0x20]);
        assert_eq!(code.to_string(), "1111-1111-1111-1110");
        for typed in ["1111-1111-1111-1110", "1111111111111110", " iIlL-1111 1111-111o ", "1-1-1-1-1111-11111110"] {
            assert_eq!(typed.parse(), Ok(code), "{typed:?}");
        }
    }

    #[test]
    fn what_is_no_code_says_why() {
        assert_eq!("7F3A".parse::<AdmissionCode>(), Err(CodeError::Length { found: 4 }));
        assert_eq!("".parse::<AdmissionCode>(), Err(CodeError::Length { found: 0 }));
        assert_eq!("1111-1111-1111-111U".parse::<AdmissionCode>(), Err(CodeError::Character('U')));
        assert_eq!("1111-1111-1111-111é".parse::<AdmissionCode>(), Err(CodeError::Character('é')));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bytes in any::<[u8; BYTES]>(), small in any::<bool>()) {
            let shown = AdmissionCode(bytes).to_string();
            prop_assert_eq!(shown.len(), 19);
            let typed = if small { shown.to_lowercase() } else { shown };
            prop_assert_eq!(typed.parse(), Ok(AdmissionCode(bytes)));
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".{0,40}") {
            let _ = text.parse::<AdmissionCode>();
        }
    }
}
