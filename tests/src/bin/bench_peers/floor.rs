//! What the machine itself needs for the job of a scenario: no protocol, no encryption, no digests, no ordering.
//!
//! `floor` does the work of the receiver's file system directly, knowing what has changed: the same files written under
//! other names, renamed into place, and made durable by one `syncfs` (two threads), which `floor-none` leaves out. After
//! a restart both trees are looked at once, on two processors, and one of them is watched; `floor-HAX` lists every
//! entry's attributes besides. Over a link, and for `floor-tcp`, it is the same bytes as one plain TCP stream to a
//! process that reads them and answers with one byte at the end. `floor-tls` is what a copy through TLS needs that is checked
//! and durable. `floor-hash` reads and digests the source of a large file and does nothing with it. `floor-live` follows the
//! change as it happens: one thread reads inotify and copies what was closed.
//!
//! All of this happens in processes of their own, this program again, so that what they use is counted as for every peer.
//! A worker does what the lines of its input say and answers each with a line.

mod block;
mod copy;
mod hash;
mod live;
mod scan;
mod stream;
mod tls;

use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use live::Live;
use tls::Sender;

/// The first argument of a worker; then source and mirror.
pub(crate) const WORKER: &str = "floor-worker";
/// The first argument of what a stream goes to; then the address where it listens.
pub(crate) const SINK: &str = "floor-sink";
/// The first argument of what a tree goes to through TLS; then the address where it listens, the mirror, the directory with the
/// certificates, and [`DURABLE`] if it is to be that.
pub(crate) const TLS_SINK: &str = "floor-tls-sink";
/// The last argument of such a one.
pub(crate) const DURABLE: &str = "durable";
/// What a worker answers when it has done it.
pub(crate) const DONE: &str = "done";
/// What a sink says first.
pub(crate) const READY: &str = "ready";

/// Runs as one of the floor's own processes, if the command line says so.
pub(crate) fn serve(mut arguments: impl Iterator<Item = String>) -> Option<ExitCode> {
    let role = arguments.next()?;
    let mut next = || arguments.next().unwrap_or_default();
    let result = match role.as_str() {
        WORKER => {
            let (source, mirror) = (PathBuf::from(next()), PathBuf::from(next()));
            Worker::new(source, mirror).run()
        }
        SINK => stream::sink(&next()),
        TLS_SINK => {
            let [address, mirror, certs, durable] = [next(), next(), next(), next()];
            tls::sink(
                &address,
                Path::new(&mirror),
                Path::new(&certs),
                durable == DURABLE,
            )
        }
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Does what it is told between two trees.
struct Worker {
    source: PathBuf,
    mirror: PathBuf,
    stream: Option<TcpStream>,
    sender: Option<Sender>,
    live: Option<Live>,
}

impl Worker {
    fn new(source: PathBuf, mirror: PathBuf) -> Self {
        Self {
            source,
            mirror,
            stream: None,
            sender: None,
            live: None,
        }
    }

    /// Until there is no more input.
    fn run(mut self) -> io::Result<()> {
        for line in io::stdin().lock().lines() {
            let answer = match self.obey(&line?) {
                Ok(()) => DONE.to_owned(),
                Err(error) => error.to_string(),
            };
            let mut output = io::stdout().lock();
            writeln!(output, "{answer}")?;
            output.flush()?;
        }
        Ok(())
    }

    fn obey(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let names: Vec<&str> = words.collect();
        match (verb, &mut self.stream) {
            ("write", _) => copy::copy(&self.source, &self.mirror, &names),
            ("copy", _) => {
                copy::copy(&self.source, &self.mirror, &names)?;
                copy::sync(&self.mirror)
            }
            ("hash", _) => hash::hash(&self.source, &names),
            ("scan", _) => scan::both(&self.source, &self.mirror, names == ["HAX"]),
            ("watch", _) => {
                self.live = Some(Live::watch(&self.source, &self.mirror)?);
                Ok(())
            }
            ("drain", _) => match self.live.take() {
                Some(live) => live.drain(),
                None => Err(io::Error::other("nothing is watched")),
            },
            ("connect", _) => {
                self.stream = Some(stream::connect(names.first().unwrap_or(&""))?);
                Ok(())
            }
            ("handshake", _) => {
                let [address, certs] = names[..] else {
                    return Err(io::Error::other("with whom, and with what"));
                };
                self.sender = Some(Sender::connect(address, Path::new(certs))?);
                Ok(())
            }
            ("tls", _) => match &mut self.sender {
                Some(sender) => sender.send(&self.source, &names),
                None => Err(io::Error::other("nobody is connected")),
            },
            ("send", Some(to)) => stream::send(to, &self.source, &names),
            _ => Err(io::Error::other(format!("{line}: not known"))),
        }
    }
}
