//! Users and groups of the system, and the ids a module's worker takes.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use syncd_proto::path::escaped;

use crate::front::workers::Unavailable;
use crate::relay::RunAs;

/// What a root daemon's modules run as unless they say otherwise.
const NOBODY: &[u8] = b"nobody";
const NOGROUP: &[u8] = b"nogroup";

/// Who this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Me {
    uid: u32,
}

impl Me {
    /// Asks the system.
    #[must_use]
    pub fn now() -> Self {
        Self {
            uid: Uid::effective().as_raw(),
        }
    }

    /// Effective user id.
    #[must_use]
    pub const fn uid(self) -> u32 {
        self.uid
    }

    /// Whether it is root.
    #[must_use]
    pub const fn is_root(self) -> bool {
        self.uid == 0
    }

    /// The ids for a module with these `uid` and `gid`; `None` stays as started.
    ///
    /// # Errors
    /// Ids that do not exist or cannot be taken, in rsync's words.
    pub fn run_as(
        self,
        uid: Option<&[u8]>,
        gid: Option<&[u8]>,
    ) -> Result<Option<RunAs>, Unavailable> {
        if self.is_root() {
            let user = Account::of(uid.unwrap_or(NOBODY))?;
            return user.with_groups(gid.unwrap_or(NOGROUP)).map(Some);
        }
        if let Some(uid) = uid
            && Account::of(uid)?.uid != self.uid
        {
            let log = format!(
                "uid {} needs root; run as root, or as that user without `uid`",
                escaped(uid)
            );
            return Err(refusal("setuid failed", log));
        }
        // rsync calls setgroups for any gid, which only root may do.
        if let Some(gid) = gid {
            let log = format!("gid {} needs root; remove `gid`", escaped(gid));
            return Err(refusal("setgroups failed", log));
        }
        Ok(None)
    }
}

/// Names of the groups of a user, the primary one first; empty if there is no such user.
#[must_use]
pub fn groups_of(user: &[u8]) -> Vec<Vec<u8>> {
    let Some(found) = user_named(user) else {
        return Vec::new();
    };
    let Ok(name) = CString::new(found.name.as_bytes()) else {
        return Vec::new();
    };
    let mut gids = vec![found.gid];
    gids.extend(
        getgrouplist(&name, found.gid)
            .unwrap_or_default()
            .into_iter()
            .filter(|gid| *gid != found.gid),
    );
    gids.into_iter()
        .filter_map(|gid| Group::from_gid(gid).ok().flatten())
        .map(|group| group.name.into_bytes())
        .collect()
}

struct Account {
    uid: u32,
    text: Vec<u8>,
    user: Option<User>,
}

impl Account {
    fn of(text: &[u8]) -> Result<Self, Unavailable> {
        let number = number(text);
        let user = match number {
            Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            None => user_named(text),
        };
        let uid = number.or_else(|| user.as_ref().map(|user| user.uid.as_raw()));
        let uid = uid.ok_or_else(|| invalid("uid", text))?;
        Ok(Self {
            uid,
            text: text.to_vec(),
            user,
        })
    }

    /// `list` is split as `auth users` is; `*` at its head means all groups of the account.
    fn with_groups(&self, list: &[u8]) -> Result<RunAs, Unavailable> {
        let mut groups = Vec::new();
        for (index, word) in words(list).into_iter().enumerate() {
            match (index, word) {
                (0, b"*") => groups.extend(self.all_groups()?),
                (_, word) => groups.push(group_id(word)?),
            }
        }
        let (&gid, supplementary) = groups.split_first().ok_or_else(|| invalid("gid", list))?;
        Ok(RunAs {
            uid: self.uid,
            gid,
            groups: supplementary.to_vec(),
        })
    }

    fn all_groups(&self) -> Result<Vec<u32>, Unavailable> {
        let log = || format!("uid {} has no account, so no groups", escaped(&self.text));
        let user = self.user.as_ref();
        let user = user.ok_or_else(|| refusal("getpwuid failed", log()))?;
        let name =
            CString::new(user.name.as_bytes()).map_err(|_| refusal("getpwuid failed", log()))?;
        let more = getgrouplist(&name, user.gid)
            .map_err(|error| refusal("getgrouplist failed", format!("getgrouplist: {error}")))?;
        let mut groups = vec![user.gid.as_raw()];
        groups.extend(
            more.into_iter()
                .filter(|gid| *gid != user.gid)
                .map(Gid::as_raw),
        );
        Ok(groups)
    }
}

fn user_named(name: &[u8]) -> Option<User> {
    User::from_name(std::str::from_utf8(name).ok()?)
        .ok()
        .flatten()
}

fn group_id(word: &[u8]) -> Result<u32, Unavailable> {
    if let Some(gid) = number(word) {
        return Ok(gid);
    }
    std::str::from_utf8(word)
        .ok()
        .and_then(|name| Group::from_name(name).ok().flatten())
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| invalid("gid", word))
}

/// Digits need no account; the highest value means "unchanged" to the system and is none.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

/// Split at blanks and commas; only at commas if the list begins with one.
fn words(list: &[u8]) -> Vec<&[u8]> {
    let list = list.trim_ascii();
    let commas_only = list.first() == Some(&b',');
    list.split(|byte| *byte == b',' || !commas_only && byte.is_ascii_whitespace())
        .map(<[u8]>::trim_ascii)
        .filter(|word| !word.is_empty())
        .collect()
}

fn invalid(what: &str, text: &[u8]) -> Unavailable {
    let text = format!("invalid {what} {}", escaped(text));
    refusal(&text, format!("{text}: no such name on this machine"))
}

fn refusal(text: &str, log: String) -> Unavailable {
    Unavailable {
        text: text.to_owned(),
        log,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Me = Me { uid: 0 };
    const OTHER: Me = Me { uid: 12_345 };

    fn ids(uid: Option<&str>, gid: Option<&str>) -> Result<RunAs, String> {
        ROOT.run_as(uid.map(str::as_bytes), gid.map(str::as_bytes))
            .map(Option::unwrap)
            .map_err(|refused| refused.text)
    }

    #[test]
    fn root_takes_names_numbers_and_lists() {
        let run_as = ids(Some("1234"), Some("5, 6 7")).unwrap();
        assert_eq!(
            (run_as.uid, run_as.gid, run_as.groups),
            (1_234, 5, vec![6, 7])
        );
        assert_eq!(ids(Some("root"), Some("root")).unwrap().uid, 0);
        let nobody = ids(None, None).unwrap();
        assert_ne!(nobody.uid, 0);
        assert_ne!(nobody.gid, 0);
        assert!(nobody.groups.is_empty());
        assert_eq!(ids(Some("root"), Some("*")).unwrap().gid, 0);
    }

    #[test]
    fn what_does_not_exist_is_refused_in_rsyncs_words() {
        assert_eq!(
            ids(Some("no-such-user"), None).unwrap_err(),
            "invalid uid no-such-user"
        );
        assert_eq!(ids(Some("+0"), None).unwrap_err(), "invalid uid +0");
        assert_eq!(ids(None, Some("#")).unwrap_err(), "invalid gid #");
        assert_eq!(ids(None, Some("0 *")).unwrap_err(), "invalid gid *");
        assert_eq!(
            ids(Some("4294967295"), None).unwrap_err(),
            "invalid uid 4294967295"
        );
        assert_eq!(
            ids(Some("987654321"), Some("*")).unwrap_err(),
            "getpwuid failed"
        );
    }

    #[test]
    fn others_stay_who_they_are() {
        let own = OTHER.uid.to_string();
        assert_eq!(OTHER.run_as(None, None), Ok(None));
        assert_eq!(OTHER.run_as(Some(own.as_bytes()), None), Ok(None));
        assert_eq!(
            OTHER.run_as(Some(b"root"), None).unwrap_err().text,
            "setuid failed"
        );
        assert_eq!(
            OTHER.run_as(None, Some(b"0")).unwrap_err().text,
            "setgroups failed"
        );
    }

    #[test]
    fn roots_first_group_is_its_primary_one() {
        assert_eq!(
            groups_of(b"root").first().map(Vec::as_slice),
            Some(&b"root"[..])
        );
        assert!(groups_of(b"no-such-user").is_empty());
    }
}
