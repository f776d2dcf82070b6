//! The question every session begins with, asked before the source is watched: the receiver walks its tree
//! while the agent still sets watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use syncd_proto::message::{AgentMessage, DigestQuery};
use syncd_proto::path::WirePath;

use crate::net::link::{Link, LinkError};

/// How old an answer may be that is still taken for what the target holds.
const AGE_MAX: Duration = Duration::from_secs(30);

/// A question for the digest of the whole module that nobody has needed yet.
#[derive(Debug)]
pub(super) struct Early {
    link: Arc<Link>,
    /// Its number; `None` if the link took no question.
    id: Option<u64>,
    /// What had been sent before: anything later makes the answer one about an older state.
    sent: u64,
    asked: Instant,
}

impl Early {
    /// Asks it.
    pub(super) fn new(link: &Arc<Link>) -> Self {
        let (sent, _) = link.progress();
        Self {
            link: link.clone(),
            id: ask_digest(link, &WirePath::root(), false).ok(),
            sent,
            asked: Instant::now(),
        }
    }

    /// Whether it was asked on this connection.
    pub(super) fn is_on(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.link, link)
    }

    /// The number of the question, if its answer says what the target holds now.
    pub(super) fn current(&self, link: &Arc<Link>) -> Option<u64> {
        let holds =
            self.is_on(link) && link.progress().0 == self.sent && self.asked.elapsed() <= AGE_MAX;
        self.id.filter(|_| holds)
    }
}

/// Asks for the digest of a directory; returns the number of the question.
///
/// # Errors
/// Those of [`Link::ask`].
pub(super) fn ask_digest(link: &Link, path: &WirePath, content: bool) -> Result<u64, LinkError> {
    let id = link.issue_id();
    let question = DigestQuery {
        id,
        paths: vec![path.clone()],
        content,
    };
    link.ask(id, &AgentMessage::DigestQuery(question))?;
    Ok(id)
}
