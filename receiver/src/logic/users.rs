//! `auth users` and `client certs`: lists of rules of which the first that matches decides.
//!
//! The accounts of the system come in through [`Accounts`]; passwords are `secrets.rs`.

use std::fmt;

use syncd_proto::path::escaped;
use syncd_proto::wildmatch::{self, Case};

/// A longer user name cannot log in.
const USER_BYTES_MAX: usize = 1_024;

/// The accounts of the system.
pub trait Accounts {
    /// Names of the groups of the account of this name, the primary group first; none without account.
    fn groups_of(&self, user: &[u8]) -> Vec<Vec<u8>>;
}

/// What somebody may do with a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Compare only.
    ReadOnly,
    /// Change it.
    ReadWrite,
}

/// What the rules of `auth users` say about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum RuleMatch {
    /// No rule matches.
    NoRule,
    /// A `:deny` rule matched first.
    Denied,
    /// A rule matched.
    Allowed {
        /// `:ro` or `:rw`; otherwise the module's own.
        access: Option<Access>,
        /// The group that matched, whose password may be used too.
        group: Option<Vec<u8>>,
    },
}

/// Whether anybody of this name may log in at all: no blank, no line ends, no leading `#`.
#[must_use]
pub fn is_user_name(name: &[u8]) -> bool {
    name.len() <= USER_BYTES_MAX
        && !name.starts_with(b"#")
        && !name.iter().any(|byte| b" \t\r\n\0".contains(byte))
}

/// Finds the first rule of `auth users` for this user.
pub fn match_user(list: &[u8], user: &[u8], accounts: &dyn Accounts) -> RuleMatch {
    for entry in entries(list) {
        let (pattern, option) = split_option(entry);
        let group = match pattern.strip_prefix(b"@") {
            Some(pattern) => {
                let groups = accounts.groups_of(user);
                let held = groups
                    .into_iter()
                    .find(|group| wildmatch::matches(pattern, group, Case::Sensitive));
                match held {
                    Some(group) => Some(group),
                    None => continue,
                }
            }
            None if wildmatch::matches(pattern, user, Case::Sensitive) => None,
            None => continue,
        };
        return match Effect::of(option) {
            Effect::Deny => RuleMatch::Denied,
            Effect::Allow(access) => RuleMatch::Allowed { access, group },
        };
    }
    RuleMatch::NoRule
}

/// What in an `auth users` list does not do what it seems to.
#[must_use]
pub fn traps(list: &[u8]) -> Vec<String> {
    let mut remarks = Vec::new();
    for entry in entries(list) {
        let (_, option) = split_option(entry);
        let shown = escaped(entry);
        if entry.starts_with(b"#") {
            remarks.push(format!(
                "\"{shown}\" is no comment: the words after it may log in"
            ));
        }
        let known = ["deny", "ro", "rw"].iter().any(|known| {
            option.is_some_and(|option| option.eq_ignore_ascii_case(known.as_bytes()))
        });
        if option.is_some() && !known {
            let outcome = match Effect::of(option) {
                Effect::Deny => "denies",
                Effect::Allow(Some(Access::ReadOnly)) => "allows reading",
                Effect::Allow(Some(Access::ReadWrite)) => "allows writing",
                Effect::Allow(None) => "allows, with the module's own `read only`",
            };
            remarks.push(format!(
                "the option of \"{shown}\" is read by its first letters: it {outcome}"
            ));
        }
    }
    remarks
}

/// The users that a list names one by one and does not deny, up to what looks like a comment.
pub fn plain_names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    entries(list)
        .take_while(|entry| !entry.starts_with(b"#"))
        .map(split_option)
        .filter(|(name, option)| {
            Effect::of(*option) != Effect::Deny
                && !name.starts_with(b"@")
                && is_user_name(name)
                && !name.iter().any(|byte| b"*?[\\".contains(byte))
        })
        .map(|(name, _)| name)
}

/// The entries of a list: split at blanks and commas, or at commas only if it begins with one.
fn entries(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let start = list
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t'))
        .unwrap_or(list.len());
    let commas_only = list.get(start) == Some(&b',');
    list.split(move |byte| *byte == b',' || !commas_only && matches!(byte, b' ' | b'\t'))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

fn split_option(entry: &[u8]) -> (&[u8], Option<&[u8]>) {
    match entry.iter().position(|byte| *byte == b':') {
        Some(at) => (&entry[..at], Some(&entry[at + 1..])),
        None => (entry, None),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Deny,
    Allow(Option<Access>),
}

impl Effect {
    /// Only the first letters of an option count.
    fn of(option: Option<&[u8]>) -> Self {
        let option = option.unwrap_or_default().to_ascii_lowercase();
        match &option[..] {
            [b'd', ..] => Self::Deny,
            [b'r', b'o', ..] => Self::Allow(Some(Access::ReadOnly)),
            [b'r', b'w', ..] => Self::Allow(Some(Access::ReadWrite)),
            _ => Self::Allow(None),
        }
    }
}

/// A name in a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertIdentity {
    /// A URI.
    Uri(String),
    /// A host name; case does not matter.
    Dns(String),
}

impl CertIdentity {
    fn is(&self, pattern: &[u8]) -> bool {
        match self {
            Self::Uri(uri) => wildmatch::matches(pattern, uri.as_bytes(), Case::Sensitive),
            Self::Dns(name) => wildmatch::matches(pattern, name.as_bytes(), Case::Ignored),
        }
    }
}

impl fmt::Display for CertIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(&escaped(name.as_bytes())),
        }
    }
}

/// The rules of `client certs`. Unlike `auth users`, what cannot be read is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertRules(Vec<(Vec<u8>, Effect)>);

/// What is wrong with a `client certs` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertRuleError {
    /// `@group`.
    Group(Vec<u8>),
    /// `#`.
    Comment(Vec<u8>),
    /// Neither `:ro`, `:rw` nor `:deny`.
    Option(Vec<u8>),
}

impl fmt::Display for CertRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(rule) => write!(f, "\"{}\": certificates have no groups", escaped(rule)),
            Self::Comment(rule) => write!(f, "\"{}\" is no comment here", escaped(rule)),
            Self::Option(rule) => {
                write!(f, "\"{}\": an option is :ro, :rw or :deny", escaped(rule))
            }
        }
    }
}

impl std::error::Error for CertRuleError {}

impl CertRules {
    /// Reads a list, written like `auth users`.
    ///
    /// # Errors
    /// [`CertRuleError`] for the first rule that cannot be meant.
    pub fn parse(list: &[u8]) -> Result<Self, CertRuleError> {
        entries(list)
            .map(cert_rule)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What the first rule says that matches any of the identities.
    pub fn find(&self, identities: &[CertIdentity]) -> RuleMatch {
        let rule = self
            .0
            .iter()
            .find(|(pattern, _)| identities.iter().any(|identity| identity.is(pattern)));
        match rule {
            None => RuleMatch::NoRule,
            Some((_, Effect::Deny)) => RuleMatch::Denied,
            Some((_, Effect::Allow(access))) => RuleMatch::Allowed {
                access: *access,
                group: None,
            },
        }
    }
}

fn cert_rule(entry: &[u8]) -> Result<(Vec<u8>, Effect), CertRuleError> {
    match entry.first() {
        Some(b'@') => return Err(CertRuleError::Group(entry.to_vec())),
        Some(b'#') => return Err(CertRuleError::Comment(entry.to_vec())),
        _ => {}
    }
    let Some(at) = entry.iter().rposition(|byte| *byte == b':') else {
        return Ok((entry.to_vec(), Effect::Allow(None)));
    };
    let (pattern, option) = (&entry[..at], &entry[at + 1..]);
    let effect = match &option.to_ascii_lowercase()[..] {
        b"deny" => Effect::Deny,
        b"ro" => Effect::Allow(Some(Access::ReadOnly)),
        b"rw" => Effect::Allow(Some(Access::ReadWrite)),
        _ if colon_belongs_to_uri(entry, option) => {
            return Ok((entry.to_vec(), Effect::Allow(None)));
        }
        _ => return Err(CertRuleError::Option(entry.to_vec())),
    };
    Ok((pattern.to_vec(), effect))
}

/// `urn:...`, the colon of `scheme://`, and one before a port.
fn colon_belongs_to_uri(entry: &[u8], option: &[u8]) -> bool {
    let has_authority = entry.windows(3).any(|three| three == b"://");
    entry.starts_with(b"urn:")
        || has_authority
            && !option.is_empty()
            && (option.contains(&b'/') || option.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Few;

    impl Accounts for Few {
        fn groups_of(&self, user: &[u8]) -> Vec<Vec<u8>> {
            match user {
                b"alice" => vec![b"alice".to_vec(), b"backup".to_vec()],
                _ => Vec::new(),
            }
        }
    }

    fn allowed(access: Option<Access>, group: Option<&str>) -> RuleMatch {
        RuleMatch::Allowed {
            access,
            group: group.map(|group| group.as_bytes().to_vec()),
        }
    }

    #[test]
    fn names_without_wildcards_are_known() {
        let list = b"alice bob:ro carol:deny @staff db* - # dave";
        let names: Vec<_> = plain_names(list).collect();
        assert_eq!(names, [&b"alice"[..], b"bob", b"-"]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        for (list, user, outcome) in [
            ("alice:deny alice", "alice", RuleMatch::Denied),
            ("alice alice:deny", "alice", allowed(None, None)),
            (
                "@back*:rw",
                "alice",
                allowed(Some(Access::ReadWrite), Some("backup")),
            ),
            ("@backup", "mallory", RuleMatch::NoRule),
            ("bob:RO *", "bob", allowed(Some(Access::ReadOnly), None)),
            (", alice bob", "alice", RuleMatch::NoRule),
            (",", "alice", RuleMatch::NoRule),
            ("*", "a/b", RuleMatch::NoRule),
        ] {
            assert_eq!(
                match_user(list.as_bytes(), user.as_bytes(), &Few),
                outcome,
                "{list}"
            );
        }
    }

    #[test]
    fn names_that_break_lines_cannot_log_in() {
        for name in ["a b", "#x", "a\nb", "a\0"] {
            assert!(!is_user_name(name.as_bytes()));
        }
        assert!(is_user_name("zo\u{eb}:x".as_bytes()));
    }

    #[test]
    fn odd_options_are_told() {
        assert_eq!(traps(b"alice:ro bob:DENY carol").len(), 0);
        assert_eq!(traps(b"alice:dney bob:block #").len(), 3);
    }

    #[test]
    fn certificate_rules_know_uris() {
        let web = [
            CertIdentity::Uri("spiffe://example.org/web:8".into()),
            CertIdentity::Dns("Web01.example.org".into()),
        ];
        for (list, outcome) in [
            (
                "spiffe://example.org/web:8:ro",
                allowed(Some(Access::ReadOnly), None),
            ),
            ("spiffe://example.org/*:deny *", RuleMatch::Denied),
            (
                "web*.example.org:rw",
                allowed(Some(Access::ReadWrite), None),
            ),
            ("urn:uuid:1 *", allowed(None, None)),
            ("db.example.org", RuleMatch::NoRule),
        ] {
            let rules = CertRules::parse(list.as_bytes()).expect(list);
            assert_eq!(rules.find(&web), outcome, "{list}");
        }
        for list in [
            "web:dney",
            "@ops",
            "web # comment",
            "spiffe://x/y:dney",
            "web:",
        ] {
            assert!(CertRules::parse(list.as_bytes()).is_err(), "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(list: Vec<u8>, user: Vec<u8>, name: String) {
            let _ = match_user(&list, &user, &Few);
            let _ = traps(&list);
            if let Ok(rules) = CertRules::parse(&list) {
                let _ = rules.find(&[CertIdentity::Uri(name.clone()), CertIdentity::Dns(name)]);
            }
        }
    }
}
