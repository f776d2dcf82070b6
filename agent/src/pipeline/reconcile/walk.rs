//! [`Walk`]: two trees that differ, compared by their listings where their digests are not equal.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use syncd_proto::links::LinkNames;
use syncd_proto::merkle;
use syncd_proto::message::{AgentMessage, ListEntry, ListQuery};
use syncd_proto::meta::{Compare, EntryMeta, Kind};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::{DigestTree, TreeReader};

use super::{CompareError, Difference, stat, with_reader};
use crate::logic::links::Inode;
use crate::logic::terms::Terms;
use crate::net::link::{Answer, Link};
use crate::pipeline::sweep::{is_clear, sweep};
use crate::pipeline::target::Target;

/// Directories asked about at once.
const QUERIES_MAX: usize = 32;

/// A comparison that descends.
pub(super) struct Walk<'a> {
    pub(super) target: &'a Target,
    pub(super) link: &'a Arc<Link>,
    pub(super) base: WirePath,
    pub(super) here: DigestTree,
    /// Names here that share a file with others, as paths from `base`.
    pub(super) names: LinkNames,
    pub(super) inodes: &'a HashMap<WirePath, Inode>,
    pub(super) policy: Compare,
    pub(super) content: bool,
    /// The terms of the session without attributes.
    pub(super) plain: Arc<Terms>,
}

/// What a directory of the source holds; `None` if it is gone.
type Entries = Option<BTreeMap<Name, EntryMeta>>;

/// Takes each difference that is found.
pub type Report<'a> = &'a mut dyn FnMut(WirePath, Difference) -> Result<(), CompareError>;

impl Walk<'_> {
    /// Compares directories from the top, breadth first, with several questions under way.
    pub(super) fn descend(&mut self, report: Report<'_>) -> Result<(), CompareError> {
        let mut open: VecDeque<WirePath> = VecDeque::from([self.base.clone()]);
        let mut asked: VecDeque<(u64, WirePath)> = VecDeque::new();
        loop {
            while asked.len() < QUERIES_MAX
                && let Some(path) = open.pop_front()
            {
                let id = self.link.issue_id();
                let query = ListQuery {
                    id,
                    path: path.clone(),
                    content: self.content,
                };
                self.link.ask(id, &AgentMessage::ListQuery(query))?;
                asked.push_back((id, path));
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
        let (dir, there) = receive(self.link, id)?;
        let Some(dir) = dir else {
            if let Some(entry) = stat(self.target, self.link, &path)? {
                report(path.clone(), Difference::Missing(entry))?;
            }
            return self.report_all(path, report);
        };
        if let Some(entry) = stat(self.target, self.link, &path)?
            && !merkle::same_entry(self.policy, &entry, &dir)
        {
            report(path.clone(), Difference::Changed(entry, dir))?;
        }
        let Some(mut here) = self.list(&path)? else {
            return Ok(());
        };
        let readable = self.is_readable(&path);
        for entry in there {
            let Some(below) = path.join(&entry.name) else {
                continue;
            };
            match here.remove(&entry.name) {
                None if readable => {
                    sweep(self.target, self.link, &below, entry.meta, report)?;
                }
                None => {}
                Some(meta) => self.compare_entry(below, meta, &entry, open, report)?,
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
                && self.here.is_complete(&tail);
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
            report(path.clone(), links)?;
        }
        if same {
            return Ok(());
        }
        let is_dir = here.kind == Kind::Dir;
        let replaces_dir = !is_dir && there.meta.kind == Kind::Dir;
        if replaces_dir && !is_clear(self.target, self.link, &path, &there.meta, report)? {
            return Ok(());
        }
        report(path.clone(), Difference::Changed(here, there.meta.clone()))?;
        if is_dir {
            self.report_all(path, report)?;
        }
        Ok(())
    }

    fn links_differ(&self, path: &WirePath, here: &EntryMeta, there: &ListEntry) -> bool {
        let tail = path.strip_prefix(&self.base).unwrap_or_default();
        self.policy.links
            && here.kind == Kind::File
            && there.meta.kind == Kind::File
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
        report(path.clone(), Difference::Missing(meta))?;
        if is_dir {
            self.report_all(path, report)?;
        }
        Ok(())
    }

    /// Reports everything below a directory that the target does not have.
    pub(super) fn report_all(
        &mut self,
        path: WirePath,
        report: Report<'_>,
    ) -> Result<(), CompareError> {
        let mut open = vec![path];
        while let Some(dir) = open.pop() {
            for (name, meta) in self.list_plain(&dir)?.unwrap_or_default() {
                let Some(below) = dir.join(&name) else {
                    continue;
                };
                if !self.policy.keeps(meta.kind) {
                    continue;
                }
                if meta.kind == Kind::Dir {
                    open.push(below.clone());
                }
                report(below, Difference::Missing(meta))?;
            }
        }
        Ok(())
    }

    fn list(&self, path: &WirePath) -> Result<Entries, CompareError> {
        self.list_as(path, self.link.terms(), self.content)
    }

    /// Without attributes and contents: for what the target does not have, nothing is compared.
    fn list_plain(&self, path: &WirePath) -> Result<Entries, CompareError> {
        self.list_as(path, &self.plain, false)
    }

    fn list_as(
        &self,
        path: &WirePath,
        terms: &Arc<Terms>,
        content: bool,
    ) -> Result<Entries, CompareError> {
        with_reader(self.target, terms, content, |reader| {
            let Some((dir, _)) = reader.start(path).map_err(CompareError::Source)? else {
                return Ok(None);
            };
            let entries = reader
                .entries(&dir, path)
                .map_err(|_| CompareError::Stopped)?;
            Ok(entries.map(|entries| entries.into_iter().collect()))
        })
    }

    /// Whether absence here means absence: the directory itself could be read.
    fn is_readable(&self, path: &WirePath) -> bool {
        self.target.root.open_dir(path).is_ok()
    }
}

/// The whole answer to a question for a listing: the directory, if it is one, and its entries.
///
/// # Errors
/// [`CompareError::Link`] and [`CompareError::Answer`].
pub fn receive(link: &Link, id: u64) -> Result<(Option<EntryMeta>, Vec<ListEntry>), CompareError> {
    let mut dir = None;
    let mut entries = Vec::new();
    loop {
        let Answer::Listing(part) = link.answer(id)? else {
            return Err(CompareError::Answer);
        };
        dir = dir.or(part.dir);
        entries.extend(part.entries);
        if part.last {
            return Ok((dir, entries));
        }
    }
}
