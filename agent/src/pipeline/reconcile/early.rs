//! The questions a comparison begins with. The one of a session is asked before the source is watched: the receiver walks
//! its tree while the agent still sets watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use syncd_proto::message::{AgentMessage, DigestQuery, Digests};
use syncd_proto::path::WirePath;

use super::CompareError;
use crate::fs::scan;
use crate::net::link::{Answer, Link, LinkError};
use crate::pipeline::target::Target;

/// How old an answer may be that is still taken for what the target holds.
const AGE_MAX: Duration = Duration::from_secs(30);

/// How long after its question an answer is waited for that may save reading the source: a target with nothing in it
/// answers at once.
const SOON: Duration = Duration::from_millis(20);

/// A question for the digest of the whole module that nobody has needed yet.
#[derive(Debug)]
pub(super) struct Early {
    link: Arc<Link>,
    /// `None` if the link took no question.
    asked: Option<Asked>,
    /// What had been sent before: anything later makes the answer one about an older state.
    sent: u64,
}

impl Early {
    /// Asks it.
    pub(super) fn new(target: &Target, link: &Arc<Link>) -> Self {
        let (sent, _) = link.progress();
        Self {
            link: link.clone(),
            asked: Asked::new(target, link, &WirePath::root(), false).ok(),
            sent,
        }
    }

    /// Whether it was asked on this connection.
    pub(super) fn is_on(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.link, link)
    }

    /// The question, if its answer says what the target holds now.
    pub(super) fn current(self, link: &Arc<Link>) -> Option<Asked> {
        let holds = self.is_on(link) && link.progress().0 == self.sent;
        self.asked
            .filter(|asked| holds && asked.at.elapsed() <= AGE_MAX)
    }
}

/// A question for the digest of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Its number.
    id: u64,
    /// The digest of a directory that the source has at its top was asked for too.
    probes: bool,
    at: Instant,
}

impl Asked {
    /// Asks it.
    ///
    /// # Errors
    /// Those of [`Link::ask`].
    pub(super) fn new(
        target: &Target,
        link: &Link,
        path: &WirePath,
        content: bool,
    ) -> Result<Self, LinkError> {
        let id = link.issue_id();
        let mut paths = vec![path.clone()];
        if path.is_root() && !content {
            let keeps = |dir: &WirePath| target.selection.keeps(dir, true);
            // What is wrong with the source is told by whoever reads it.
            paths.extend(scan::any_dir(&target.root, keeps).ok().flatten());
        }
        let asked = Self {
            id,
            probes: paths.len() > 1,
            at: Instant::now(),
        };
        let question = DigestQuery { id, paths, content };
        link.ask(id, &AgentMessage::DigestQuery(question))?;
        Ok(asked)
    }

    /// The answer, if it may spare reading the source and comes at once.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub(super) fn soon(&self, link: &Link) -> Result<Option<Digests>, CompareError> {
        if !self.probes {
            return Ok(None);
        }
        let answer = link.answer_before(self.id, self.at + SOON)?;
        answer.map(digests).transpose()
    }

    /// Whether the answer says that the target lacks what it was probed for: it may have nothing at all.
    pub(super) fn is_without(&self, answer: &Digests) -> bool {
        self.probes && matches!(answer.digests[..], [Some(_), None])
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`CompareError::Link`] and [`CompareError::Answer`].
    pub(super) fn answer(&self, link: &Link) -> Result<Digests, CompareError> {
        digests(link.answer(self.id)?)
    }
}

fn digests(answer: Answer) -> Result<Digests, CompareError> {
    match answer {
        Answer::Digests(digests) => Ok(digests),
        _ => Err(CompareError::Answer),
    }
}
