//! PURE: what a person's token is made of: the secret, the names, the times.
//!
//! Must not keep or send anything. Driven by `init`, which makes the first token, and by the API, which makes the others.

use crate::store::{PersonToken, Role, Standing};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use std::time::Duration;
use towline_transport::keys::random_hex;

/// Life of a token whose maker names none.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Longest life but for ever.
pub const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A new secret: 256 random bits with a prefix that secret scanners can know.
pub fn make_secret() -> String {
    let bytes = hex::decode(random_hex(32)).expect("it is hexadecimal");
    format!("tl_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether a text can name a person or a token.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control) && text.trim() == text
}

/// Whether a workspace would be locked out without this token: it is the last admin's token that never expires.
pub fn is_last_way_in(token: &PersonToken, all: &[PersonToken], now_ms: u64) -> bool {
    let opens_for_ever = |token: &PersonToken| {
        token.role == Role::Admin && token.expires_at_ms.is_none() && token.standing(now_ms) == Standing::Live
    };
    opens_for_ever(token) && !all.iter().any(|other| other.id != token.id && opens_for_ever(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::ids::{Digest, TokenId, WorkspaceId};

    fn token(number: u8, role: Role, expires_at_ms: Option<u64>) -> PersonToken {
        PersonToken {
            id: TokenId::from_random([number; 10]),
            hash: Digest::of(&[number]),
            workspace: WorkspaceId::from_random([1; 10]),
            person: "ada".to_owned(),
            name: "laptop".to_owned(),
            role,
            created_at_ms: 1,
            expires_at_ms,
            last_used_at_ms: None,
            revoked_at_ms: None,
        }
    }

    #[test]
    fn secrets_are_long_marked_and_never_the_same() {
        let (one, two) = (make_secret(), make_secret());
        assert!(one.starts_with("tl_") && one.len() == 46, "43 letters of base64 are 256 bits");
        assert_ne!(one, two);
    }

    #[test]
    fn names_are_visible_words() {
        for text in ["ada", "Ada Lovelace", "日本", "ci/nightly", &"x".repeat(64)] {
            assert!(is_name(text), "{text:?}");
        }
        for text in ["", " ada", "ada ", "a\nb", "a\u{1b}[2J", &"x".repeat(65)] {
            assert!(!is_name(text), "{text:?}");
        }
    }

    #[test]
    fn a_token_stands_until_its_end_or_its_revocation() {
        let live = token(1, Role::Member, Some(10));
        assert_eq!([9, 10].map(|now| live.standing(now)), [Standing::Live, Standing::Expired]);
        let revoked = PersonToken { revoked_at_ms: Some(5), ..live };
        assert_eq!([1, 9, 10].map(|now| revoked.standing(now)), [Standing::Revoked; 3]);
        assert_eq!(token(1, Role::Member, None).standing(u64::MAX), Standing::Live);
    }

    #[test]
    fn the_last_way_in_is_an_admins_that_never_expires() {
        let first = token(1, Role::Admin, None);
        let others = [token(2, Role::Admin, Some(100)), token(3, Role::Member, None)];
        let all = |more: Option<PersonToken>| -> Vec<_> {
            [first.clone()].into_iter().chain(others.clone()).chain(more).collect()
        };
        assert!(is_last_way_in(&first, &all(None), 50));
        assert!(others.iter().all(|other| !is_last_way_in(other, &all(None), 50)));
        let second = token(4, Role::Admin, None);
        assert!(!is_last_way_in(&first, &all(Some(second.clone())), 50));
        let revoked = PersonToken { revoked_at_ms: Some(1), ..second };
        assert!(is_last_way_in(&first, &all(Some(revoked.clone())), 50));
        assert!(!is_last_way_in(&revoked, &all(Some(revoked.clone())), 50), "it opens nothing already");
    }
}
