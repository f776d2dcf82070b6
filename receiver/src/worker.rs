//! The process that touches one module's files.
//!
//! The main thread listens to the front; when that is gone, so is the process. Each session has a few threads of its own, joined by bounded
//! queues, so that nothing waits for what it does not depend on:
//!
//! ```text
//!           reader ──commits──► preparer ──groups──► committer ──┐
//!  socket ──►   ├───transfers─► stager ──────────────────────────┼──► writer ──► socket
//!               └───questions─► answerer ────────────────────────┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | `session` | one session: welcome, threads, end |
//! | `reader` | frames in: verified, sorted by who takes them |
//! | `stager` | transfers; gives window back |
//! | `commits` | groups of commits: made while the one before is made safe; says how far the log has come |
//! | `answers` | digests, listings, signatures; a thread of its own for what reads contents |
//! | `outbox` | frames out: numbered, several per write |
//! | `shared` | what the threads of a session wait for |
//! | `registry` | who is here: one writer per directory; how a session is told to end |

mod answers;
mod commits;
mod names;
mod outbox;
mod reader;
mod registry;
mod session;
mod shared;
mod stager;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use syncd_proto::meta::Times;
use syncd_proto::op::IdName;
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use crate::confine::{Confined, confine};
use crate::fs::area::Area;
use crate::fs::attic::Attic;
use crate::fs::commit;
use crate::fs::elsewhere;
use crate::fs::guard::Guard;
use crate::fs::ids;
use crate::fs::known::Known;
use crate::fs::refusal::{Refusal, describe};
use crate::logic::chmod::Chmod;
use crate::logic::trash::{self, Place};
use crate::net::relay_io;
use crate::relay::{FromWorker, ModuleSetup, SessionOpen, ToWorker, Whereabouts};

use names::Names;
use registry::{Heard, Registry};

/// Serves one module, as the front orders on standard input, until that closes or says so.
#[must_use]
pub fn run() -> ExitCode {
    match control_socket().and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the worker ends");
            ExitCode::FAILURE
        }
    }
}

/// What all sessions of a module share.
#[derive(Debug)]
struct Module {
    setup: ModuleSetup,
    confined: Confined,
    chmod: Option<Chmod>,
    guard: Arc<Guard>,
    area: Mutex<Option<Arc<Area>>>,
    /// What an earlier worker wrote to.
    expected: Mutex<Option<Whereabouts>>,
    registry: Registry,
    known: Arc<Known>,
    names: Names,
    control: Mutex<UnixStream>,
}

impl Module {
    /// The staging area, made and cleaned when the first session needs it.
    fn area(&self) -> Result<Arc<Area>, Refusal> {
        let mut slot = self.area.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(area) = &*slot {
            return Ok(Arc::clone(area));
        }
        self.check_place()?;
        let area = Area::open(&self.confined.root)?.keeping(self.attic(true)?);
        let area = Arc::new(area);
        elsewhere::take_over(&area)?;
        for path in &self.confined.mounts {
            // What a crash left there goes now; it is told where something is to be done there.
            let opened = self.confined.root.open_dir(path);
            if let Ok(dir) = opened
                && elsewhere::has_area(&dir)
                && let Err(why) = area.elsewhere(&dir)
            {
                tracing::warn!(%path, "{why}");
            }
        }
        *slot = Some(Arc::clone(&area));
        let here = self.whereabouts(area.instance());
        self.tell_front(&FromWorker::Serving(here));
        Ok(area)
    }

    /// The module is where it was opened, and it is the copy that was served before: what stands in its
    /// place while a disk is not mounted is left alone.
    fn check_place(&self) -> Result<(), Refusal> {
        let root = &self.confined.root;
        if !commit::is_in_place(root, self.confined.path.as_deref()) {
            self.tell_front(&FromWorker::Misplaced);
            return Err(commit::gone("the module"));
        }
        let expected = *(self.expected.lock()).unwrap_or_else(PoisonError::into_inner);
        let Some(expected) = expected else {
            return Ok(());
        };
        let here = self.whereabouts(Area::instance_of(root).unwrap_or_default());
        let same_root = (here.device, here.inode) == (expected.device, expected.inode);
        if same_root || here.instance == expected.instance {
            return Ok(());
        }
        // It is not held any longer than it takes to say so.
        self.tell_front(&FromWorker::Misplaced);
        let mut refusal = commit::gone("the module");
        refusal
            .text
            .push_str("; if that is meant, reload the receiver's configuration");
        Err(refusal)
    }

    /// What is held of times everywhere in the module, as far as somebody has written there before.
    fn times(&self) -> Times {
        let root = WirePath::root();
        let places = self.confined.mounts.iter().chain([&root]);
        let held = places.filter_map(|at| Area::times_of(&self.confined.root, at));
        held.max().unwrap_or(Times::Nanos)
    }

    fn whereabouts(&self, instance: [u8; 16]) -> Whereabouts {
        let root = self.confined.root.identity();
        Whereabouts {
            instance,
            device: root.dev,
            inode: root.ino,
        }
    }

    /// The module's trash, if it has one; one in the module is made if `make` says so.
    fn attic(&self, make: bool) -> Result<Option<Attic>, Refusal> {
        let Some(trash) = &self.setup.rules.trash else {
            return Ok(None);
        };
        let told = |errno| {
            let text = format!("cannot use the module's trash: {}", describe(errno));
            Refusal::new(RejectCode::ModuleUnavailable, text)
        };
        let root = &self.confined.root;
        let dir = match (&trash.place, &self.confined.trash) {
            (Place::Within(path), _) => {
                if make {
                    root.make_dirs(path).map_err(told)?;
                }
                let opened = match root.open_dir(path) {
                    Err(Errno::NOENT) if !make => return Ok(None),
                    opened => opened.map_err(told)?,
                };
                if !Attic::is_beside(&opened, root.fd()).map_err(told)? {
                    let text = "the module's trash is on another file system";
                    return Err(Refusal::new(RejectCode::ModuleUnavailable, text));
                }
                opened
            }
            (Place::At(_), Some(dir)) => rustix::io::fcntl_dupfd_cloexec(dir, 0).map_err(told)?,
            (Place::At(_), None) => return Err(told(Errno::NOENT)),
        };
        Ok(Some(Attic::new(dir, trash.keep_s)))
    }

    /// Throws away what has been kept long enough.
    fn expire(&self) -> Result<(), Refusal> {
        let told = |errno| Refusal::staging("expire", errno);
        // Nothing is made, and nothing cleaned, as long as there is nothing to do.
        let Some(attic) = self.attic(false)? else {
            return Ok(());
        };
        if !attic.has_old().map_err(told)? && self.confined.mounts.is_empty() {
            return Ok(());
        }
        let area = self.area()?;
        for area in [vec![Arc::clone(&area)], area.others()].concat() {
            if let Some(attic) = area.attic()
                && attic.expire(&area).map_err(told)?
            {
                area.wake_reaper();
            }
        }
        Ok(())
    }

    /// The numbers here of an agent's users and groups.
    fn numbers(&self, names: Vec<IdName>) -> Vec<u32> {
        if self.setup.numeric_ids {
            return names.iter().map(|name| name.id).collect();
        }
        let known = self
            .names
            .ask(names.clone(), |question| self.tell_front(question));
        let pairs = names.iter().zip(known);
        pairs
            .map(|(name, known)| ids::number(name, known))
            .collect()
    }

    fn tell_front(&self, message: &FromWorker) {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = relay_io::send(&*control, message, None) {
            tracing::debug!(%error, "the front is gone");
        }
    }
}

fn control_socket() -> io::Result<UnixStream> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    Ok(UnixStream::from(socket))
}

fn serve(control: UnixStream) -> io::Result<()> {
    let Some((ToWorker::Setup(setup), _)) = relay_io::receive::<ToWorker>(&control)? else {
        return Err(io::Error::other("the front did not begin with the setup"));
    };
    let module = match prepare(setup, control.try_clone()?) {
        Ok(module) => Arc::new(module),
        Err(failed) => return relay_io::send(&control, &failed, None),
    };
    for note in &module.confined.notes {
        tracing::warn!(module = %module_name(&module), "{note}");
    }
    // Nothing is said before it: not what the trash has to say either.
    module.tell_front(&FromWorker::Ready);
    if let Some(trash) = &module.setup.rules.trash {
        tidy(
            &module,
            Duration::from_secs(trash::look_every_s(trash.keep_s)),
        )?;
    }
    listen(&module, &control)
}

/// Looks through the trash now and then, for as long as the process lives.
fn tidy(module: &Arc<Module>, every: Duration) -> io::Result<()> {
    let module = Arc::clone(module);
    let looks = move || loop {
        if let Err(why) = module.expire() {
            tracing::warn!(module = %module_name(&module), "old versions stay in the trash: {why}");
        }
        thread::sleep(every);
    };
    let spawned = thread::Builder::new().name("trash".to_owned()).spawn(looks);
    spawned.map(drop)
}

fn prepare(setup: ModuleSetup, control: UnixStream) -> Result<Module, FromWorker> {
    let chmod = match &setup.incoming_chmod {
        Some(text) => Some(Chmod::parse(text).map_err(|error| FromWorker::Failed {
            text: "incoming chmod is wrong".to_owned(),
            log: format!("incoming chmod: {error}"),
        })?),
        None => None,
    };
    let filter = match &setup.rules.filters {
        Some(filters) => Some(filters.compile().map_err(|error| FromWorker::Failed {
            text: "the filter rules of the module cannot be used".to_owned(),
            log: error.to_string(),
        })?),
        None => None,
    };
    let confined = confine(&setup, filter.map(Arc::new)).map_err(|error| FromWorker::Failed {
        text: error.text.to_owned(),
        log: error.log,
    })?;
    Ok(Module {
        guard: Arc::new(Guard::new(&setup.rules)),
        setup,
        confined,
        chmod,
        area: Mutex::default(),
        expected: Mutex::default(),
        registry: Registry::default(),
        known: Arc::default(),
        names: Names::default(),
        control: Mutex::new(control),
    })
}

/// Takes orders until there are no more, then ends all sessions and waits for them.
fn listen(module: &Arc<Module>, control: &UnixStream) -> io::Result<()> {
    let mut sessions = Vec::new();
    let text = loop {
        match relay_io::receive::<ToWorker>(control) {
            Ok(Some((ToWorker::Open(open), Some(socket)))) => {
                sessions.retain(|session: &thread::JoinHandle<()>| !session.is_finished());
                sessions.push(start(module, open, socket)?);
            }
            Ok(Some((ToWorker::Expect(here), _))) => {
                let expected = module.expected.lock();
                *expected.unwrap_or_else(PoisonError::into_inner) = Some(here);
            }
            Ok(Some((ToWorker::Numbers { ticket, numbers }, _))) => {
                module.names.answered(ticket, numbers);
            }
            Ok(Some((ToWorker::Close { id, text }, _))) => module.registry.close(id, &text),
            Ok(Some((ToWorker::Drain { text }, _))) => break text,
            Ok(Some((ToWorker::Open(_) | ToWorker::Setup(_), _))) => {
                return Err(io::Error::other("the front gave an order out of place"));
            }
            // The front died. Another one may serve the module by now: what this process has not
            // begun must not be done any more.
            Ok(None) => return Err(io::Error::other("the front is gone")),
            Err(error) => {
                tracing::error!(%error, "cannot read orders");
                break "the receiver is going down".to_owned();
            }
        }
    };
    module.names.close();
    module.registry.close_all(&text);
    for session in sessions {
        let _ = session.join();
    }
    Ok(())
}

fn start(
    module: &Arc<Module>,
    open: SessionOpen,
    socket: OwnedFd,
) -> io::Result<thread::JoinHandle<()>> {
    let module = Arc::clone(module);
    let socket = UnixStream::from(socket);
    // From now on a `Close` finds it, however soon it comes.
    let heard = Heard::new();
    let registry = &module.registry;
    registry.enter(open.id, socket.try_clone()?, heard.clone());
    thread::Builder::new()
        .name(format!("session {}", open.id))
        .spawn(move || {
            let ended = session::run(&module, &open, socket, heard);
            module.registry.leave(open.id);
            module.tell_front(&ended);
        })
}

fn module_name(module: &Module) -> String {
    syncd_proto::path::escaped(&module.setup.name)
}
