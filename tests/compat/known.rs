//! Where the answers differ on purpose, and which vectors ask for what does not exist here; with the reasons.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::vectors::{TOPICS, Topic, id};

/// In which way an answer differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It refuses what rsync does.
    Refuses,
    /// The same is let in or turned away, but something else about it differs.
    Differs,
}

/// One list for one daemon.
pub(crate) struct Known {
    no_login: bool,
    different: &'static [(Standing, &'static str, &'static [&'static str])],
    elsewhere: &'static [(&'static str, &'static [&'static str])],
}

impl Known {
    pub(crate) fn of_ours() -> Self {
        Self {
            no_login: false,
            different: OURS,
            elsewhere: NOT_HERE,
        }
    }

    pub(crate) fn of_rsync() -> Self {
        Self {
            no_login: true,
            different: &[],
            elsewhere: &[],
        }
    }

    pub(crate) fn different(&self, id: &str) -> Option<(Standing, &'static str)> {
        let row = self.different.iter().find(|row| matches(row.2, id))?;
        Some((row.0, row.1))
    }

    pub(crate) fn not_applicable(&self, id: &str, vector: &Value) -> Option<&'static str> {
        let client = &vector["client"];
        let logs_in = !client["user"].is_null() || !client["response"].is_null();
        if self.no_login && client["op"] == "handshake" && logs_in {
            return Some("a login over a bare socket: no digest of rsync's login is computed here");
        }
        let row = self.elsewhere.iter().find(|row| matches(row.1, id))?;
        Some(row.0)
    }

    /// Entries that name no vector.
    pub(crate) fn unknown_ids(&self) -> Vec<String> {
        let topics: Vec<_> = TOPICS.iter().map(|(name, _)| Topic::read(name)).collect();
        let vectors = topics.iter().flat_map(|topic| topic.vectors());
        let ids: BTreeSet<&str> = vectors.map(id).collect();
        let different = self.different.iter().flat_map(|row| row.2);
        let listed = different.chain(self.elsewhere.iter().flat_map(|row| row.1));
        listed
            .filter(|listed| !ids.iter().any(|id| matches(&[listed], id)))
            .map(|listed| format!("{listed}: listed, but no such vector"))
            .collect()
    }
}

/// Outcomes that have another name here.
pub(crate) fn same_here(outcome: &str) -> &str {
    match outcome {
        // A daemon that does not start and one that closes each connection serve as little.
        "daemon-start-failed" => "config-error",
        // Module names that begin with # are commands there, and no modules here.
        "unknown-command" => "unknown-module",
        other => other,
    }
}

/// Outcomes that look alike to a client of rsync: the connection is closed without a word.
pub(crate) fn same_there(outcome: &str) -> &str {
    match outcome {
        "config-error" => "dropped",
        other => other,
    }
}

/// A whole id, or the start of several if it ends in `*`.
fn matches(list: &[&str], id: &str) -> bool {
    list.iter().any(|listed| match listed.strip_suffix('*') {
        Some(start) => id.starts_with(start),
        None => *listed == id,
    })
}

const OURS: &[(Standing, &str, &[&str])] = &[
    (
        Standing::Refuses,
        "a misspelt security parameter, one without `=` and a byte-order mark are errors, since rsync skips what they \
         were meant to protect",
        &[
            "auth-typo-auth-user",
            "auth-typo-underscore",
            "hosts-name-like-typo-param-127.0.0.9",
            "hosts-underscore-param-127.0.0.9",
            "syntax-name-dash",
            "syntax-name-quoted",
            "syntax-name-prefix",
            "syntax-colon-equals",
            "syntax-no-equals",
            "syntax-colon",
            "syntax-name-plural",
            "syntax-name-hyphen",
            "syntax-name-dot",
            "syntax-name-underscore",
            "syntax-upload-only-typo",
            "syntax-bom",
            "syntax-bom-list",
            "syntax-bom-comment",
            "hooks-pre-name-blank",
        ],
    ),
    (
        Standing::Refuses,
        "netgroups are not asked: `@group` in `hosts allow` lets nobody in, in `hosts deny` it refuses everybody",
        &[
            "hosts-netgroup-case-127.0.1.10",
            "hosts-netgroup-hit-127.0.1.10",
            "hosts-netgroup-none-deny-127.0.1.10",
            "hosts-netgroup-deny-127.0.2.20",
        ],
    ),
    (
        Standing::Differs,
        "a module is listed only to those who could connect to it",
        &[
            "hosts-module-deny-list-op-127.0.0.1-list",
            "hosts-global-deny-list-op-127.0.0.1-list",
            "listing-hosts-deny",
            "listing-no-path",
            "syntax-cr-only",
        ],
    ),
    (
        Standing::Differs,
        "a comment in the list is cut at 1,024 bytes",
        &["syntax-value-long"],
    ),
    (
        Standing::Refuses,
        "a line with an empty password lets nobody in",
        &["auth-sf-empty-password-1", "auth-sf-empty-password-2"],
    ),
    (
        Standing::Refuses,
        "names of users and modules have at most 255 bytes",
        &["auth-hs-long-user", "listing-ask-long"],
    ),
    (
        Standing::Refuses,
        "the name of a module is taken as it is, no byte of it is dropped",
        &["listing-ask-cr", "listing-ask-nul"],
    ),
    (
        Standing::Differs,
        "comparing with a module that may only be read is reading, and allowed as a pull is; nothing can be written",
        &["access-dryrun-bob-push", "access-dryrun-bob-delete"],
    ),
    (
        Standing::Refuses,
        "refused for another of two reasons: what the configuration alone says is told before a worker is started",
        &[
            "syntax-tail-of-line",
            "order-uid-before-readonly",
            "order-chroot-before-readonly",
            "order-gid-before-path",
            "order-refuse-before-readonly",
            "refuse-readonly-first",
            "hooks-pre-readonly",
            "order-pre-before-refuse",
            "order-early-before-chroot",
        ],
    ),
    (
        Standing::Differs,
        "an agent always says whose files they are, so a worker that is root keeps owner and group",
        &["ident-uid-root"],
    ),
    (
        Standing::Refuses,
        "a symlink as the root of a mirror is not walked through unless `keep dirlinks = yes`",
        &["place-symlink-out-chroot", "place-symlink-in"],
    ),
    (
        Standing::Refuses,
        "`..` cannot be expressed in the protocol",
        &[
            "place-path-dotdot-chroot",
            "place-path-dotdot-nochroot",
            "place-path-dotdot-in-chroot",
            "place-path-dotdot-in-nochroot",
            "place-path-escape-chroot",
            "place-path-escape-nochroot",
        ],
    ),
    (
        Standing::Differs,
        "`temp dir` is not used: content is staged in `.syncd` within the module, so nothing depends on that directory",
        &["place-temp-dir-missing", "place-temp-dir-hash"],
    ),
    (
        Standing::Refuses,
        "filter rules that cannot be used are told; rsync closes the connection",
        &[
            "filters-filter-bare",
            "filters-from-missing",
            "filters-from-hash",
            "order-exclude-file-before-chroot",
        ],
    ),
    (
        Standing::Differs,
        "`munge symlinks = no` without chroot stores targets as they are: cut ones could never be equal again, and \
         the receiver follows none",
        &["place-munge-no-nochroot-*"],
    ),
    (
        Standing::Refuses,
        "a name that a shell would not take as one word refuses a command it is written into, and that is told",
        &["hooks-pre-user-var-bad"],
    ),
];

const NOT_HERE: &[(&str, &[&str])] = &[
    (
        "the bytes of rsync's login: the password is proved by one keyed hash here, there is no digest to agree on",
        include!("../vectors/other_dialogue.in"),
    ),
    (
        "rsync's greeting: TLS and `Hello` stand in its place",
        &["listing-greet-*"],
    ),
    (
        "options of an rsync client: an agent has none of them",
        &[
            "refuse-star",
            "refuse-archive",
            "refuse-backup-dir",
            "refuse-space",
            "refuse-wild",
            "refuse-hash",
            "refuse-long",
            "refuse-dry-run",
            "refuse-perms",
            "refuse-inplace",
            "refuse-short",
            "fakesuper-off-client",
        ],
    ),
    (
        "a PROXY header that nobody asked for: no agent sends one",
        &["proxy-off"],
    ),
];
