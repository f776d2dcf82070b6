//! [`Unreads`]: what a comparison could not read, and what follows from it. What could not be read is neither equal nor
//! absent: it is compared again later, and until then nothing is said to be the same.

use syncd_proto::path::WirePath;

use super::coalesce::Failure;

/// Most directories and entries that one comparison puts off each by itself; above, all of it is done again.
const UNREAD_MAX: usize = 256;

/// Attempts after which `sync` gives up, and a full check goes on without.
pub const ATTEMPTS_MAX: u32 = 3;

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Where.
    pub path: WirePath,
    /// What of it.
    pub what: What,
    /// Why.
    pub failure: Failure,
}

/// What could not be read of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A directory's entries, here or there: nothing in it was compared.
    Entries,
    /// A file's content.
    Content,
    /// Attributes; for what is below them there is no difference.
    Attributes,
    /// Some of a directory's entries, which no message can name; all others were compared.
    Names,
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, failure, .. } = self;
        write!(f, "{path}: {}: {}", failure.code, failure.text)
    }
}

/// All that a comparison could not read.
#[derive(Debug, Default)]
pub struct Unreads {
    found: Vec<Unread>,
    more: bool,
}

impl Unreads {
    /// Notes something; the first reason for a path is kept.
    pub fn add(&mut self, unread: Unread) {
        let known = |other: &Unread| other.path == unread.path && other.what == unread.what;
        if self.found.iter().any(known) {
            return;
        }
        if self.found.len() >= UNREAD_MAX {
            self.more = true;
            return;
        }
        self.found.push(unread);
    }

    /// What is to be looked at again by itself, after a comparison of `base` that went through otherwise.
    ///
    /// # Errors
    /// The comparison has failed: its own directory could not be read, or not all of it, or so much below it that it is
    /// done again as a whole.
    pub fn conclude(self, base: &WirePath) -> Result<Vec<Unread>, Unread> {
        let whole = |what: What| matches!(what, What::Entries | What::Names);
        let own = |unread: &Unread| whole(unread.what) && unread.path == *base;
        let Self { mut found, more } = self;
        if let Some(at) = found.iter().position(own) {
            return Err(found.swap_remove(at));
        }
        match found.first() {
            Some(first) if more => Err(Unread {
                path: base.clone(),
                what: What::Entries,
                failure: Failure {
                    code: first.failure.code.clone(),
                    text: format!("{first}, and more than {UNREAD_MAX} others"),
                },
            }),
            _ => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(path: &str, what: What) -> Unread {
        Unread {
            path: WirePath::from_relative(path.as_ref()).unwrap(),
            what,
            failure: Failure {
                code: "unreadable".to_owned(),
                text: "too many open files".to_owned(),
            },
        }
    }

    fn after(unread: &[Unread], base: &str) -> Result<Vec<Unread>, Unread> {
        let mut all = Unreads::default();
        unread.iter().for_each(|unread| all.add(unread.clone()));
        all.conclude(&WirePath::from_relative(base.as_ref()).unwrap())
    }

    #[test]
    fn what_is_below_is_put_off_once_and_its_own_directory_fails_a_comparison() {
        let below = [
            unread("d/e", What::Entries),
            unread("d", What::Attributes),
            unread("d/e", What::Entries),
            unread("d/f", What::Content),
        ];
        let expected = [below[0].clone(), below[1].clone(), below[3].clone()];
        let names = unread("d", What::Names);
        assert_eq!(
            after(std::slice::from_ref(&names), ".").unwrap(),
            std::slice::from_ref(&names)
        );
        assert_eq!(after(std::slice::from_ref(&names), "d").unwrap_err(), names);
        assert_eq!(after(&below, "d").unwrap(), expected);
        assert_eq!(after(&below, "d/e").unwrap_err(), below[0]);
        assert_eq!(after(&[], "d").unwrap(), []);
    }

    #[test]
    fn so_much_that_it_is_done_again_as_a_whole() {
        let many = |count: usize| -> Vec<Unread> {
            let names = (0..count).map(|number| format!("d/{number}"));
            names.map(|name| unread(&name, What::Entries)).collect()
        };
        assert_eq!(after(&many(UNREAD_MAX), "d").unwrap().len(), UNREAD_MAX);
        let whole = after(&many(UNREAD_MAX + 1), "d").unwrap_err();
        assert_eq!(whole.path.to_string(), "d");
        assert!(whole.failure.text.starts_with("d/0: unreadable: too many"));
    }
}
