//! [`Walk`]: two trees that differ, compared by their listings where their digests are not equal.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use syncd_proto::links::LinkNames;
use syncd_proto::merkle;
use syncd_proto::message::{AgentMessage, ListEntry, ListQuery};
use syncd_proto::meta::{Compare, EntryMeta, Kind};
use syncd_proto::path::{WirePath, escaped};
use syncd_proto::tree::DigestTree;

use super::reading::{self, Problems, stat};
use super::{CompareError, Difference};
use crate::logic::coalesce::Failure;
use crate::logic::links::Inode;
use crate::logic::terms::Terms;
use crate::logic::unread::{Unread, Unreads, What};
use crate::net::link::{Answer, Link, LinkError};
use crate::pipeline::sweep::{is_clear, sweep};
use crate::pipeline::target::Target;

/// Directories asked about at once.
const QUERIES_MAX: usize = 32;

/// Differences reported together.
pub(super) const TOGETHER_MAX: usize = 512;

/// A comparison that descends.
pub(super) struct Walk<'a> {
    pub(super) target: &'a Target,
    pub(super) link: &'a Arc<Link>,
    pub(super) base: WirePath,
    pub(super) here: DigestTree,
    /// What could not be read for it.
    pub(super) problems: Problems,
    /// Names here that share a file with others, as paths from `base`.
    pub(super) names: LinkNames,
    pub(super) inodes: &'a HashMap<WirePath, Inode>,
    pub(super) policy: Compare,
    pub(super) content: bool,
    /// The terms of the session without attributes.
    pub(super) plain: Arc<Terms>,
    /// What is left out because it cannot be read.
    pub(super) unread: Unreads,
}

/// Names and what differs under them: found together, directories before what is in them.
pub type Differences = Vec<(WirePath, Difference)>;

/// Takes differences as they are found.
pub type Report<'a> = &'a mut dyn FnMut(Differences) -> Result<(), CompareError>;

impl Walk<'_> {
    /// Compares directories from the top, breadth first, with several questions under way.
    pub(super) fn descend(&mut self, report: Report<'_>) -> Result<(), CompareError> {
        let mut open: VecDeque<WirePath> = VecDeque::from([self.base.clone()]);
        let mut asked: VecDeque<(u64, WirePath)> = VecDeque::new();
        loop {
            while asked.len() < QUERIES_MAX
                && let Some(path) = open.pop_front()
            {
                asked.push_back((ask(self.link, &path, self.content)?, path));
            }
            let Some((id, path)) = asked.pop_front() else {
                return Ok(());
            };
            self.compare_dir(id, path, &mut open, report)?;
        }
    }

    fn compare_dir(
        &mut self,
        id: u64,
        path: WirePath,
        open: &mut VecDeque<WirePath>,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        let received = receive(self.link, id, &path);
        let Some((dir, there)) = self.or_later(received)? else {
            return Ok(());
        };
        let Some(dir) = dir else {
            let entry = stat(self.target, self.link, &path, What::Entries);
            let Some(entry) = self.or_later(entry)? else {
                return Ok(());
            };
            return self.report_all(path, entry.map(Difference::Missing), report);
        };
        self.compare_listed(path, dir, there, open, report)
    }

    /// Compares a directory with what the target has there: its metadata, and its entries.
    pub(super) fn compare_listed(
        &mut self,
        path: WirePath,
        dir: EntryMeta,
        there: Vec<ListEntry>,
        open: &mut VecDeque<WirePath>,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        let entry = stat(self.target, self.link, &path, What::Attributes);
        let entry = self.or_later(entry)?.flatten();
        if let Some(here) = &entry
            && here.kind != Kind::Dir
        {
            return match self.may_replace(&path, &dir, report)? {
                true => report(vec![(path, Difference::Changed(here.clone(), dir))]),
                false => Ok(()),
            };
        }
        if let Some(entry) = entry
            && !merkle::same_entry(self.policy, &entry, &dir)
        {
            report(vec![(path.clone(), Difference::Changed(entry, dir))])?;
        }
        let listed = reading::list(self.target, self.link.terms(), &path, self.content);
        let Some(listed) = self.or_later(listed)? else {
            return Ok(());
        };
        let Some((mut here, problems)) = listed else {
            self.look_again(path);
            return Ok(());
        };
        self.note_unnamed(&path, &problems);
        for entry in there {
            let Some(below) = path.join(&entry.name) else {
                self.unread.add(reading::unnamed_there(&path, &entry.name));
                continue;
            };
            match here.remove(&entry.name) {
                None => self.sweep(&below, entry.meta, report)?,
                Some(meta) => match problems.of(&below) {
                    Some(unread) if meta.kind == entry.meta.kind => {
                        self.unread.add(unread.clone());
                        if meta.kind == Kind::Dir {
                            open.push_back(below);
                        }
                    }
                    _ => self.compare_entry(below, meta, &entry, open, report)?,
                },
            }
        }
        for (name, meta) in here {
            if let Some(below) = path.join(&name) {
                self.report_missing(below, meta, report)?;
            }
        }
        Ok(())
    }

    fn compare_entry(
        &mut self,
        path: WirePath,
        here: EntryMeta,
        there: &ListEntry,
        open: &mut VecDeque<WirePath>,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        if here.kind == Kind::Dir && there.meta.kind == Kind::Dir {
            let tail = path.strip_prefix(&self.base).unwrap_or_default();
            let equal = self.here.digest(&tail).is_some()
                && self.here.digest(&tail) == there.subtree
                && self.here.is_complete(&tail)
                && self.problems.is_sure(&path);
            if !equal {
                open.push_back(path);
            }
            return Ok(());
        }
        if !self.policy.keeps(here.kind) {
            return Ok(());
        }
        let same = merkle::same_entry(self.policy, &here, &there.meta);
        if self.links_differ(&path, &here, there) {
            let links = Difference::Links {
                entry: here.clone(),
                inode: self.inodes.get(&path).copied(),
                alone: same && there.links.is_none(),
            };
            report(vec![(path.clone(), links)])?;
        }
        if same {
            return Ok(());
        }
        let is_dir = here.kind == Kind::Dir;
        let replaces_dir = !is_dir && there.meta.kind == Kind::Dir;
        if replaces_dir && !self.may_replace(&path, &there.meta, report)? {
            return Ok(());
        }
        let changed = Difference::Changed(here, there.meta.clone());
        self.report_with_content(path, is_dir, changed, report)
    }

    /// Whether something that is no directory may take the place of one with all that is in it. If not, that is tried again
    /// later, and shown until then.
    fn may_replace(
        &mut self,
        path: &WirePath,
        dir: &EntryMeta,
        report: Report<'_>,
    ) -> Result<bool, CompareError> {
        let clear = is_clear(self.target, self.link, path, dir, report);
        let clear = self.or_later_whole(path, clear)?;
        if clear == Some(false) {
            self.unread.add(not_replaced(path));
        }
        Ok(clear == Some(true))
    }

    fn links_differ(&self, path: &WirePath, here: &EntryMeta, there: &ListEntry) -> bool {
        let tail = path.strip_prefix(&self.base).unwrap_or_default();
        self.policy.links
            && here.kind == there.meta.kind
            && self.names.first_of(&tail) != there.links
    }

    fn report_missing(
        &mut self,
        path: WirePath,
        meta: EntryMeta,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        if !self.policy.keeps(meta.kind) {
            return Ok(());
        }
        let is_dir = meta.kind == Kind::Dir;
        self.report_with_content(path, is_dir, Difference::Missing(meta), report)
    }

    fn report_with_content(
        &mut self,
        path: WirePath,
        is_dir: bool,
        difference: Difference,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        match is_dir {
            true => self.report_all(path, Some(difference), report),
            false => report(vec![(path, difference)]),
        }
    }

    /// Reports a directory, if it differs, and everything below it: the target has none of that. Each directory comes
    /// together with what is in it: so they are sent, and the target makes a directory with its files.
    fn report_all(
        &mut self,
        path: WirePath,
        difference: Option<Difference>,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        let mut open = vec![(path, difference)];
        while let Some((dir, difference)) = open.pop() {
            // Without attributes and contents: for what the target does not have, nothing is compared.
            let listed = reading::list(self.target, &self.plain, &dir, false);
            let (entries, problems) = self.or_later(listed)?.flatten().unwrap_or_default();
            self.note_unnamed(&dir, &problems);
            let mut together: Differences = Vec::new();
            together.extend(difference.map(|difference| (dir.clone(), difference)));
            for (name, meta) in entries {
                let Some(below) = dir.join(&name) else {
                    continue;
                };
                if !self.policy.keeps(meta.kind) {
                    continue;
                }
                let is_dir = meta.kind == Kind::Dir;
                let missing = Difference::Missing(meta);
                if is_dir {
                    open.push((below, Some(missing)));
                    continue;
                }
                together.push((below, missing));
                if together.len() >= TOGETHER_MAX {
                    report(std::mem::take(&mut together))?;
                }
            }
            if !together.is_empty() {
                report(together)?;
            }
        }
        Ok(())
    }

    fn sweep(
        &mut self,
        path: &WirePath,
        meta: EntryMeta,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        let swept = sweep(self.target, self.link, path, meta, report);
        self.or_later_whole(path, swept).map(drop)
    }

    fn note_unnamed(&mut self, dir: &WirePath, problems: &Problems) {
        if let Some(unread) = problems.unnamed_in(dir) {
            self.unread.add(unread.clone());
        }
    }

    /// What could not be read is left out, and noted.
    fn or_later<T>(&mut self, result: Result<T, CompareError>) -> Result<Option<T>, CompareError> {
        match result {
            Err(CompareError::Unread(unread)) => {
                self.unread.add(unread);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// The same where something below could not be read, and nothing is known of the whole then.
    fn or_later_whole<T>(
        &mut self,
        path: &WirePath,
        result: Result<T, CompareError>,
    ) -> Result<Option<T>, CompareError> {
        self.or_later(result.map_err(|error| match error {
            CompareError::Unread(unread) => CompareError::Unread(Unread {
                path: path.clone(),
                ..unread
            }),
            other => other,
        }))
    }

    /// A directory that was here a moment ago is not any more.
    fn look_again(&self, path: WirePath) {
        self.target.mark(|dirty, now| {
            if !dirty.is_pending(&path) {
                dirty.unclear(path, now);
            }
        });
    }
}

/// Asks for a listing, and returns the number of the question: [`receive`] waits for the answer.
///
/// # Errors
/// Those of [`Link::ask`].
pub fn ask(link: &Link, path: &WirePath, content: bool) -> Result<u64, LinkError> {
    let id = link.issue_id();
    let query = ListQuery {
        id,
        path: path.clone(),
        content,
    };
    link.ask(id, &AgentMessage::ListQuery(query))?;
    Ok(id)
}

/// Why nothing takes the place of a directory.
pub(super) fn not_replaced(path: &WirePath) -> Unread {
    let text =
        "at the target a directory stands there, and names in it are protected by the filter rules";
    Unread {
        path: path.clone(),
        what: What::Entries,
        failure: Failure {
            code: "not replaced".to_owned(),
            text: text.to_owned(),
        },
    }
}

/// The whole answer to a question for a listing: the directory, if it is one, and its entries.
///
/// # Errors
/// [`CompareError::Link`], [`CompareError::Answer`], and [`CompareError::Unread`] if the receiver cannot read it.
pub fn receive(
    link: &Link,
    id: u64,
    path: &WirePath,
) -> Result<(Option<EntryMeta>, Vec<ListEntry>), CompareError> {
    let mut dir = None;
    let mut entries = Vec::new();
    loop {
        let part = match link.answer(id) {
            Ok(Answer::Listing(part)) => part,
            Ok(_) => return Err(CompareError::Answer),
            Err(LinkError::Rejected(reject)) => {
                let text = escaped(reject.text.as_bytes());
                return Err(CompareError::Unread(Unread {
                    path: path.clone(),
                    what: What::Entries,
                    failure: Failure {
                        code: reject.code.to_string(),
                        text: format!("cannot be read at the target: {text}"),
                    },
                }));
            }
            Err(error) => return Err(error.into()),
        };
        dir = dir.or(part.dir);
        entries.extend(part.entries);
        if part.last {
            return Ok((dir, entries));
        }
    }
}
