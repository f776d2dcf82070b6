//! [`Owners`]: users and groups that turn up during a session and were not asked for at its start, since only a
//! directory server, or a line that was added since, has their names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use syncd_proto::message::{AgentMessage, IdQuery};
use syncd_proto::op::{IdKind, IdName};

use crate::fs::accounts;
use crate::logic::terms::{Strangers, settled};
use crate::net::link::{Answer, Link};

/// How long an owner without a name, or one whose name could not be looked up, is left at that.
const NAMELESS: Duration = Duration::from_secs(60);

/// Most owners that are remembered; of more, each keeps its number.
const KNOWN_MAX: usize = 1 << 16;

/// The strangers of one session.
#[derive(Debug)]
pub(super) struct Owners {
    link: Weak<Link>,
    known: Mutex<HashMap<(IdKind, u32), Known>>,
}

/// The number of an owner at the receiver, and until when it counts; for ever if it came from there.
#[derive(Debug, Clone, Copy)]
struct Known {
    number: u32,
    until: Option<Instant>,
}

impl Owners {
    /// Those of this session, if its receiver knows owners by name.
    pub(super) fn serve(link: &Arc<Link>) {
        if link.welcome().maps_names {
            link.terms().ask(Arc::new(Self {
                link: Arc::downgrade(link),
                known: Mutex::default(),
            }));
        }
    }

    /// `None` once the session is over: nothing that is made of it will be sent.
    fn find(&self, kind: IdKind, id: u32) -> Option<Known> {
        let nameless = Known {
            number: id,
            until: Some(Instant::now() + NAMELESS),
        };
        let Some(name) = accounts::name_of(kind, id) else {
            return Some(nameless);
        };
        let link = self.link.upgrade()?;
        let question = link.issue_id();
        let theirs = IdName { kind, id, name };
        let query = AgentMessage::IdQuery(IdQuery {
            id: question,
            names: vec![theirs],
        });
        link.ask(question, &query).ok()?;
        match link.answer(question).ok()? {
            Answer::Ids(ids) => {
                let number = ids.numbers.first().copied().unwrap_or(id);
                Some(Known {
                    number: settled(id, number),
                    until: None,
                })
            }
            _ => Some(nameless),
        }
    }
}

impl Strangers for Owners {
    /// One looks, the others wait for what it finds.
    fn number(&self, kind: IdKind, id: u32) -> u32 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&(kind, id))
            && found.until.is_none_or(|until| until > Instant::now())
        {
            return found.number;
        }
        if known.len() >= KNOWN_MAX && !known.contains_key(&(kind, id)) {
            return id;
        }
        let Some(found) = self.find(kind, id) else {
            return id;
        };
        known.insert((kind, id), found);
        found.number
    }
}
